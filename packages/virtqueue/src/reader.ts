import type { GuestMemory, GuestMemoryRegion } from "@virtkit/interface"
import { DESC_BYTES, VIRTQ_DESC_F_INDIRECT, VIRTQ_DESC_F_NEXT, VIRTQ_DESC_F_WRITE } from "./constants.js"
import type { SplitChain } from "./split-chain.js"

/** What a chain may hold in all (bad-input #13): used.len has 32 bits. */
const MAX_CHAIN_BYTES = 2 ** 32

/**
 * Follows a descriptor chain through guest memory that the guest may change at any time: every descriptor is read once,
 * and what was read is checked and kept (bad-input #18).
 */
export class DescriptorWalker {
  readonly #memory: GuestMemory
  readonly #desc: DataView
  readonly #size: number
  readonly #indirect: boolean
  /** View of the region where the last indirect table was: making one per chain would be garbage. */
  #region: GuestMemoryRegion | undefined
  #regionView: DataView
  /** Where {@link #enterTable} put the walk: offset of the table within `#regionView`, and its entries. */
  #tableOffset = 0
  #tableSize = 0

  constructor(memory: GuestMemory, desc: DataView, size: number, indirect: boolean) {
    this.#memory = memory
    this.#desc = desc
    this.#regionView = desc
    this.#size = size
    this.#indirect = indirect
  }

  /** Fills `chain`; returns undefined, or which rule the chain breaks. */
  walk(head: number, chain: SplitChain): string | undefined {
    chain.clear(head)
    let table = this.#desc
    let base = 0
    let limit = this.#size
    let index = head
    let inTable = false
    // 2.7.5.3.1: a chain is no longer than the queue. Ends loops too (bad-input #8).
    for (let links = 0; links < this.#size; ) {
      if (index >= limit) return "a next field points past the descriptor table"
      const at = base + DESC_BYTES * index
      const flagsAndNext = table.getUint32(at + 12, true)
      if ((flagsAndNext & VIRTQ_DESC_F_INDIRECT) !== 0) {
        if (inTable) return "an indirect table within an indirect table"
        const wrong = this.#enterTable(table, at, flagsAndNext)
        if (wrong !== undefined) return wrong
        inTable = true
        table = this.#regionView
        base = this.#tableOffset
        limit = this.#tableSize
        index = 0
        continue
      }
      const wrong = this.#addBuffer(table, at, (flagsAndNext & VIRTQ_DESC_F_WRITE) !== 0, chain)
      if (wrong !== undefined) return wrong
      if ((flagsAndNext & VIRTQ_DESC_F_NEXT) === 0) return undefined
      index = flagsAndNext >>> 16
      links++
    }
    return "a chain longer than the queue"
  }

  #addBuffer(table: DataView, at: number, writable: boolean, chain: SplitChain): string | undefined {
    const length = table.getUint32(at + 8, true)
    // 2.7.4.2: after a writable buffer only writable ones.
    if (!writable && chain.count > chain.readable) return "a readable buffer after a writable one"
    // Left out, so that no device ever spins on one (bad-input #14).
    if (length === 0) return undefined
    const address = addressAt(table, at)
    if (!this.#memory.contains(address, length)) return "a buffer outside of guest memory"
    if (chain.readableBytes + chain.writableBytes + length > MAX_CHAIN_BYTES) {
      return "a chain of more than 2^32 bytes"
    }
    chain.append(address, length, writable)
    return undefined
  }

  /** 2.7.5.3: checks the indirect table that the descriptor at `at` points to, and sets the walk upon it. */
  #enterTable(table: DataView, at: number, flagsAndNext: number): string | undefined {
    if (!this.#indirect) return "an indirect descriptor that was not negotiated"
    if ((flagsAndNext & VIRTQ_DESC_F_NEXT) !== 0) return "an indirect descriptor with a next one"
    const length = table.getUint32(at + 8, true)
    if (length === 0 || length % DESC_BYTES !== 0) return "an indirect table of odd length"
    if (length > DESC_BYTES * this.#size) return "an indirect table larger than the queue"
    const address = addressAt(table, at)
    const region = this.#memory.regionOf(address, length)
    if (region === undefined) return "an indirect table outside of guest memory"
    if (region !== this.#region) {
      this.#region = region
      this.#regionView = new DataView(region.buffer, region.byteOffset, region.size)
    }
    this.#tableOffset = address - region.guestAddress
    this.#tableSize = length / DESC_BYTES
    return undefined
  }
}

/** The 64-bit address of a descriptor; above 2^53, where Numbers are not exact and no memory is, infinity. */
function addressAt(table: DataView, at: number): number {
  const high = table.getUint32(at + 4, true)
  if (high >= 0x20_0000) return Number.POSITIVE_INFINITY
  return high * 0x1_0000_0000 + table.getUint32(at, true)
}
