import { GuestAddressError, type GuestMemory, type GuestMemoryRegion, StateError } from "@virtkit/interface"
import { type BackedRegion, MappedRegion, sortRegions } from "./region.js"
import type { SharedMemory } from "./share.js"

/** Up to this many bytes are copied one by one, which is quicker than making the two views that a block copy needs. */
const SMALL_COPY = 48

/** Largest window that a Uint8Array is made for: all Node.js versions allow it. */
const MAX_WINDOW = 2 ** 30

/** What the cache of the last region holds when there is none: no address is in it. */
const NOWHERE = { guestAddress: 0, end: -1 } as MappedRegion

/**
 * Guest memory made of regions with any backing. Owns them: `close` releases all.
 *
 * Access within the region used last costs two comparisons and the DataView access; nothing is allocated except by
 * `read`, `write` and `fill` of more than 48 bytes, which make views. After `close` every access throws
 * {@link StateError}; buffers and views that others hold stay valid, but are no guest memory any more.
 */
export class GuestMemoryMap implements GuestMemory {
  #regions: readonly MappedRegion[]
  #last: MappedRegion
  #tracking = false
  #closed = false

  /** Throws `ConfigError` for regions that overlap or are not made of whole pages. */
  constructor(regions: readonly BackedRegion[]) {
    this.#regions = sortRegions(regions.map((region) => new MappedRegion(region)))
    this.#last = this.#regions[0] ?? NOWHERE
  }

  /** In the order of their addresses. */
  get regions(): readonly MappedRegion[] {
    return this.#regions
  }

  /** Bytes of all regions together. */
  get size(): number {
    return this.#regions.reduce((sum, region) => sum + region.size, 0)
  }

  get closed(): boolean {
    return this.#closed
  }

  contains(address: number, length: number): boolean {
    return this.#find(address, length) !== undefined
  }

  regionOf(address: number, length: number): GuestMemoryRegion | undefined {
    return this.#find(address, length)
  }

  hostAddress(address: number, length: number): number {
    const region = this.#find(address, length)
    if (region === undefined || region.hostAddress === 0) return 0
    return region.hostAddress + (address - region.guestAddress)
  }

  readUint8(address: number): number {
    const region = this.#locate(address, 1)
    return region.view.getUint8(address - region.guestAddress)
  }

  readUint16(address: number): number {
    const region = this.#locate(address, 2)
    return region.view.getUint16(address - region.guestAddress, true)
  }

  readUint32(address: number): number {
    const region = this.#locate(address, 4)
    return region.view.getUint32(address - region.guestAddress, true)
  }

  readBigUint64(address: number): bigint {
    const region = this.#locate(address, 8)
    return region.view.getBigUint64(address - region.guestAddress, true)
  }

  writeUint8(address: number, value: number): void {
    const region = this.#locate(address, 1)
    region.view.setUint8(address - region.guestAddress, value)
    if (this.#tracking) this.#mark(region, address, 1)
  }

  writeUint16(address: number, value: number): void {
    const region = this.#locate(address, 2)
    region.view.setUint16(address - region.guestAddress, value, true)
    if (this.#tracking) this.#mark(region, address, 2)
  }

  writeUint32(address: number, value: number): void {
    const region = this.#locate(address, 4)
    region.view.setUint32(address - region.guestAddress, value, true)
    if (this.#tracking) this.#mark(region, address, 4)
  }

  writeBigUint64(address: number, value: bigint): void {
    const region = this.#locate(address, 8)
    region.view.setBigUint64(address - region.guestAddress, value, true)
    if (this.#tracking) this.#mark(region, address, 8)
  }

  read(address: number, target: Uint8Array): void {
    const length = target.length
    const region = this.#locate(address, length)
    const offset = address - region.guestAddress
    if (length > SMALL_COPY) {
      target.set(new Uint8Array(region.buffer, region.byteOffset + offset, length))
      return
    }
    const view = region.view
    for (let i = 0; i < length; i++) target[i] = view.getUint8(offset + i)
  }

  write(address: number, source: Uint8Array): void {
    const length = source.length
    const region = this.#locate(address, length)
    const offset = address - region.guestAddress
    if (length > SMALL_COPY) {
      new Uint8Array(region.buffer, region.byteOffset + offset, length).set(source)
    } else {
      const view = region.view
      for (let i = 0; i < length; i++) view.setUint8(offset + i, source[i]!)
    }
    if (this.#tracking) this.#mark(region, address, length)
  }

  fill(address: number, length: number, value: number): void {
    const region = this.#locate(address, length)
    const start = region.byteOffset + (address - region.guestAddress)
    for (let done = 0; done < length; done += MAX_WINDOW) {
      new Uint8Array(region.buffer, start + done, Math.min(MAX_WINDOW, length - done)).fill(value)
    }
    if (this.#tracking) this.#mark(region, address, length)
  }

  /** Whether writes are recorded at present. */
  get dirtyTracking(): boolean {
    return this.#tracking
  }

  /** From now on writes through this object, and those told to `markDirty`, are recorded. Starts with no page marked. */
  startDirtyTracking(): void {
    this.#checkOpen()
    for (const region of this.#regions) region.startTracking()
    this.#tracking = true
  }

  stopDirtyTracking(): void {
    for (const region of this.#regions) region.dirty = undefined
    this.#tracking = false
  }

  /**
   * Adds the pages of the region at `guestAddress` that were written since the last call to `words`, and forgets them.
   * `words` has `dirtyWords(size)` elements and may hold KVM's log of the same region already.
   */
  takeDirty(guestAddress: number, words: Uint32Array): void {
    const region = this.#locate(guestAddress, 1)
    if (region.guestAddress !== guestAddress || region.dirty === undefined) {
      throw new StateError(`no dirty tracking for a memory region at 0x${guestAddress.toString(16)}`)
    }
    region.dirty.takeInto(words)
  }

  markDirty(address: number, length: number): void {
    if (!this.#tracking) return
    const region = this.#find(address, length)
    if (region !== undefined) this.#mark(region, address, length)
  }

  /**
   * What a worker needs to make a map of the same memory with `fromShared`: post it as it is. The worker's map does not
   * own the memory: it must be closed before this one. Throws {@link StateError} when a region is no SharedArrayBuffer.
   */
  share(): SharedMemory {
    this.#checkOpen()
    return {
      version: 1,
      regions: this.#regions.map(({ guestAddress, size, buffer, byteOffset, hostAddress }) => {
        if (!(buffer instanceof SharedArrayBuffer)) {
          throw new StateError(
            "guest memory on the heap can be shared only if it was made with `shared: true`",
          )
        }
        return { guestAddress, size, buffer, byteOffset, hostAddress }
      }),
    }
  }

  /** Releases the memory of all regions. Nobody may use host addresses of it any more. Idempotent. */
  close(): void {
    if (this.#closed) return
    this.#closed = true
    const regions = this.#regions
    this.#regions = []
    this.#last = NOWHERE
    this.#tracking = false
    for (const region of regions) region.release()
  }

  [Symbol.dispose](): void {
    this.close()
  }

  #locate(address: number, length: number): MappedRegion {
    const region = this.#find(address, length)
    if (region === undefined) throw new GuestAddressError(address, length)
    return region
  }

  /** Addresses are Numbers, so sums do not wrap; NaN fails every comparison; fractions would be cut off by the views. */
  #find(address: number, length: number): MappedRegion | undefined {
    const last = this.#last
    if (address >= last.guestAddress && address < last.end) {
      return inside(last, address, length) ? last : undefined
    }
    return this.#search(address, length)
  }

  #search(address: number, length: number): MappedRegion | undefined {
    this.#checkOpen()
    for (const region of this.#regions) {
      if (address >= region.guestAddress && address < region.end) {
        this.#last = region
        return inside(region, address, length) ? region : undefined
      }
    }
    return undefined
  }

  #mark(region: MappedRegion, address: number, length: number): void {
    region.dirty?.mark(address - region.guestAddress, length)
  }

  #checkOpen(): void {
    if (this.#closed) throw new StateError("guest memory was used after it was closed")
  }
}

/** Whether a range that starts in the region is whole in it (bad-input #11). */
function inside(region: MappedRegion, address: number, length: number): boolean {
  return (
    length >= 0 &&
    address + length <= region.end &&
    Math.floor(address) === address &&
    Math.floor(length) === length
  )
}
