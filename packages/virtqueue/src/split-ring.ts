import type { RingChain } from "./chain.js"
import {
  DESC_BYTES,
  VIRTQ_AVAIL_F_NO_INTERRUPT,
  VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_WRITE,
  VIRTQ_USED_F_NO_NOTIFY,
} from "./constants.js"
import type { QueueOptions } from "./options.js"
import { DescriptorReader } from "./reader.js"
import { BROKEN, EMPTY, MALFORMED, type Ring, TAKEN } from "./ring.js"
import type { SplitLayout } from "./ring-layout.js"

/** Word of both rings that holds idx; word 0 holds the flags. */
const IDX = 1
const RING = 2

/** What is imported is looked up at each use, a constant of the module itself is not: so those of the hot paths are here. */
const NEXT = VIRTQ_DESC_F_NEXT
const WRITE = VIRTQ_DESC_F_WRITE
const INDIRECT = VIRTQ_DESC_F_INDIRECT
const BYTES = DESC_BYTES
const OK = TAKEN

/**
 * A split ring (virtio 1.3, section 2.7).
 *
 * Order between this thread and the guest's vCPUs: indexes and event fields go through Atomics. Loading avail.idx so
 * orders the entries read after it; storing used.idx so orders the elements written before it; and a store followed by
 * a load, both atomic, is the full barrier that 2.7.7.2 and 2.7.10 need between publishing an index and looking whether
 * the other side wants to hear of it.
 */
export class SplitRing implements Ring {
  readonly kind = "split"
  reason = ""
  pending = 0
  /** Next entry of the available ring to take: 16 bits. */
  nextAvail = 0
  /** used.idx as published: 16 bits. */
  nextUsed = 0
  readonly #options: QueueOptions
  readonly #size: number
  readonly #mask: number
  readonly #eventIdx: boolean
  readonly #inOrder: boolean
  readonly #desc: DataView
  readonly #avail: Uint16Array
  readonly #used: Uint16Array
  readonly #usedElements: Uint32Array
  readonly #reader: DescriptorReader
  /** avail.idx as last loaded. */
  #knownAvail = 0
  /** By head: 1 from when it is taken until it is completed. */
  readonly #busy: Uint8Array
  /** Entry of the used ring that was written last, and whether the next chain may take its place (IN_ORDER). */
  #lastEntry = 0
  #joinable = false

  /** `layout` must come from these options; {@link createQueue} sees to that. */
  constructor(options: QueueOptions, layout: SplitLayout) {
    this.#options = options
    this.#size = options.size
    this.#mask = options.size - 1
    this.#eventIdx = options.eventIdx
    this.#inOrder = options.inOrder ?? false
    this.#desc = layout.desc
    this.#avail = layout.avail
    this.#used = layout.used
    this.#usedElements = layout.usedElements
    this.#reader = new DescriptorReader(options.memory, options.size, options.indirect)
    this.#busy = new Uint8Array(options.size)
  }

  take(chain: RingChain): number {
    const next = this.nextAvail
    if (next === this.#knownAvail) {
      this.#knownAvail = Atomics.load(this.#avail, IDX)
      const offered = (this.#knownAvail - next) & 0xffff
      if (offered === 0) return EMPTY
      // More than the driver has got back: nothing in the ring can be believed (bad-input #15, #17).
      const room = this.#size - ((next - this.nextUsed) & 0xffff)
      if (offered > room) return this.#break(`avail.idx is ${offered} ahead, the ring has room for ${room}`)
    }
    const head = this.#avail[RING + (next & this.#mask)]!
    // Neither can be given back: the first is no descriptor, the second would be used twice (bad-input #17).
    if (head >= this.#size) return this.#break(`head ${head} is not below the queue size ${this.#size}`)
    if (this.#busy[head] !== 0) return this.#break(`head ${head} was made available twice`)
    this.nextAvail = (next + 1) & 0xffff
    this.#busy[head] = 1
    const wrong = this.#walk(head, chain)
    if (wrong === undefined) return OK
    this.reason = wrong
    return MALFORMED
  }

  complete(chain: RingChain, written: number, whole: boolean): void {
    const { head } = chain
    this.#busy[head] = 0
    // 2.7.9.2 (in order): one element for a batch, where its first one would be, with the id of its last.
    if (!this.#joinable) this.#lastEntry = (this.nextUsed + this.pending) & this.#mask
    const element = 1 + 2 * this.#lastEntry
    this.#usedElements[element] = head
    this.#usedElements[element + 1] = written
    this.pending++
    this.#joinable = this.#inOrder && whole
  }

  publish(): boolean {
    const before = this.nextUsed
    const count = this.pending
    const after = (before + count) & 0xffff
    this.nextUsed = after
    this.pending = 0
    this.#joinable = false
    Atomics.store(this.#used, IDX, after)
    if (this.#options.memory.dirtyTracking !== false) this.#markUsedDirty(before, count)
    // 2.7.7.2 and 2.7.10; loaded after used.idx was stored.
    if (!this.#eventIdx) return (Atomics.load(this.#avail, 0) & VIRTQ_AVAIL_F_NO_INTERRUPT) === 0
    const event = Atomics.load(this.#avail, RING + this.#size)
    return ((after - event - 1) & 0xffff) < count
  }

  disableNotification(): void {
    // With EVENT_IDX the flag must stay 0 (2.7.10); avail_event, left where it is, is passed once and then silent.
    if (!this.#eventIdx) this.#storeUsed(0, VIRTQ_USED_F_NO_NOTIFY)
  }

  enableNotification(): boolean {
    if (this.#eventIdx) this.#storeUsed(RING + 4 * this.#size, this.nextAvail)
    else this.#storeUsed(0, 0)
    // The driver may have looked just before this: what it offered then is found here.
    return Atomics.load(this.#avail, IDX) !== this.nextAvail
  }

  restore(nextAvail: number, nextUsed: number, chains: readonly RingChain[]): void {
    this.nextAvail = nextAvail
    this.#knownAvail = nextAvail
    this.nextUsed = nextUsed
    for (const chain of chains) this.#busy[chain.head] = 1
  }

  /** Fills `chain` from the descriptors; returns undefined, or which rule the chain breaks. */
  #walk(head: number, chain: RingChain): string | undefined {
    const reader = this.#reader
    chain.clear(head)
    let table = this.#desc
    let base = 0
    let limit = this.#size
    let index = head
    let inTable = false
    // 2.7.5.3.1: a chain is no longer than the queue. Ends loops too (bad-input #8).
    for (let links = 0; links < this.#size; ) {
      if (index >= limit) return "a next field points past the descriptor table"
      const at = base + BYTES * index
      const flagsAndNext = table.getUint32(at + 12, true)
      if ((flagsAndNext & INDIRECT) !== 0) {
        if (inTable) return "an indirect table within an indirect table"
        if ((flagsAndNext & NEXT) !== 0) return "an indirect descriptor with a next one"
        const wrong = reader.enterTable(table, at)
        if (wrong !== undefined) return wrong
        inTable = true
        table = reader.table
        base = reader.tableOffset
        limit = reader.tableSize
        index = 0
        continue
      }
      const wrong = reader.addFrom(table, at, (flagsAndNext & WRITE) !== 0, chain)
      if (wrong !== undefined) return wrong
      if ((flagsAndNext & NEXT) === 0) return undefined
      index = flagsAndNext >>> 16
      links++
    }
    return "a chain longer than the queue"
  }

  #storeUsed(word: number, value: number): void {
    Atomics.store(this.#used, word, value)
    const { memory, used } = this.#options
    if (memory.dirtyTracking !== false) memory.markDirty(used + 2 * word, 2)
  }

  #markUsedDirty(before: number, count: number): void {
    const { memory, used } = this.#options
    const first = before & this.#mask
    const straight = Math.min(count, this.#size - first)
    memory.markDirty(used + 4 + 8 * first, 8 * straight)
    if (straight < count) memory.markDirty(used + 4, 8 * Math.min(count - straight, this.#size))
    memory.markDirty(used, 4)
  }

  #break(reason: string): number {
    this.reason = reason
    return BROKEN
  }
}
