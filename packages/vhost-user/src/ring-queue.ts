import type { Chain, Queue } from "@virtkit/interface"
import type { DeviceQueue, QueueState } from "@virtkit/virtqueue"
import type { InflightLog } from "./inflight-log.js"

/** What a {@link RunningQueue} has to know of its ring. */
export interface RunningRing {
  /** Where to write down what is in flight, if the front end wants that. */
  readonly log: InflightLog | undefined
  /** Chains go back in the order in which they came. */
  readonly inOrder: boolean
  /** Up to where the driver has got chains back: used.idx, or the base that stands for it. */
  usedIndex(): number
  /**
   * Where to go on later, or undefined while the chains in flight are not exactly those that would be taken again then.
   */
  tail(): number | undefined
}

/**
 * The queue that the device gets: one of @virtkit/virtqueue that can be stopped at a moment when the ring alone says what is
 * left to do, and that writes down what is in flight if the front end wants that.
 */
export class RunningQueue implements Queue {
  readonly index: number
  readonly size: number
  readonly inner: DeviceQueue
  /** Chains that were in flight when it was made. */
  readonly resumed: number
  readonly #ring: RunningRing
  readonly #log: InflightLog | undefined
  /** With `inOrder`, chains that are written down as in flight, as they came, and which of them the device is done with. */
  readonly #order: Chain[] = []
  readonly #done = new Set<Chain>()
  #malformed = 0
  #stopping = false
  #whenStopped: ((base: number) => void) | undefined

  /** `inner` is a queue whose state was restored. */
  constructor(inner: DeviceQueue, ring: RunningRing) {
    const { inFlight } = inner.state() as QueueState
    this.index = inner.index
    this.size = inner.size
    this.inner = inner
    this.resumed = inFlight.length
    this.#ring = ring
    this.#log = ring.log
  }

  get broken(): boolean {
    return this.inner.broken
  }

  pop(): Chain | undefined {
    if (this.#stopping) return undefined
    const chain = this.inner.pop()
    const log = this.#log
    if (log !== undefined) {
      const { malformed } = this.inner.counters
      // Those went back by themselves, and with them all that was pushed.
      if (malformed !== this.#malformed) {
        this.#malformed = malformed
        log.gave()
      }
      if (chain !== undefined) {
        log.took(chain)
        if (this.#ring.inOrder) this.#order.push(chain)
      }
    }
    return chain
  }

  push(chain: Chain, written: number): void {
    if (this.#log !== undefined) this.#gives(this.#log, chain)
    this.inner.push(chain, written)
    this.#log?.given()
  }

  unpop(chain: Chain): void {
    this.inner.unpop(chain)
    this.#order.pop()
    this.#log?.unpopped(chain)
  }

  flush(): void {
    this.inner.flush()
    this.#log?.gave()
    if (this.#stopping) this.#look()
  }

  disableNotification(): void {
    if (!this.#stopping) this.inner.disableNotification()
  }

  enableNotification(): boolean {
    return !this.#stopping && this.inner.enableNotification()
  }

  /**
   * Hands out nothing more, waits until what is in flight is the tail of the ring, and lets go of it. Resolves when the
   * queue is closed, to where to go on.
   */
  stop(): Promise<number> {
    this.#stopping = true
    return new Promise((resolve) => {
      this.#whenStopped = resolve
      this.#look()
    })
  }

  /** Lets go of the ring at once; what is in flight stays written down as that. */
  abandon(): void {
    this.#stopping = true
    this.inner.close()
    this.#whenStopped?.(0)
    this.#whenStopped = undefined
  }

  /** With `inOrder` a chain goes back with all that came before it, not sooner. */
  #gives(log: InflightLog, chain: Chain): void {
    if (!this.#ring.inOrder) {
      log.gives(chain)
      return
    }
    this.#done.add(chain)
    while (this.#done.delete(this.#order[0]!)) log.gives(this.#order.shift()!)
  }

  #look(): void {
    if (this.#whenStopped === undefined) return
    if (!this.broken) {
      this.inner.flush()
      this.#log?.gave()
    }
    // Nothing good comes of a broken ring, and nobody waits for it.
    const base = this.broken ? this.#ring.usedIndex() : this.#ring.tail()
    if (base === undefined) return
    this.inner.close()
    this.#log?.clear()
    this.#whenStopped(base)
    this.#whenStopped = undefined
  }
}
