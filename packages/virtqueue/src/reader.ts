import type { GuestMemory, GuestMemoryRegion } from "@virtkit/interface"
import type { RingChain } from "./chain.js"
import { DESC_BYTES, MAX_QUEUE_SIZE } from "./constants.js"

/** What a chain may hold in all (bad-input #13): used.len has 32 bits. */
const MAX_CHAIN_BYTES = 2 ** 32

/** Views for indirect tables begin at multiples of this, so that offsets into them are small integers. */
const WINDOW = 2 ** 30

/** Not looked up at each use, as imported ones are. */
const BYTES = DESC_BYTES

/**
 * Reads descriptors out of guest memory that the guest may change at any time: every one is read once, and what was
 * read is checked and kept (bad-input #18). Address and length lie at the same place in descriptors of either kind.
 *
 * It has the bounds of all regions itself, and hands addresses from function to function in arrays: as an argument, a
 * Number above 2^31 may be an allocation.
 */
export class DescriptorReader {
  readonly #size: number
  readonly #indirect: boolean
  readonly #regions: readonly GuestMemoryRegion[]
  readonly #starts: Float64Array
  readonly #ends: Float64Array
  /** Of each region, by window: made when the first table there is read. */
  readonly #views: DataView[][]
  /** The region where the last address was, and where it begins and ends. */
  #region = 0
  readonly #bounds: Float64Array = new Float64Array(2)
  /** Where {@link enterTable} found the indirect table: a view, the offset of the table in it, and its entries. */
  table: DataView = new DataView(new ArrayBuffer(0))
  tableOffset = 0
  tableSize = 0
  readonly #tableAddress: Float64Array = new Float64Array(1)
  /** Guest addresses where `table` begins and ends. */
  readonly #tableBounds: Float64Array = new Float64Array(2)

  constructor(memory: GuestMemory, size: number, indirect: boolean) {
    const { regions } = memory
    this.#size = size
    this.#indirect = indirect
    this.#regions = regions
    this.#starts = Float64Array.from(regions, (region) => region.guestAddress)
    this.#ends = Float64Array.from(regions, (region) => region.guestAddress + region.size)
    this.#views = regions.map(() => [])
    // The ring itself lies in one, so there is one.
    this.#enterRegion(0)
  }

  /** Adds the buffer of the descriptor at `at` to the chain; returns undefined, or which rule it breaks. */
  addFrom(view: DataView, at: number, writable: boolean, chain: RingChain): string | undefined {
    const low = view.getInt32(at, true)
    const high = view.getInt32(at + 4, true)
    return this.addBuffer(low, high, view.getInt32(at + 8, true), writable, chain)
  }

  /**
   * The same with what the descriptor says: both halves of the address, and the length, each as a signed number of 32 bits,
   * which as an argument is never an allocation.
   */
  addBuffer(
    low: number,
    high: number,
    bytes: number,
    writable: boolean,
    chain: RingChain,
  ): string | undefined {
    const { count } = chain
    // 2.7.4.2 and 2.8.5: after a writable buffer only writable ones.
    if (!writable && count > chain.readable) return "a readable buffer after a writable one"
    const length = bytes >>> 0
    // Left out, so that no device ever spins on one (bad-input #14).
    if (length === 0) return undefined
    if (count === chain.addresses.length) chain.grow()
    // From 2^53 on, where no memory is, it may be another address than the guest's, but never one below that.
    const address = (high >>> 0) * 0x1_0000_0000 + (low >>> 0)
    const bounds = this.#bounds
    chain.addresses[count] = address
    chain.lengths[count] = length
    if (!(address >= bounds[0]! && address + length <= bounds[1]!)) {
      if (!this.#findRegion(chain.addresses, count, length)) return "a buffer outside of guest memory"
    }
    if (chain.readableBytes + chain.writableBytes + length > MAX_CHAIN_BYTES) {
      return "a chain of more than 2^32 bytes"
    }
    chain.added(length, writable)
    return undefined
  }

  /** Checks the indirect table that the descriptor at `at` points to; returns undefined, or which rule it breaks. */
  enterTable(view: DataView, at: number): string | undefined {
    if (!this.#indirect) return "an indirect descriptor that was not negotiated"
    const length = view.getUint32(at + 8, true)
    if (length === 0 || (length & (BYTES - 1)) !== 0) return "an indirect table of odd length"
    if (length > BYTES * this.#size) return "an indirect table larger than the queue"
    // From 2^53 on, where no memory is, it may be another address than the guest's, but never one below that.
    const address = view.getUint32(at + 4, true) * 0x1_0000_0000 + view.getUint32(at, true)
    if (address < this.#tableBounds[0]! || address + length > this.#tableBounds[1]!) {
      this.#tableAddress[0] = address
      if (!this.#findRegion(this.#tableAddress, 0, length)) return "an indirect table outside of guest memory"
      this.#enterWindow(address)
    }
    // Below 2^31, since windows are no longer: as an integer it costs no allocation.
    this.tableOffset = (address - this.#tableBounds[0]!) | 0
    this.tableSize = length / BYTES
    return undefined
  }

  /** Sets `table` upon the window of the present region where `address` is. */
  #enterWindow(address: number): void {
    const { guestAddress } = this.#regions[this.#region]!
    const window = Math.floor((address - guestAddress) / WINDOW)
    this.table = this.#views[this.#region]![window] ?? this.#makeView(window)
    this.#tableBounds[0] = guestAddress + window * WINDOW
    this.#tableBounds[1] = this.#tableBounds[0]! + this.table.byteLength
  }

  /** With so much of the next window as a table at the end of this one may need. */
  #makeView(window: number): DataView {
    const { buffer, byteOffset, size } = this.#regions[this.#region]!
    const start = window * WINDOW
    const length = Math.min(size - start, WINDOW + DESC_BYTES * MAX_QUEUE_SIZE)
    const view = new DataView(buffer, byteOffset + start, length)
    this.#views[this.#region]![window] = view
    return view
  }

  /** Whether the range at `addresses[index]` lies whole in one region (bad-input #11), which it makes the present one. */
  #findRegion(addresses: Float64Array, index: number, length: number): boolean {
    const address = addresses[index]!
    for (let region = 0; region < this.#starts.length; region++) {
      if (address >= this.#starts[region]! && address + length <= this.#ends[region]!) {
        this.#enterRegion(region)
        return true
      }
    }
    return false
  }

  #enterRegion(region: number): void {
    this.#region = region
    this.#bounds[0] = this.#starts[region]!
    this.#bounds[1] = this.#ends[region]!
  }
}
