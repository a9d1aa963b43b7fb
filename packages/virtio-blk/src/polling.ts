/** The shortest time that is worth looking for, milliseconds: below it the event loop is as quick. */
const LEAST_MS = 0.004

/**
 * For how long a device looks for work by itself after it ran out of it, instead of having the event loop wait for a doorbell: as
 * long as that would have found the next work lately, and not at all when it would not. QEMU's I/O threads do the same.
 */
export class PollWindow {
  readonly #most: number
  /** Milliseconds. */
  #window = 0
  readonly #clock: Float64Array
  /** When there was work last. */
  #lastWork = Number.NEGATIVE_INFINITY

  /** `most`: the longest window, microseconds. `clock`: see BlockBackend; performance.now() would allocate what it returns. */
  constructor(most: number, clock: Float64Array) {
    this.#most = most / 1000
    this.#clock = clock
  }

  /** Milliseconds after the last work. */
  get length(): number {
    return this.#window
  }

  /** Work came by a doorbell or a completion. */
  woken(): void {
    if (this.#clock[0]! - this.#lastWork <= this.#most) {
      this.#window = Math.min(this.#most, Math.max(LEAST_MS, 2 * this.#window))
    } else {
      this.#window = this.#window < 2 * LEAST_MS ? 0 : this.#window / 2
    }
  }

  /** There is some. */
  worked(): void {
    this.#lastWork = this.#clock[0]!
  }
}
