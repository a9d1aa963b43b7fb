/** What of a ring both sides of the benchmark have to agree on. Everything lies in one buffer. */
export interface RingShape {
  readonly packed: boolean
  readonly size: number
  /** Descriptors of each chain: one readable, the rest writable. */
  readonly descriptors: number
  readonly indirect: boolean
  /** Upper half of the guest address of the buffer, which lies at a multiple of 4 GiB. */
  readonly high: number
}

/**
 * A driver that does no more than it must: fills the ring with chains and takes them back. The checking drivers are
 * those of the testkit.
 */
export interface LeanDriver {
  /** Chains in the ring when it is full. */
  readonly chains: number
  /** Makes so many chains available; there is room for them. */
  fill(chains: number): void
  /** Takes back all that are used; returns how many there were. */
  reap(): number
  /** Wants to hear of the next chain that is used. */
  enableInterrupt(): void
  /** Wants to hear of none. With split rings and EVENT_IDX that is one in 65,536 (2.7.7.1). */
  disableInterrupt(): void
}

/** Offsets into the buffer. Up to 1024 entries: 16 KiB of descriptors, 8 KiB of used ring, 64 KiB of tables. */
export const DESC = 0x0000
export const AVAIL = 0x8000
export const USED = 0xa000
const TABLES = 0x10000
const DATA = 0x30000
export const BYTES = 0x40000

const NEXT = 1
const WRITE = 2
const INDIRECT = 4
const BUFFER_BYTES = 16
const TABLE_BYTES = 64

class LeanSplitDriver implements LeanDriver {
  readonly chains: number
  readonly #shape: RingShape
  readonly #desc: DataView
  readonly #avail: Uint16Array
  readonly #used: Uint16Array
  readonly #usedElements: Uint32Array
  readonly #step: number
  /** Chain whose descriptors are used next: they come back in order. */
  #next = 0
  #availIndex = 0
  #usedIndex = 0

  constructor(buffer: ArrayBufferLike, shape: RingShape) {
    const { size, indirect, descriptors } = shape
    this.#shape = shape
    this.#step = indirect ? 1 : descriptors
    this.chains = Math.floor(size / this.#step)
    this.#desc = new DataView(buffer, DESC, 16 * size)
    this.#avail = new Uint16Array(buffer, AVAIL, 3 + size)
    this.#used = new Uint16Array(buffer, USED, 3 + 4 * size)
    this.#usedElements = new Uint32Array(buffer, USED, 1 + 2 * size)
    const table = new DataView(buffer, TABLES, BYTES - TABLES)
    if (indirect) writeTables(table, shape, this.chains, true)
  }

  fill(chains: number): void {
    const { size, descriptors, indirect, high } = this.#shape
    const desc = this.#desc
    const avail = this.#avail
    const step = this.#step
    const mask = size - 1
    const length = indirect ? 16 * descriptors : BUFFER_BYTES
    const first = indirect ? INDIRECT : descriptors > 1 ? NEXT : 0
    let index = this.#availIndex
    let chain = this.#next
    for (let left = chains; left > 0; left--) {
      let head = step * chain
      avail[2 + (index & mask)] = head
      index++
      const low = indirect ? TABLES + TABLE_BYTES * chain : DATA
      writeDescriptor(desc, head, low, high, length, first | ((head + 1) << 16))
      head++
      if (!indirect) {
        for (let more = descriptors - 1; more > 0; more--, head++) {
          const flags = more > 1 ? WRITE | NEXT : WRITE
          writeDescriptor(desc, head, low, high, length, flags | ((head + 1) << 16))
        }
      }
      chain++
      if (chain === this.chains) chain = 0
    }
    this.#next = chain
    this.#availIndex = index & 0xffff
    Atomics.store(avail, 1, index & 0xffff)
  }

  reap(): number {
    const { size } = this.#shape
    const elements = this.#usedElements
    const mask = size - 1
    const published = Atomics.load(this.#used, 1)
    let index = this.#usedIndex
    let reaped = 0
    for (; index !== published; index = (index + 1) & 0xffff) {
      if (elements[1 + 2 * (index & mask)]! < size) reaped++
    }
    this.#usedIndex = index
    return reaped
  }

  enableInterrupt(): void {
    Atomics.store(this.#avail, 2 + this.#shape.size, this.#usedIndex)
  }

  disableInterrupt(): void {
    Atomics.store(this.#avail, 2 + this.#shape.size, (this.#usedIndex - 1) & 0xffff)
  }
}

const AVAILABLE = 0x0080
const OWNER = 0x8080

class LeanPackedDriver implements LeanDriver {
  readonly chains: number
  readonly #shape: RingShape
  readonly #desc: DataView
  readonly #words: Uint16Array
  readonly #longs: Int32Array
  readonly #event: Int32Array
  readonly #step: number
  /** Chain whose id is used next: they come back in order. */
  #next = 0
  #slot = 0
  #owner = AVAILABLE
  #usedSlot = 0
  #usedOwner = OWNER

  constructor(buffer: ArrayBufferLike, shape: RingShape) {
    const { size, indirect, descriptors } = shape
    this.#shape = shape
    this.#step = indirect ? 1 : descriptors
    this.chains = Math.floor(size / this.#step)
    this.#desc = new DataView(buffer, DESC, 16 * size)
    this.#words = new Uint16Array(buffer, DESC, 8 * size)
    this.#longs = new Int32Array(buffer, DESC, 4 * size)
    this.#event = new Int32Array(buffer, AVAIL, 1)
    const table = new DataView(buffer, TABLES, BYTES - TABLES)
    if (indirect) writeTables(table, shape, this.chains, false)
  }

  fill(chains: number): void {
    if (chains === 0) return
    const { size, descriptors, indirect, high } = this.#shape
    const desc = this.#desc
    const length = indirect ? 16 * descriptors : BUFFER_BYTES
    const first = indirect ? INDIRECT : descriptors > 1 ? NEXT : 0
    const firstSlot = this.#slot
    const firstFlags = first | this.#owner
    let slot = firstSlot
    let owner = this.#owner
    // The flags of the very first one come last: they publish all.
    let flags = firstFlags ^ OWNER
    let chain = this.#next
    for (let left = chains; left > 0; left--) {
      const low = indirect ? TABLES + TABLE_BYTES * chain : DATA
      writeDescriptor(desc, slot, low, high, length, chain | (flags << 16))
      slot++
      if (slot === size) {
        slot = 0
        owner ^= OWNER
      }
      if (!indirect) {
        for (let more = descriptors - 1; more > 0; more--) {
          flags = (more > 1 ? WRITE | NEXT : WRITE) | owner
          writeDescriptor(desc, slot, low, high, length, chain | (flags << 16))
          slot++
          if (slot === size) {
            slot = 0
            owner ^= OWNER
          }
        }
      }
      flags = first | owner
      chain++
      if (chain === this.chains) chain = 0
    }
    this.#next = chain
    this.#slot = slot
    this.#owner = owner
    Atomics.store(this.#words, 8 * firstSlot + 7, firstFlags)
  }

  reap(): number {
    const { size } = this.#shape
    const longs = this.#longs
    const step = this.#step
    let slot = this.#usedSlot
    let owner = this.#usedOwner
    let reaped = 0
    // An id comes with the flags that say that it is there, and nothing else of the descriptor is looked at.
    for (;;) {
      const idAndFlags = longs[4 * slot + 3]!
      if (((idAndFlags >>> 16) & OWNER) !== owner) break
      if ((idAndFlags & 0xffff) < size) reaped++
      slot += step
      if (slot >= size) {
        slot -= size
        owner ^= OWNER
      }
    }
    this.#usedSlot = slot
    this.#usedOwner = owner
    return reaped
  }

  enableInterrupt(): void {
    const position = this.#usedSlot | (this.#usedOwner === OWNER ? 0x8000 : 0)
    Atomics.store(this.#event, 0, (2 << 16) | position)
  }

  disableInterrupt(): void {
    Atomics.store(this.#event, 0, 1 << 16)
  }
}

export function leanDriver(buffer: ArrayBufferLike, shape: RingShape): LeanDriver {
  return shape.packed ? new LeanPackedDriver(buffer, shape) : new LeanSplitDriver(buffer, shape)
}

/** The last word is flags and next in a split ring, id and flags in a packed one. */
function writeDescriptor(
  view: DataView,
  index: number,
  low: number,
  high: number,
  length: number,
  last: number,
): void {
  const at = 16 * index
  view.setUint32(at, low, true)
  view.setUint32(at + 4, high, true)
  view.setUint32(at + 8, length, true)
  view.setUint32(at + 12, last, true)
}

function writeTables(view: DataView, { descriptors, high }: RingShape, chains: number, split: boolean): void {
  for (let chain = 0; chain < chains; chain++) {
    for (let i = 0; i < descriptors; i++) {
      const flags = (i > 0 ? WRITE : 0) | (split && i + 1 < descriptors ? NEXT : 0)
      const last = split ? flags | ((i + 1) << 16) : flags << 16
      writeDescriptor(view, (TABLE_BYTES / 16) * chain + i, DATA, high, BUFFER_BYTES, last)
    }
  }
}
