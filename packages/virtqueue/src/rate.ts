/** What may pass in a second. Absent: no limit. */
export interface Rate {
  readonly bytesPerSecond?: number
  /** Packets, requests, whatever is counted. */
  readonly unitsPerSecond?: number
  /** How much may pass at once after a pause, as the time in which the rate would allow it. Default 50. */
  readonly burstMs?: number
}

const BYTES = 0
const UNITS = 1
const AT = 2

/**
 * Two token buckets. What passes is subtracted after it passed, so that a unit with more bytes than the bucket passes too;
 * the debt is waited for. Time is in milliseconds, from any start.
 */
export class TokenBuckets {
  readonly #bytesPerMs: number
  readonly #unitsPerMs: number
  readonly #bytesMost: number
  readonly #unitsMost: number
  /** BYTES and UNITS that may pass, as of AT. */
  readonly #state: Float64Array

  /** Full at `now`; with `state`, of 3 elements, as full as that says. */
  constructor(rate: Rate, now: number, state?: Float64Array) {
    const burst = rate.burstMs ?? 50
    this.#bytesPerMs = (rate.bytesPerSecond ?? Number.POSITIVE_INFINITY) / 1000
    this.#unitsPerMs = (rate.unitsPerSecond ?? Number.POSITIVE_INFINITY) / 1000
    this.#bytesMost = this.#bytesPerMs * burst
    // Less than one would never be enough for a unit.
    this.#unitsMost = Math.max(1, this.#unitsPerMs * burst)
    this.#state = state ?? new Float64Array(3)
    if (state === undefined) this.fill(now)
  }

  fill(now: number): void {
    this.#state[BYTES] = this.#bytesMost
    this.#state[UNITS] = this.#unitsMost
    this.#state[AT] = now
  }

  /** How many units may pass at `now`; infinity without a limit for them. */
  allowance(now: number): number {
    const state = this.#state
    const passed = now - state[AT]!
    // Infinity times 0 is no number.
    if (passed > 0) {
      state[AT] = now
      state[BYTES] = Math.min(this.#bytesMost, state[BYTES]! + passed * this.#bytesPerMs)
      state[UNITS] = Math.min(this.#unitsMost, state[UNITS]! + passed * this.#unitsPerMs)
    }
    return state[BYTES]! > 0 ? Math.max(0, Math.floor(state[UNITS]!)) : 0
  }

  take(bytes: number, units: number): void {
    const state = this.#state
    if (this.#bytesPerMs !== Number.POSITIVE_INFINITY) state[BYTES] = state[BYTES]! - bytes
    if (this.#unitsPerMs !== Number.POSITIVE_INFINITY) state[UNITS] = state[UNITS]! - units
  }

  /** Milliseconds until the next unit may pass, as of the last `allowance`; at least 1. */
  wait(): number {
    const [bytes = 0, units = 0] = this.#state
    const forBytes = bytes > 0 ? 0 : -bytes / this.#bytesPerMs
    const forUnits = units >= 1 ? 0 : (1 - units) / this.#unitsPerMs
    return Math.max(1, Math.ceil(Math.max(forBytes, forUnits)))
  }
}
