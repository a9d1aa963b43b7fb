import { type Rate, TokenBuckets } from "./rate.js"

const FREE = 0
const TAKEN = 1
/** Somebody waits for it. */
const AWAITED = 2

const LOCK_BYTES = 8
const STATE_LENGTH = 3

/**
 * One rate limit for several threads, each of which has a `Limiter`: what passes in any of them is taken from the same token
 * buckets. Post `buffer` to make it known elsewhere.
 */
export class SharedLimit {
  readonly buffer: SharedArrayBuffer
  readonly #lock: Int32Array
  readonly #state: Float64Array
  /** From the time of this thread, which starts with it, to that of all. */
  readonly #offset: number

  /** `buffer`: that of another thread's. */
  constructor(buffer?: SharedArrayBuffer) {
    this.buffer = buffer ?? new SharedArrayBuffer(LOCK_BYTES + STATE_LENGTH * Float64Array.BYTES_PER_ELEMENT)
    this.#lock = new Int32Array(this.buffer, 0, 1)
    this.#state = new Float64Array(this.buffer, LOCK_BYTES, STATE_LENGTH)
    this.#offset = Number(process.hrtime.bigint() / 1000n) / 1000 - performance.now()
  }

  /** Milliseconds, the same in all threads. */
  now(): number {
    return performance.now() + this.#offset
  }

  /** The buckets are full. One thread does that, before others have buckets of that rate. */
  fill(rate: Rate): void {
    this.bucketsOf(rate).fill(this.now())
  }

  /** As full as they are. */
  bucketsOf(rate: Rate): TokenBuckets {
    return new LockedBuckets(rate, this.#state, this.#lock)
  }
}

/** Token buckets of several threads. The lock is held for a few additions. */
class LockedBuckets extends TokenBuckets {
  readonly #lock: Int32Array

  constructor(rate: Rate, state: Float64Array, lock: Int32Array) {
    super(rate, 0, state)
    this.#lock = lock
  }

  override fill(now: number): void {
    this.#acquire()
    super.fill(now)
    this.#release()
  }

  override allowance(now: number): number {
    this.#acquire()
    const allowed = super.allowance(now)
    this.#release()
    return allowed
  }

  override take(bytes: number, units: number): void {
    this.#acquire()
    super.take(bytes, units)
    this.#release()
  }

  override wait(): number {
    this.#acquire()
    const ms = super.wait()
    this.#release()
    return ms
  }

  #acquire(): void {
    if (Atomics.compareExchange(this.#lock, 0, FREE, TAKEN) === FREE) return
    while (Atomics.exchange(this.#lock, 0, AWAITED) !== FREE) Atomics.wait(this.#lock, 0, AWAITED)
  }

  #release(): void {
    if (Atomics.exchange(this.#lock, 0, FREE) === AWAITED) Atomics.notify(this.#lock, 0, 1)
  }
}
