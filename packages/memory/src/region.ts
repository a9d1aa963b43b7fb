import { ConfigError, type GuestMemoryRegion } from "@virtkit/interface"
import { DirtyBitmap } from "./dirty.js"
import { PAGE_SIZE } from "./layout.js"

/** A region whose memory somebody owns. Made by the functions of a backing, handed to a {@link GuestMemoryMap}. */
export interface BackedRegion extends GuestMemoryRegion {
  /** Gives the memory back. Idempotent. */
  release(): void
}

/**
 * A region made ready for access: one DataView over it all (a DataView may exceed 4 GiB, a Uint8Array may not on
 * Node.js 20), its bounds, its dirty bitmap while tracking is on.
 */
export class MappedRegion implements GuestMemoryRegion {
  readonly guestAddress: number
  readonly size: number
  readonly buffer: ArrayBufferLike
  readonly byteOffset: number
  readonly hostAddress: number
  readonly file: GuestMemoryRegion["file"]
  /** First guest address past the region. */
  readonly end: number
  readonly view: DataView
  dirty: DirtyBitmap | undefined = undefined
  readonly #release: () => void

  constructor(region: BackedRegion) {
    checkRegion(region)
    this.guestAddress = region.guestAddress
    this.size = region.size
    this.buffer = region.buffer
    this.byteOffset = region.byteOffset
    this.hostAddress = region.hostAddress
    this.file = region.file
    this.end = region.guestAddress + region.size
    this.view = new DataView(region.buffer, region.byteOffset, region.size)
    this.#release = () => region.release()
  }

  startTracking(): void {
    this.dirty = new DirtyBitmap(this.size)
  }

  release(): void {
    this.#release()
  }
}

function checkRegion(region: GuestMemoryRegion): void {
  const { guestAddress, size } = region
  if (!Number.isSafeInteger(guestAddress) || guestAddress < 0 || guestAddress % PAGE_SIZE !== 0) {
    throw new ConfigError(
      `guest address ${guestAddress} of a memory region is not a multiple of ${PAGE_SIZE}`,
    )
  }
  if (!Number.isSafeInteger(guestAddress + size) || size <= 0 || size % PAGE_SIZE !== 0) {
    throw new ConfigError(`size ${size} of a memory region is not a positive multiple of ${PAGE_SIZE}`)
  }
}

/** Sorts regions by address; throws {@link ConfigError} when two overlap. */
export function sortRegions(regions: readonly MappedRegion[]): MappedRegion[] {
  const sorted = [...regions].sort((a, b) => a.guestAddress - b.guestAddress)
  for (let i = 1; i < sorted.length; i++) {
    const [before, after] = [sorted[i - 1]!, sorted[i]!]
    if (before.end > after.guestAddress) {
      throw new ConfigError(
        `memory region at 0x${after.guestAddress.toString(16)} overlaps the one at 0x${before.guestAddress.toString(16)}`,
      )
    }
  }
  return sorted
}
