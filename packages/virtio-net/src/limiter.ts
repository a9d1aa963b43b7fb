import { type RateLimit, TokenBuckets } from "./rate.js"

/** The rate limit of one direction of a device, with the timer that lets the queues go on. */
export class Limiter {
  readonly #resume: () => void
  #buckets: TokenBuckets | undefined
  #timer: NodeJS.Timeout | undefined

  /** `resume` is called when frames may pass again after {@link allowance} returned 0. */
  constructor(limit: RateLimit | undefined, resume: () => void) {
    this.#resume = resume
    this.set(limit)
  }

  set(limit: RateLimit | undefined): void {
    this.#buckets = limit === undefined ? undefined : new TokenBuckets(limit, performance.now())
    if (this.#timer === undefined) return
    this.stop()
    this.#resume()
  }

  get limited(): boolean {
    return this.#buckets !== undefined
  }

  /** How many packets may pass now. When 0, `resume` follows. */
  allowance(): number {
    if (this.#buckets === undefined) return Number.POSITIVE_INFINITY
    const allowed = this.#buckets.allowance(performance.now())
    if (allowed > 0 || this.#timer !== undefined) return allowed
    this.#timer = setTimeout(() => {
      this.#timer = undefined
      this.#resume()
    }, this.#buckets.wait())
    // What keeps the process alive is the VM that runs.
    this.#timer.unref()
    return 0
  }

  take(bytes: number, packets: number): void {
    this.#buckets?.take(bytes, packets)
  }

  stop(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
  }
}
