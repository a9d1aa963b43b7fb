/** A token bucket: `rate` tokens per second flow in, `burst` at most are kept, and it starts full. */
export class TokenBucket {
  readonly rate: number
  readonly burst: number
  #tokens: number
  /** ms on the monotonic clock. */
  #filled: number

  constructor(rate: number, burst: number) {
    this.rate = rate
    this.burst = burst
    this.#tokens = burst
    this.#filled = performance.now()
  }

  /** Takes `count` tokens, at most `burst`, and returns 0; or takes none and returns the ms until there will be enough. */
  take(count: number): number {
    const now = performance.now()
    this.#tokens = Math.min(this.burst, this.#tokens + ((now - this.#filled) * this.rate) / 1000)
    this.#filled = now
    const missing = count - this.#tokens
    // Sums of fractions: what is missing by less than a thousandth is there.
    if (missing > 1e-3) return Math.ceil((missing * 1000) / this.rate)
    this.#tokens -= count
    return 0
  }
}
