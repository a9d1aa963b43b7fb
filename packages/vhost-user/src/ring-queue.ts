import type { Chain, Queue } from "@virtkit/interface"
import type { DeviceQueue } from "@virtkit/virtqueue"
import type { InflightQueue } from "./inflight.js"

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
  readonly #inflight: InflightQueue | undefined
  readonly #usedIndex: () => number
  readonly #tail: () => number | undefined
  #malformed = 0
  #stopping = false
  #whenStopped: ((base: number) => void) | undefined

  /**
   * `resumed`: how many chains `inner` has in flight already. `usedIndex` reads used.idx. `tail` gives where in the available ring to go on later, or undefined while the chains in
   * flight are not exactly those that would be taken again then.
   */
  constructor(
    inner: DeviceQueue,
    inflight: InflightQueue | undefined,
    resumed: number,
    usedIndex: () => number,
    tail: () => number | undefined,
  ) {
    this.index = inner.index
    this.size = inner.size
    this.inner = inner
    this.#inflight = inflight
    this.resumed = resumed
    this.#usedIndex = usedIndex
    this.#tail = tail
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
        inflight.gave(this.#usedIndex())
      }
      if (chain !== undefined) inflight.took(chain.head)
    }
    return chain
  }

  push(chain: Chain, written: number): void {
    this.#inflight?.gives(chain.head)
    this.inner.push(chain, written)
  }

  unpop(chain: Chain): void {
    this.inner.unpop(chain)
  }

  flush(): void {
    this.inner.flush()
    this.#inflight?.gave(this.#usedIndex())
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

  #look(): void {
    if (this.#whenStopped === undefined) return
    if (!this.broken) {
      this.inner.flush()
      this.#inflight?.gave(this.#usedIndex())
    }
    // Nothing good comes of a broken ring, and nobody waits for it.
    const base = this.broken ? this.#usedIndex() : this.#tail()
    if (base === undefined) return
    this.inner.close()
    this.#inflight?.clear()
    this.#whenStopped(base)
    this.#whenStopped = undefined
  }
}
