/** The shortest time that is worth looking for, milliseconds: below it the event loop is as quick. */
const LEAST_MS = 0.004
/** Looks this long in one turn of the event loop at most; then others have theirs (bad-input #34). */
const TURN_MS = 0.5

/**
 * For how long a device looks for work by itself after it ran out of it, instead of having the event loop wait for a doorbell: as
 * long as that would have found the next work lately, and not at all when it would not. QEMU's I/O threads do the same.
 */
export class PollWindow {
  readonly #most: number
  /** Milliseconds. */
  #window = 0
  /** When the last look ended, in vain. */
  #ended = Number.NEGATIVE_INFINITY

  /** `most`: the longest window, microseconds. */
  constructor(most: number) {
    this.#most = most / 1000
  }

  /** Milliseconds after the last work. */
  get length(): number {
    return this.#window
  }

  get turn(): number {
    return TURN_MS
  }

  /** Work came by a doorbell or a completion. */
  woken(now: number): void {
    if (now - this.#ended <= this.#most) {
      this.#window = Math.min(this.#most, Math.max(LEAST_MS, 2 * this.#window))
    } else {
      this.#window = this.#window < 2 * LEAST_MS ? 0 : this.#window / 2
    }
  }

  /** There was none for so long. */
  endedAt(now: number): void {
    this.#ended = now - this.#window
  }
}
