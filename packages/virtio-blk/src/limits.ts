import { ConfigError } from "@virtkit/interface"
import type { Rate } from "@virtkit/virtqueue"

/** What a disk may do in a second, all its queues together. Absent: no limit. */
export interface BlockLimits {
  /** Bytes read and written. */
  readonly bytesPerSecond?: number
  /** Requests of every kind but that for the serial number, whatever their size. */
  readonly operationsPerSecond?: number
  /** How much may pass at once after a pause, as the time in which the rate would allow it. Default 50. */
  readonly burstMs?: number
}

/** As the token buckets count. Throws ConfigError. */
export function rateOf(name: string, limits: BlockLimits | undefined): Rate | undefined {
  if (limits === undefined) return undefined
  const { bytesPerSecond, operationsPerSecond, burstMs } = limits
  for (const [key, value] of Object.entries({ bytesPerSecond, operationsPerSecond, burstMs })) {
    if (value !== undefined && !(Number.isFinite(value) && value > 0))
      throw new ConfigError(`disk ${name}: ${key} must be a positive number, not ${value}`)
  }
  if (bytesPerSecond === undefined && operationsPerSecond === undefined) return undefined
  return {
    ...(bytesPerSecond === undefined ? {} : { bytesPerSecond }),
    ...(operationsPerSecond === undefined ? {} : { unitsPerSecond: operationsPerSecond }),
    ...(burstMs === undefined ? {} : { burstMs }),
  }
}
