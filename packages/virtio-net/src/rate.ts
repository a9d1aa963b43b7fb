import { ConfigError } from "@virtkit/interface"

/** A limit for one direction of a device, all queues together. Absent: no limit. */
export interface RateLimit {
  /** Bytes of Ethernet frames: 12_500_000 is 100 Mbit/s. */
  readonly bytesPerSecond?: number
  /** Packets as on a wire: a frame that is to be cut into segments counts for so many. */
  readonly packetsPerSecond?: number
  /** How much may pass at once after a pause, as the time in which the rate would allow it. Default 50. */
  readonly burstMs?: number
}

/** Throws ConfigError. */
export function checkRateLimit(what: string, limit: RateLimit): RateLimit {
  for (const key of ["bytesPerSecond", "packetsPerSecond", "burstMs"] as const) {
    const value = limit[key]
    if (value !== undefined && !(Number.isFinite(value) && value > 0)) {
      throw new ConfigError(`${what}: ${key} must be a positive number, not ${value}`)
    }
  }
  return limit
}

/**
 * Two token buckets. What passes is subtracted after it passed, so that a frame larger than the bucket passes too; the
 * debt is waited for. Time is in milliseconds, from any start.
 */
export class TokenBuckets {
  readonly #bytesPerMs: number
  readonly #packetsPerMs: number
  readonly #bytesMost: number
  readonly #packetsMost: number
  #bytes: number
  #packets: number
  #at: number

  constructor(limit: RateLimit, now: number) {
    const burst = limit.burstMs ?? 50
    this.#bytesPerMs = (limit.bytesPerSecond ?? Number.POSITIVE_INFINITY) / 1000
    this.#packetsPerMs = (limit.packetsPerSecond ?? Number.POSITIVE_INFINITY) / 1000
    this.#bytesMost = this.#bytesPerMs * burst
    // Less than one would never be enough for a packet.
    this.#packetsMost = Math.max(1, this.#packetsPerMs * burst)
    this.#bytes = this.#bytesMost
    this.#packets = this.#packetsMost
    this.#at = now
  }

  /** How many packets may pass at `now`; infinity without a limit for packets. */
  allowance(now: number): number {
    const passed = now - this.#at
    // Infinity times 0 is no number.
    if (passed > 0) {
      this.#at = now
      this.#bytes = Math.min(this.#bytesMost, this.#bytes + passed * this.#bytesPerMs)
      this.#packets = Math.min(this.#packetsMost, this.#packets + passed * this.#packetsPerMs)
    }
    return this.#bytes > 0 ? Math.max(0, Math.floor(this.#packets)) : 0
  }

  take(bytes: number, packets: number): void {
    if (this.#bytesPerMs !== Number.POSITIVE_INFINITY) this.#bytes -= bytes
    if (this.#packetsPerMs !== Number.POSITIVE_INFINITY) this.#packets -= packets
  }

  /** Milliseconds until the next packet may pass, as of the last `allowance`; at least 1. */
  wait(): number {
    const forBytes = this.#bytes > 0 ? 0 : -this.#bytes / this.#bytesPerMs
    const forPackets = this.#packets >= 1 ? 0 : (1 - this.#packets) / this.#packetsPerMs
    return Math.max(1, Math.ceil(Math.max(forBytes, forPackets)))
  }
}
