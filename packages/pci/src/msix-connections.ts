import type { PciMsi } from "./host.js"

/** An eventfd whose signals are those of a vector. */
interface Connection {
  readonly fd: number
  readonly changed: (direct: boolean) => void
  /** Set while the kernel sends the message of the vector by itself. */
  end: (() => void) | undefined
}

/**
 * The eventfds that are connected to vectors of a function. The kernel serves those whose vector a signal would leave by at
 * once; for a masked one, say, somebody has to look at the eventfd and set the pending bit.
 */
export class MsixConnections {
  readonly #live: (vector: number) => PciMsi | undefined
  readonly #byVector = new Map<number, Set<Connection>>()

  /** `live`: the message of a vector, while a signal of that is not held back. */
  constructor(live: (vector: number) => PciMsi | undefined) {
    this.#live = live
  }

  /** Returns what ends it, without a call of `changed`. */
  add(vector: number, fd: number, changed: (direct: boolean) => void): () => void {
    const connection: Connection = { fd, changed, end: undefined }
    const others = this.#byVector.get(vector) ?? new Set()
    this.#byVector.set(vector, others.add(connection))
    this.#update(vector, connection)
    return () => {
      others.delete(connection)
      if (others.size === 0 && this.#byVector.get(vector) === others) this.#byVector.delete(vector)
      connection.end?.()
      connection.end = undefined
    }
  }

  /** Called after everything by which a vector, or any, may have become live or not. */
  update(vector?: number): void {
    if (this.#byVector.size === 0) return
    for (const [each, connections] of this.#byVector) {
      if (vector !== undefined && each !== vector) continue
      for (const connection of connections) this.#update(each, connection)
    }
  }

  #update(vector: number, connection: Connection): void {
    const message = this.#live(vector)
    if ((message === undefined) === (connection.end === undefined)) return
    if (message === undefined) {
      connection.end?.()
      connection.end = undefined
      connection.changed(false)
    } else {
      connection.end = message.connectFd?.(connection.fd)
      if (connection.end !== undefined) connection.changed(true)
    }
  }
}
