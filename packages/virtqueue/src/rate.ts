/** What may pass in a second. Absent: no limit. */
export interface Rate {
  readonly bytesPerSecond?: number
  /** Packets, requests, whatever is counted. */
  readonly unitsPerSecond?: number
  /** How much may pass at once after a pause, as the time in which the rate would allow it. Default 50. */
  readonly burstMs?: number
}

/**
 * Two token buckets. What passes is subtracted after it passed, so that a unit with more bytes than the bucket passes too;
 * the debt is waited for. Time is in milliseconds, from any start.
 */
export class TokenBuckets {
  readonly #bytesPerMs: number
  readonly #unitsPerMs: number
  readonly #bytesMost: number
  readonly #unitsMost: number
  #bytes: number
  #units: number
  #at: number

  constructor(rate: Rate, now: number) {
    const burst = rate.burstMs ?? 50
    this.#bytesPerMs = (rate.bytesPerSecond ?? Number.POSITIVE_INFINITY) / 1000
    this.#unitsPerMs = (rate.unitsPerSecond ?? Number.POSITIVE_INFINITY) / 1000
    this.#bytesMost = this.#bytesPerMs * burst
    // Less than one would never be enough for a unit.
    this.#unitsMost = Math.max(1, this.#unitsPerMs * burst)
    this.#bytes = this.#bytesMost
    this.#units = this.#unitsMost
    this.#at = now
  }

  /** How many units may pass at `now`; infinity without a limit for them. */
  allowance(now: number): number {
    const passed = now - this.#at
    // Infinity times 0 is no number.
    if (passed > 0) {
      this.#at = now
      this.#bytes = Math.min(this.#bytesMost, this.#bytes + passed * this.#bytesPerMs)
      this.#units = Math.min(this.#unitsMost, this.#units + passed * this.#unitsPerMs)
    }
    return this.#bytes > 0 ? Math.max(0, Math.floor(this.#units)) : 0
  }

  take(bytes: number, units: number): void {
    if (this.#bytesPerMs !== Number.POSITIVE_INFINITY) this.#bytes -= bytes
    if (this.#unitsPerMs !== Number.POSITIVE_INFINITY) this.#units -= units
  }

  /** Milliseconds until the next unit may pass, as of the last `allowance`; at least 1. */
  wait(): number {
    const forBytes = this.#bytes > 0 ? 0 : -this.#bytes / this.#bytesPerMs
    const forUnits = this.#units >= 1 ? 0 : (1 - this.#units) / this.#unitsPerMs
    return Math.max(1, Math.ceil(Math.max(forBytes, forUnits)))
  }
}
