import type { ExternalQueue } from "@virtkit/interface"
import { EventFd, Poller } from "@virtkit/native"

/** The eventfds of one queue, which both sides have for as long as the device lives. */
export interface EventsOfQueue {
  /** The driver made buffers available. */
  readonly kick: EventFd
  /** The back end used some. */
  readonly call: EventFd
  /** The back end cannot go on with that queue. */
  readonly err: EventFd
}

/** The eventfds of all queues, and what becomes of those signals that the kernel does not deliver. */
export class QueueEvents {
  readonly queues: readonly EventsOfQueue[]
  /** Watches calls as token 2 i and errors as 2 i + 1. */
  readonly #poller: Poller
  readonly #onError: (queue: number) => void
  /** Of the driver that is there. */
  #external: readonly (ExternalQueue | undefined)[] = []
  /** By queue: its calls reach the guest without this process. */
  #direct: boolean[] = []

  /** `onError`: the back end cannot go on with that queue. */
  constructor(queues: number, onError: (queue: number) => void) {
    this.#onError = onError
    this.queues = Array.from({ length: queues }, () => ({
      kick: new EventFd(),
      call: new EventFd(),
      err: new EventFd(),
    }))
    this.#poller = new Poller((count) => this.#ready(count))
    // What keeps the process alive is the VM that runs.
    this.#poller.unref()
  }

  /** Calls are interrupts of these queues from now on. */
  connect(external: readonly (ExternalQueue | undefined)[]): void {
    this.#external = external
    const direct: boolean[] = []
    this.#direct = direct
    for (const [index, queue] of external.entries()) {
      if (queue === undefined) continue
      const { call, err } = this.queues[index]!
      // Signals for the driver of before.
      call.clear()
      err.clear()
      this.#poller.add(call.fd, 2 * index)
      this.#poller.add(err.fd, 2 * index + 1)
      queue.connect(call.fd, (isDirect) => {
        if (this.#direct === direct) this.#setDirect(index, isDirect)
      })
    }
  }

  /** Calls are nothing from now on. */
  disconnect(): void {
    this.#external = []
    this.#direct = []
    for (const { call, err } of this.queues) {
      this.#poller.remove(call.fd)
      this.#poller.remove(err.fd)
    }
  }

  /**
   * Tells a back end of what became available before it had the queues. `again`: it is not the first, and what another has
   * done and did not tell of is told to the driver.
   */
  started(again: boolean): void {
    for (const [index, queue] of this.#external.entries()) {
      if (queue === undefined) continue
      this.queues[index]!.kick.signal()
      if (again) this.queues[index]!.call.signal()
    }
  }

  kick(index: number): void {
    this.queues[index]?.kick.signal()
  }

  close(): void {
    this.disconnect()
    this.#poller.close()
    for (const events of this.queues) for (const event of Object.values(events)) event.close()
  }

  #setDirect(index: number, direct: boolean): void {
    if ((this.#direct[index] ?? false) === direct) return
    this.#direct[index] = direct
    const { fd } = this.queues[index]!.call
    // One that is added is reported if it was signalled before.
    if (direct) this.#poller.remove(fd)
    else this.#poller.add(fd, 2 * index)
  }

  #ready(count: number): void {
    const { tokens } = this.#poller
    for (let i = 0; i < count; i++) {
      const index = tokens[i]! >>> 1
      const { call, err } = this.queues[index]!
      if ((tokens[i]! & 1) === 1) {
        if (err.clear()) this.#onError(index)
      } else if (call.clear()) this.#external[index]?.interrupt()
    }
  }
}
