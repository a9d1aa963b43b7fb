import type { GuestMemory, GuestMemoryRegion } from "@virtkit/interface"
import type { RingChain } from "./chain.js"
import { DESC_BYTES } from "./constants.js"

/** What a chain may hold in all (bad-input #13): used.len has 32 bits. */
const MAX_CHAIN_BYTES = 2 ** 32

const OUTSIDE = "a buffer outside of guest memory"

/**
 * Reads descriptors out of guest memory that the guest may change at any time: every one is read once, and what was
 * read is checked and kept (bad-input #18). Address and length lie at the same place in descriptors of either kind.
 *
 * It has the bounds of all regions itself: asking the memory for each buffer would box addresses above 2^31.
 */
export class DescriptorReader {
  readonly #size: number
  readonly #indirect: boolean
  readonly #starts: Float64Array
  readonly #ends: Float64Array
  readonly #regions: readonly GuestMemoryRegion[]
  /** Of each region, made when the first table in it is read. */
  readonly #views: (DataView | undefined)[]
  /** The region where the last address was. */
  #region = 0
  /** Where {@link enterTable} found the indirect table: a view, the offset of the table in it, and its entries. */
  table: DataView = new DataView(new ArrayBuffer(0))
  tableOffset = 0
  tableSize = 0

  constructor(memory: GuestMemory, size: number, indirect: boolean) {
    const { regions } = memory
    this.#size = size
    this.#indirect = indirect
    this.#starts = Float64Array.from(regions, (region) => region.guestAddress)
    this.#ends = Float64Array.from(regions, (region) => region.guestAddress + region.size)
    this.#regions = regions
    this.#views = regions.map(() => undefined)
  }

  /** Adds the buffer of the descriptor at `at` to the chain; returns undefined, or which rule it breaks. */
  addBuffer(view: DataView, at: number, writable: boolean, chain: RingChain): string | undefined {
    const length = view.getUint32(at + 8, true)
    // 2.7.4.2 and 2.8.5: after a writable buffer only writable ones.
    if (!writable && chain.count > chain.readable) return "a readable buffer after a writable one"
    // Left out, so that no device ever spins on one (bad-input #14).
    if (length === 0) return undefined
    const high = view.getUint32(at + 4, true)
    // From 2^53 on Numbers are not exact, and no memory is there.
    if (high >= 0x20_0000) return OUTSIDE
    const address = high * 0x1_0000_0000 + view.getUint32(at, true)
    if (!this.#inMemory(address, length)) return OUTSIDE
    if (chain.readableBytes + chain.writableBytes + length > MAX_CHAIN_BYTES) {
      return "a chain of more than 2^32 bytes"
    }
    chain.append(address, length, writable)
    return undefined
  }

  /** Checks the indirect table that the descriptor at `at` points to; returns undefined, or which rule it breaks. */
  enterTable(view: DataView, at: number): string | undefined {
    if (!this.#indirect) return "an indirect descriptor that was not negotiated"
    const length = view.getUint32(at + 8, true)
    if (length === 0 || length % DESC_BYTES !== 0) return "an indirect table of odd length"
    if (length > DESC_BYTES * this.#size) return "an indirect table larger than the queue"
    const high = view.getUint32(at + 4, true)
    const address = high * 0x1_0000_0000 + view.getUint32(at, true)
    if (high >= 0x20_0000 || !this.#inMemory(address, length)) {
      return "an indirect table outside of guest memory"
    }
    this.table = this.#view(this.#region)
    this.tableOffset = address - this.#starts[this.#region]!
    this.tableSize = length / DESC_BYTES
    return undefined
  }

  #view(index: number): DataView {
    const made = this.#views[index]
    if (made !== undefined) return made
    const { buffer, byteOffset, size } = this.#regions[index]!
    const view = new DataView(buffer, byteOffset, size)
    this.#views[index] = view
    return view
  }

  /** Whether the range lies whole in one region (bad-input #11); sums of Numbers below 2^53 do not wrap. */
  #inMemory(address: number, length: number): boolean {
    const region = this.#region
    if (address >= this.#starts[region]! && address + length <= this.#ends[region]!) return true
    for (let other = 0; other < this.#starts.length; other++) {
      if (address >= this.#starts[other]! && address + length <= this.#ends[other]!) {
        this.#region = other
        return true
      }
    }
    return false
  }
}
