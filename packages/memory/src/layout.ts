import { ConfigError } from "@virtkit/interface"

/** Bytes of a guest page, and of a bit in a dirty bitmap. */
export const PAGE_SIZE = 4096

/** Where RAM below 4 GiB ends at the latest: devices, interrupt controllers and firmware tables live above. */
export const RAM_HOLE_START = 0xc000_0000

/** Where RAM goes on that does not fit below the hole. */
export const RAM_HOLE_END = 0x1_0000_0000

/** Largest guest memory that `layoutRam` accepts: 64 TiB, half of what a process can address. */
export const MAX_RAM_SIZE: number = 2 ** 46

/** A range of guest RAM that has no memory yet. Bytes. */
export interface RegionLayout {
  readonly guestAddress: number
  readonly size: number
}

/**
 * Lays `sizeBytes` of RAM out as PCs do: from 0 up to 3 GiB, and what is left from 4 GiB up.
 *
 * `sizeBytes` is a multiple of 4096, at most {@link MAX_RAM_SIZE}. Throws {@link ConfigError}.
 */
export function layoutRam(sizeBytes: number): RegionLayout[] {
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes <= 0 || sizeBytes % PAGE_SIZE !== 0) {
    throw new ConfigError(`memory size must be a positive multiple of ${PAGE_SIZE} bytes, not ${sizeBytes}`)
  }
  if (sizeBytes > MAX_RAM_SIZE) {
    throw new ConfigError(`memory size must be at most ${MAX_RAM_SIZE / 2 ** 40} TiB, not ${sizeBytes} bytes`)
  }
  const low = Math.min(sizeBytes, RAM_HOLE_START)
  const layout: RegionLayout[] = [{ guestAddress: 0, size: low }]
  if (sizeBytes > low) layout.push({ guestAddress: RAM_HOLE_END, size: sizeBytes - low })
  return layout
}
