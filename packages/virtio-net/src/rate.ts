import { ConfigError } from "@virtkit/interface"
import type { Rate } from "@virtkit/virtqueue"

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

/** As the token buckets count: a unit is a packet. */
export function rateOf(limit: RateLimit | undefined): Rate | undefined {
  if (limit === undefined) return undefined
  const { bytesPerSecond, packetsPerSecond, burstMs } = limit
  return {
    ...(bytesPerSecond === undefined ? {} : { bytesPerSecond }),
    ...(packetsPerSecond === undefined ? {} : { unitsPerSecond: packetsPerSecond }),
    ...(burstMs === undefined ? {} : { burstMs }),
  }
}
