import type { Chain, GuestMemory, GuestMemoryRegion } from "@virtkit/interface"
import { HEADER_BYTES } from "./constants.js"

const START = 0
const END = 1
const HOST = 2

/**
 * The region of guest memory that was used last, for what happens with every request. Its methods take no addresses and give none:
 * V8 allocates a number above 2^31 that goes through a call, wherever it has not inlined that call.
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

  /** Copies the header of a request, the first bytes of its readable part, which has that many. */
  readHeader(chain: Chain, header: DataView, bytes: Uint8Array): void {
    if (chain.lengths[0]! < HEADER_BYTES || !this.#isNear(chain.addresses, chain.lengths, 0)) {
      chain.copyOut(0, bytes)
      return
    }
    const view = this.#view
    const offset = chain.addresses[0]! - this.#range[START]!
    for (let at = 0; at < HEADER_BYTES; at += 4) header.setUint32(at, view.getUint32(offset + at, true), true)
  }

  /** Writes the last byte of a chain that has a writable part. */
  writeLast(chain: Chain, value: number): void {
    const { addresses, lengths } = chain
    let last = chain.count - 1
    while (lengths[last] === 0) last--
    if (!this.#isNear(addresses, lengths, last)) {
      this.#memory.writeUint8(addresses[last]! + lengths[last]! - 1, value)
      return
    }
    this.#view.setUint8(addresses[last]! - this.#range[START]! + lengths[last]! - 1, value)
    if (this.#memory.dirtyTracking !== false) this.#memory.markDirty(addresses[last]! + lengths[last]! - 1, 1)
  }

  /**
   * Writes host addresses of the ranges into `target`, from index `at` on. False when one has none: it is not whole in a region, or the
   * memory is of a kind that system calls cannot use.
   */
  hostAddresses(
    addresses: Float64Array,
    lengths: Uint32Array,
    count: number,
    target: Float64Array,
    at: number,
  ): boolean {
    const range = this.#range
    for (let i = 0; i < count; i++) {
      if (!this.#isNear(addresses, lengths, i) || range[HOST] === 0) return false
      target[at + i] = range[HOST]! + (addresses[i]! - range[START]!)
    }
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
