import type { Chain, Queue } from "@virtkit/interface"
import type { DeviceQueue, QueueState } from "@virtkit/virtqueue"
import type { InflightQueue } from "./inflight.js"

/** What a {@link RunningQueue} has to know of its ring. */
export interface RunningRing {
  /** Where to write down what is in flight, if the front end wants that. */
  readonly inflight: InflightQueue | undefined
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
  readonly #inflight: InflightQueue | undefined
  /** With `inOrder`, heads that are written down as in flight, as they came, and which of them the device is done with. */
  readonly #heads: number[] = []
  readonly #done: Uint8Array
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
    this.#inflight = ring.inflight
    this.#done = new Uint8Array(inner.size)
  }

  get broken(): boolean {
    return this.inner.broken
  }

  pop(): Chain | undefined {
    if (this.#stopping) return undefined
    const chain = this.inner.pop()
    const inflight = this.#inflight
    if (inflight !== undefined) {
      const { malformed } = this.inner.counters
      // Those went back by themselves, and with them all that was pushed.
      if (malformed !== this.#malformed) {
        this.#malformed = malformed
        inflight.gave(this.#ring.usedIndex())
      }
      if (chain !== undefined) {
        inflight.took(chain.head)
        if (this.#ring.inOrder) this.#heads.push(chain.head)
      }
    }
    return chain
  }

  push(chain: Chain, written: number): void {
    if (this.#inflight !== undefined) this.#gives(this.#inflight, chain.head)
    this.inner.push(chain, written)
  }

  unpop(chain: Chain): void {
    this.#heads.pop()
    this.inner.unpop(chain)
  }

  flush(): void {
    this.inner.flush()
    this.#inflight?.gave(this.#ring.usedIndex())
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
  #gives(inflight: InflightQueue, head: number): void {
    if (!this.#ring.inOrder) {
      inflight.gives(head)
      return
    }
    this.#done[head] = 1
    while (this.#heads.length > 0 && this.#done[this.#heads[0]!] === 1) {
      const first = this.#heads.shift()!
      this.#done[first] = 0
      inflight.gives(first)
    }
  }

  #look(): void {
    if (this.#whenStopped === undefined) return
    if (!this.broken) {
      this.inner.flush()
      this.#inflight?.gave(this.#ring.usedIndex())
    }
    // Nothing good comes of a broken ring, and nobody waits for it.
    const base = this.broken ? this.#ring.usedIndex() : this.#ring.tail()
    if (base === undefined) return
    this.inner.close()
    this.#inflight?.clear()
    this.#whenStopped(base)
    this.#whenStopped = undefined
  }
}
