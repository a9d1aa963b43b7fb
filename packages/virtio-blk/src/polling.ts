/** The shortest time that is worth looking for, milliseconds: below it the event loop is as quick. */
const LEAST_MS = 0.004

const WINDOW = 0
const LAST_WORK = 1

/**
 * For how long a device looks for work by itself after it ran out of it, instead of having the event loop wait for a doorbell: as
 * long as that would have found the next work lately, and not at all when it would not. QEMU's I/O threads do the same.
 */
export class PollWindow {
  readonly #most: number
  readonly #clock: Float64Array
  /** The window, and when there was work last; milliseconds. In an array, because fields that are no small integers may be allocated at each change. */
  readonly #state: Float64Array = Float64Array.of(0, Number.NEGATIVE_INFINITY)

  /** `most`: the longest window, microseconds. `clock`: see BlockBackend; performance.now() would allocate what it returns. */
  constructor(most: number, clock: Float64Array) {
    this.#most = most / 1000
    this.#clock = clock
  }

  /** Milliseconds after the last work. */
  get length(): number {
    return this.#state[WINDOW]!
  }

  /** Work came by a doorbell or a completion. */
  woken(): void {
    const state = this.#state
    const window = state[WINDOW]!
    if (this.#clock[0]! - state[LAST_WORK]! <= this.#most) {
      state[WINDOW] = Math.min(this.#most, Math.max(LEAST_MS, 2 * window))
    } else {
      state[WINDOW] = window < 2 * LEAST_MS ? 0 : window / 2
    }
  }

  /** There is some. */
  worked(): void {
    this.#state[LAST_WORK] = this.#clock[0]!
  }
}
