import type { GuestMemory, GuestMemoryRegion } from "@virtkit/interface"

const START = 0
const END = 1
const HOST = 2

/** Up to this many bytes are copied one by one, which is quicker than making the views that a block copy needs. */
const SMALL_COPY = 48

/**
 * The region of guest memory that was used last, for what happens with every request. Its methods take addresses in arrays, as chains have
 * them, and give none: V8 allocates a number above 2^31 that goes through a call, wherever it has not inlined that call.
 */
export class NearRegion {
  readonly #memory: GuestMemory
  /** Those that there were: they are others when the memory changes. */
  #regions: readonly GuestMemoryRegion[] | undefined
  #view: DataView = new DataView(new ArrayBuffer(0))
  /** Guest addresses of start and end, and the host address of the start, 0 if it has none. */
  readonly #range = new Float64Array(3)

  constructor(memory: GuestMemory) {
    this.#memory = memory
  }

  /** Copies out of buffer `index`, from its byte `skip` on; it has that many. Throws GuestAddressError. */
  read(addresses: Float64Array, lengths: Uint32Array, index: number, skip: number, target: Uint8Array): void {
    const { length } = target
    if (length > SMALL_COPY || !this.#isNear(addresses, lengths, index)) {
      this.#memory.read(addresses[index]! + skip, target)
      return
    }
    const view = this.#view
    const offset = addresses[index]! - this.#range[START]! + skip
    for (let i = 0; i < length; i++) target[i] = view.getUint8(offset + i)
  }

  /** Copies into buffer `index`, from its byte `skip` on; it has room. Throws GuestAddressError. */
  write(
    addresses: Float64Array,
    lengths: Uint32Array,
    index: number,
    skip: number,
    source: Uint8Array,
  ): void {
    const { length } = source
    const memory = this.#memory
    if (length > SMALL_COPY || memory.dirtyTracking !== false || !this.#isNear(addresses, lengths, index)) {
      memory.write(addresses[index]! + skip, source)
      return
    }
    const view = this.#view
    const offset = addresses[index]! - this.#range[START]! + skip
    for (let i = 0; i < length; i++) view.setUint8(offset + i, source[i]!)
  }

  /**
   * Writes host addresses of the first `count` buffers into `target`, from index `at` on. False when one has none: it is not whole in a
   * region, or the memory is of a kind that system calls cannot use.
   */
  hostAddresses(
    addresses: Float64Array,
    lengths: Uint32Array,
    count: number,
    target: Float64Array,
    at: number,
  ): boolean {
    for (let i = 0; i < count; i++) {
      if (!this.hostAddress(addresses, lengths, i, 0, target, at + i)) return false
    }
    return true
  }

  /** Writes the host address of byte `skip` of buffer `index` into `target` at `at`. False when it has none: see `hostAddresses`. */
  hostAddress(
    addresses: Float64Array,
    lengths: Uint32Array,
    index: number,
    skip: number,
    target: Float64Array,
    at: number,
  ): boolean {
    const range = this.#range
    if (!this.#isNear(addresses, lengths, index) || range[HOST] === 0) return false
    target[at] = range[HOST]! + (addresses[index]! - range[START]!) + skip
    return true
  }

  /** Whether that buffer lies in the region, after having made its region the one if it must be. */
  #isNear(addresses: Float64Array, lengths: Uint32Array, index: number): boolean {
    const range = this.#range
    const address = addresses[index]!
    if (
      this.#memory.regions === this.#regions &&
      address >= range[START]! &&
      address + lengths[index]! <= range[END]!
    )
      return true
    return this.#find(addresses, lengths, index)
  }

  #find(addresses: Float64Array, lengths: Uint32Array, index: number): boolean {
    const region = this.#memory.regionOf(addresses[index]!, lengths[index]!)
    this.#regions = this.#memory.regions
    this.#range.fill(0)
    if (region === undefined) return false
    const { guestAddress, size, buffer, byteOffset } = region
    this.#view = new DataView(buffer, byteOffset, size)
    this.#range.set([guestAddress, guestAddress + size, this.#memory.hostAddress(guestAddress, size)])
    return true
  }
}
