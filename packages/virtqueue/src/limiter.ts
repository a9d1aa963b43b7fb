import { type Rate, TokenBuckets } from "./rate.js"
import type { SharedLimit } from "./shared-limit.js"

/** The rate limit of a device, or of one direction of it, with the timer that lets its queues go on. */
export class Limiter {
  readonly #resume: () => void
  readonly #shared: SharedLimit | undefined
  #buckets: TokenBuckets | undefined
  #timer: NodeJS.Timeout | undefined

  /**
   * `resume` is called when something may pass again after {@link allowance} returned 0. `shared`: what passes elsewhere
   * counts, too; whoever has all of it has filled it for this limit.
   */
  constructor(limit: Rate | undefined, resume: () => void, shared?: SharedLimit) {
    this.#resume = resume
    this.#shared = shared
    this.set(limit)
  }

  set(limit: Rate | undefined): void {
    if (limit === undefined) this.#buckets = undefined
    else this.#buckets = this.#shared?.bucketsOf(limit) ?? new TokenBuckets(limit, this.#now())
    if (this.#timer === undefined) return
    this.stop()
    this.#resume()
  }

  get limited(): boolean {
    return this.#buckets !== undefined
  }

  /** How many units may pass now. When 0, `resume` follows. */
  allowance(): number {
    if (this.#buckets === undefined) return Number.POSITIVE_INFINITY
    const allowed = this.#buckets.allowance(this.#now())
    if (allowed < 1 && this.#timer === undefined) this.#arm(this.#buckets)
    return allowed
  }

  #arm(buckets: TokenBuckets): void {
    this.#timer = setTimeout(() => {
      this.#timer = undefined
      // Timers may be early by a part of a millisecond.
      if (buckets.allowance(this.#now()) < 1) this.#arm(buckets)
      else this.#resume()
    }, buckets.wait())
    // What keeps the process alive is the VM that runs.
    this.#timer.unref()
  }

  take(bytes: number, units: number): void {
    this.#buckets?.take(bytes, units)
  }

  #now(): number {
    return this.#shared?.now() ?? performance.now()
  }

  stop(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
  }
}
