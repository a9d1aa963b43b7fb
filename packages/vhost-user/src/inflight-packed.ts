import { VhostUserError } from "./error.js"

/**
 * "Inflight I/O tracking", packed rings: used descriptors are written over those of chains in flight, so that a copy of each
 * descriptor is kept, in entries of a list of free ones.
 *
 * The region of a queue: features (8 bytes), version (2), number of entries (2), first free entry (2), the same before the last
 * batch (2), where used descriptors go (2), the same before (2), its wrap counter (1), the same before (1), padding; then 32
 * bytes an entry: in flight (1), unused (1), next of its list (2); of a chain's first entry its last one (2), how many there are (2)
 * and the order in which it was taken (8); id (2), flags (2), length (4) and address (8) of the descriptor.
 */
const REGION = {
  version: 8,
  entries: 10,
  free: 12,
  oldFree: 14,
  used: 16,
  oldUsed: 18,
  wrap: 20,
  oldWrap: 21,
  first: 32,
} as const
const ENTRY = {
  inflight: 0,
  next: 2,
  last: 4,
  count: 6,
  counter: 8,
  id: 16,
  flags: 18,
  length: 20,
  address: 24,
}
const ENTRY_BYTES = 32
const VERSION = 1
const ALIGNMENT = 64
/** Bytes of a descriptor in a ring, and the wrap counter in a position. */
export const DESCRIPTOR_BYTES = 16
const WRAP = 0x8000

/** Bytes of the region of one queue. */
export function packedRegionBytes(queueSize: number): number {
  return Math.ceil((REGION.first + ENTRY_BYTES * queueSize) / ALIGNMENT) * ALIGNMENT
}

/** A chain that an earlier process had taken: its first entry, and its descriptors as they were in the ring. */
export interface TakenPacked {
  readonly entry: number
  readonly descriptors: Uint8Array
}

/** What is in flight on one queue. The front end can write here too, so that nothing is read but by {@link begin}. */
export class PackedInflight {
  readonly size: number
  readonly #bytes: Uint8Array
  readonly #view: DataView
  /** As in the region, by entry. */
  readonly #next: Uint16Array
  readonly #last: Uint16Array
  readonly #count: Uint16Array
  #free = 0
  #freeCount: number
  /** First entries of chains that go back with the next batch, and the last entry of the first of them. */
  readonly #batch: Uint16Array
  #batched = 0
  #batchEnd = 0
  #batchFree = 0
  #counter = 0

  constructor(bytes: Uint8Array, queueSize: number) {
    this.size = queueSize
    this.#bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
    this.#next = new Uint16Array(queueSize)
    this.#last = new Uint16Array(queueSize)
    this.#count = new Uint16Array(queueSize)
    this.#batch = new Uint16Array(queueSize)
    this.#freeCount = queueSize
  }

  /**
   * Starts on a ring: gives where used descriptors go, and what was taken and not given back, oldest first. A region that was
   * never used has nothing, and goes on at `start`. `isShown` says whether the driver sees the descriptor at a position as used.
   * Throws {@link VhostUserError} for what no process wrote down.
   */
  begin(start: number, isShown: (position: number) => boolean): { position: number; taken: TakenPacked[] } {
    const view = this.#view
    if (view.getUint16(REGION.version, true) !== VERSION) {
      this.#bytes.fill(0)
      view.setUint16(REGION.entries, this.size, true)
      this.#makeFreeList(new Uint8Array(this.size))
      this.gave(start)
      view.setUint16(REGION.version, VERSION, true)
      return { position: start, taken: [] }
    }
    const position = this.#finishLastBatch(isShown)
    const claimed = new Uint8Array(this.size)
    const heads: { entry: number; counter: number }[] = []
    for (let entry = 0; entry < this.size; entry++) {
      const at = this.#at(entry)
      if (this.#bytes[at + ENTRY.inflight] === 1) heads.push({ entry, counter: this.#counterAt(at) })
    }
    heads.sort((a, b) => a.counter - b.counter)
    const taken = heads.map(({ entry }) => this.#claim(entry, claimed))
    this.#makeFreeList(claimed)
    this.gave(position)
    return { position, taken }
  }

  /** A chain of these descriptors was taken from the ring. Returns its first entry, or -1 when there is no room for it. */
  took(descriptors: Uint8Array): number {
    const count = descriptors.length / DESCRIPTOR_BYTES
    if (count === 0 || count > this.#freeCount) return -1
    const head = this.#free
    let entry = head
    for (let index = 0; index < count; index++) {
      this.#write(entry, descriptors.subarray(index * DESCRIPTOR_BYTES, (index + 1) * DESCRIPTOR_BYTES))
      this.#last[head] = entry
      entry = this.#next[entry]!
    }
    this.#count[head] = count
    this.#free = entry
    this.#freeCount -= count
    const view = this.#view
    const at = this.#at(head)
    view.setUint16(at + ENTRY.last, this.#last[head]!, true)
    view.setUint16(at + ENTRY.count, count, true)
    this.#setCounter(at, this.#counter++)
    // Last: what is written down half is not taken.
    Atomics.store(this.#bytes, at + ENTRY.inflight, 1)
    view.setUint16(REGION.oldFree, entry, true)
    if (this.#batched > 0) this.#link(this.#batchEnd, entry)
    else view.setUint16(REGION.free, entry, true)
    return head
  }

  /** A chain is about to be given back; the driver does not see it yet. */
  gives(head: number): void {
    if (head < 0 || this.#batched >= this.size) return
    const last = this.#last[head]!
    if (this.#batched === 0) {
      this.#batchEnd = last
      this.#batchFree = this.#free
    }
    this.#link(last, this.#batchFree)
    this.#batchFree = head
    this.#view.setUint16(REGION.free, head, true)
    this.#batch[this.#batched++] = head
  }

  /** With what was given, used descriptors go to `position`; the driver does not see it yet. */
  given(position: number): void {
    this.#view.setUint16(REGION.used, position & ~WRAP, true)
    this.#bytes[REGION.wrap] = (position & WRAP) === 0 ? 0 : 1
  }

  /** The driver sees all that was given; used descriptors go to `position`. */
  gave(position: number): void {
    this.given(position)
    for (let index = 0; index < this.#batched; index++) {
      const head = this.#batch[index]!
      Atomics.store(this.#bytes, this.#at(head) + ENTRY.inflight, 0)
      this.#freeCount += this.#count[head]!
    }
    if (this.#batched > 0) this.#free = this.#batchFree
    this.#batched = 0
    const view = this.#view
    view.setUint16(REGION.free, this.#free, true)
    view.setUint16(REGION.oldFree, this.#free, true)
    view.setUint16(REGION.oldUsed, position & ~WRAP, true)
    this.#bytes[REGION.oldWrap] = this.#bytes[REGION.wrap]!
  }

  /** Nothing is in flight any more: the front end says where to go on. */
  clear(): void {
    this.#view.setUint16(REGION.version, 0, true)
  }

  /** The last process was at showing a batch when it ended: either the driver sees it, or nothing of it was given. */
  #finishLastBatch(isShown: (position: number) => boolean): number {
    const view = this.#view
    const before = view.getUint16(REGION.oldUsed, true) | (this.#bytes[REGION.oldWrap] === 0 ? 0 : WRAP)
    const after = view.getUint16(REGION.used, true) | (this.#bytes[REGION.wrap] === 0 ? 0 : WRAP)
    if (before === after || !isShown(before)) return before
    const end = view.getUint16(REGION.oldFree, true)
    let entry = view.getUint16(REGION.free, true)
    // No batch is larger than the queue.
    for (let index = 0; index < this.size && entry < this.size && entry !== end; index++) {
      this.#bytes[this.#at(entry) + ENTRY.inflight] = 0
      entry = view.getUint16(this.#at(entry) + ENTRY.next, true)
    }
    return after
  }

  /** The descriptors of the chain whose first entry that is; they belong to no other. */
  #claim(head: number, claimed: Uint8Array): TakenPacked {
    const view = this.#view
    const count = view.getUint16(this.#at(head) + ENTRY.count, true)
    const descriptors = new Uint8Array(DESCRIPTOR_BYTES * Math.min(count, this.size))
    const out = new DataView(descriptors.buffer)
    let entry = head
    for (let index = 0; index < count; index++) {
      if (entry >= this.size || claimed[entry] !== 0) {
        throw new VhostUserError("what is in flight cannot be: chains share an entry")
      }
      claimed[entry] = 1
      const [at, to] = [this.#at(entry), DESCRIPTOR_BYTES * index]
      descriptors.set(this.#bytes.subarray(at + ENTRY.address, at + ENTRY.address + 8), to)
      out.setUint32(to + 8, view.getUint32(at + ENTRY.length, true), true)
      out.setUint16(to + 12, view.getUint16(at + ENTRY.id, true), true)
      out.setUint16(to + 14, view.getUint16(at + ENTRY.flags, true), true)
      this.#last[head] = entry
      entry = view.getUint16(at + ENTRY.next, true)
      if (index + 1 < count) this.#next[this.#last[head]!] = entry
    }
    this.#count[head] = count
    this.#setCounter(this.#at(head), this.#counter++)
    return { entry: head, descriptors }
  }

  /** Of all entries that no chain has. */
  #makeFreeList(claimed: Uint8Array): void {
    this.#freeCount = 0
    let next = this.size
    for (let entry = this.size - 1; entry >= 0; entry--) {
      if (claimed[entry] !== 0) continue
      this.#link(entry, next)
      next = entry
      this.#freeCount++
    }
    this.#free = next
  }

  #link(entry: number, next: number): void {
    this.#next[entry] = next
    this.#view.setUint16(this.#at(entry) + ENTRY.next, next, true)
  }

  #write(entry: number, descriptor: Uint8Array): void {
    const at = this.#at(entry)
    const from = new DataView(descriptor.buffer, descriptor.byteOffset, DESCRIPTOR_BYTES)
    const view = this.#view
    view.setUint16(at + ENTRY.id, from.getUint16(12, true), true)
    view.setUint16(at + ENTRY.flags, from.getUint16(14, true), true)
    view.setUint32(at + ENTRY.length, from.getUint32(8, true), true)
    this.#bytes.set(descriptor.subarray(0, 8), at + ENTRY.address)
  }

  #at(entry: number): number {
    return REGION.first + ENTRY_BYTES * entry
  }

  #counterAt(at: number): number {
    const view = this.#view
    const high = view.getUint32(at + ENTRY.counter + 4, true)
    return high * 0x1_0000_0000 + view.getUint32(at + ENTRY.counter, true)
  }

  #setCounter(at: number, counter: number): void {
    this.#view.setUint32(at + ENTRY.counter, counter >>> 0, true)
    this.#view.setUint32(at + ENTRY.counter + 4, Math.floor(counter / 0x1_0000_0000), true)
  }
}
