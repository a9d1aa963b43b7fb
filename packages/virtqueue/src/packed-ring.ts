import type { RingChain } from "./chain.js"
import {
  DESC_BYTES,
  RING_EVENT_FLAGS_DESC,
  RING_EVENT_FLAGS_DISABLE,
  RING_EVENT_FLAGS_ENABLE,
  VIRTQ_DESC_F_AVAIL,
  VIRTQ_DESC_F_INDIRECT,
  VIRTQ_DESC_F_NEXT,
  VIRTQ_DESC_F_USED,
  VIRTQ_DESC_F_WRITE,
} from "./constants.js"
import type { QueueOptions } from "./options.js"
import { DescriptorReader } from "./reader.js"
import { BROKEN, EMPTY, MALFORMED, type Ring, TAKEN } from "./ring.js"
import type { PackedLayout } from "./ring-layout.js"

/** 16-bit words of a descriptor, and where its id and flags are. */
const WORDS = 8
const ID = 6
const FLAGS = 7
/** 32-bit words of a descriptor, and where the upper half of its address is, its length and its id with the flags. */
const LONGS = 4
const HIGH = 1
const LENGTH = 2
const ID_AND_FLAGS = 3

/** What is imported is looked up at each use, a constant of the module itself is not: so those of the hot paths are here. */
const NEXT = VIRTQ_DESC_F_NEXT
const WRITE = VIRTQ_DESC_F_WRITE
const INDIRECT = VIRTQ_DESC_F_INDIRECT
const AVAIL = VIRTQ_DESC_F_AVAIL
const OWNER: number = VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED
/** Flags in the word that they share with the id. */
const HAS_NEXT: number = NEXT << 16
const IS_WRITABLE: number = WRITE << 16
const IS_INDIRECT: number = INDIRECT << 16
const BYTES = DESC_BYTES
const OK = TAKEN

/** How many slots {@link PackedRing} looks at together. */
const LOOK_AHEAD = 128

const NOT_AVAILABLE = "a descriptor that is not available where one has to be"

/** Bit of a position that holds the wrap counter, as in event suppression structures (2.8.14). */
const WRAP = 0x8000

/**
 * A packed ring (virtio 1.3, section 2.8).
 *
 * Order between this thread and the guest's vCPUs: after the flags that say which slots are available, and before
 * anything else of those slots, comes an atomic load; the flags of the first used descriptor of a batch are
 * stored with Atomics, which orders all that was written of the batch before them; that store, or the one into the
 * event suppression structure, followed by an atomic load is the full barrier needed before looking at what the other
 * side wants (2.8.21.3.1) or offered.
 */
export class PackedRing implements Ring {
  readonly kind = "packed"
  reason = ""
  pending = 0
  readonly #options: QueueOptions
  readonly #size: number
  readonly #inOrder: boolean
  readonly #desc: DataView
  readonly #words: Uint16Array
  readonly #longs: Int32Array
  readonly #driverEvent: Int32Array
  readonly #deviceEvent: Int32Array
  readonly #reader: DescriptorReader
  /** Slot of the next chain to take, and the AVAIL and USED bits of an available descriptor there. */
  #availSlot = 0
  #availOwner: number = AVAIL
  /** Slots from there up to this one were seen to be available, all in this lap and with room for them. */
  #seenEnd = 0
  /** Slot of the next used descriptor, and the AVAIL and USED bits of one there. */
  #usedSlot = 0
  #usedOwner: number = OWNER
  /** The first used descriptor of the batch: its flags are what publishes all of it. */
  #firstSlot = 0
  #firstFlags = 0
  /** The used descriptor written last, and whether the next chain may take its place (IN_ORDER). */
  #lastSlot = 0
  #lastOwner = 0
  #joinable = false

  /** `layout` must come from these options; {@link createQueue} sees to that. */
  constructor(options: QueueOptions, layout: PackedLayout) {
    this.#options = options
    this.#size = options.size
    this.#inOrder = options.inOrder ?? false
    this.#desc = layout.desc
    this.#words = layout.descWords
    this.#longs = layout.descLongs
    this.#driverEvent = layout.driverEvent
    this.#deviceEvent = layout.deviceEvent
    this.#reader = new DescriptorReader(options.memory, options.size, options.indirect)
  }

  get nextAvail(): number {
    return this.#availSlot | (this.#availOwner === AVAIL ? WRAP : 0)
  }

  get nextUsed(): number {
    return this.#usedSlot | (this.#usedOwner === OWNER ? WRAP : 0)
  }

  take(chain: RingChain): number {
    const first = this.#availSlot
    if (first === this.#seenEnd) {
      const found = this.#look()
      if (found !== OK) return found
    }
    const longs = this.#longs
    const end = this.#seenEnd
    let slot = first
    chain.clear(0)
    // 2.8.6: a list is several descriptors in a row, all but the last with NEXT.
    for (;;) {
      // Sums would have to be checked for overflow; the lowest two bits of this are 0.
      const at = slot << 2
      // In one, and once: the guest may change it meanwhile. Whose the slot is was looked at before.
      const idAndFlags = longs[at | ID_AND_FLAGS]!
      const writable = (idAndFlags & IS_WRITABLE) !== 0
      const wrong =
        (idAndFlags & IS_INDIRECT) !== 0
          ? this.#addTable(slot, slot !== first || (idAndFlags & HAS_NEXT) !== 0, chain)
          : this.#reader.addBuffer(longs[at]!, longs[at | HIGH]!, longs[at | LENGTH]!, writable, chain)
      slot++
      if ((idAndFlags & HAS_NEXT) === 0) {
        chain.head = idAndFlags & 0xffff
        return this.#moveOn(chain, slot - first, wrong)
      }
      if (slot === end || wrong !== undefined) return this.#takeRest(chain, slot - first, wrong)
    }
  }

  complete(chain: RingChain, written: number, whole: boolean): void {
    const slot = this.#usedSlot
    if (this.#inOrder) this.#writeInOrder(slot, chain, written, whole)
    else if (this.pending === 0) this.#writeFirst(slot, this.#usedOwner, chain, written)
    else this.#writeUsed(slot, this.#usedOwner, chain, written)
    const { slots } = chain
    this.pending += slots
    const next = slot + slots
    if (next < this.#size) {
      this.#usedSlot = next
    } else {
      this.#usedSlot = next - this.#size
      this.#usedOwner ^= OWNER
    }
  }

  publish(): boolean {
    const count = this.pending
    this.pending = 0
    this.#joinable = false
    Atomics.store(this.#words, WORDS * this.#firstSlot + FLAGS, this.#firstFlags)
    if (this.#options.memory.dirtyTracking !== false) this.#markUsedDirty(count)
    return this.#driverWantsInterrupt(count)
  }

  disableNotification(): void {
    this.#storeEvent(RING_EVENT_FLAGS_DISABLE << 16)
  }

  enableNotification(): boolean {
    if (this.#options.eventIdx) this.#storeEvent((RING_EVENT_FLAGS_DESC << 16) | this.nextAvail)
    else this.#storeEvent(RING_EVENT_FLAGS_ENABLE << 16)
    // The driver may have looked just before this: what it offered then is found here.
    const flags = Atomics.load(this.#words, WORDS * this.#availSlot + FLAGS)
    return (flags & OWNER) === this.#availOwner
  }

  restore(nextAvail: number, nextUsed: number): void {
    this.#availSlot = nextAvail & ~WRAP
    this.#availOwner = (nextAvail & WRAP) !== 0 ? AVAIL : VIRTQ_DESC_F_USED
    this.#usedSlot = nextUsed & ~WRAP
    this.#usedOwner = (nextUsed & WRAP) !== 0 ? OWNER : 0
    this.#seenEnd = this.#availSlot
  }

  /** Slots that the driver may have filled: those that it does not know to be used are not among them. */
  #roomLeft(): number {
    const sameLap = (this.#availOwner === AVAIL) === (this.#usedOwner === OWNER)
    const held = this.#availSlot - this.#usedSlot + (sameLap ? 0 : this.#size)
    return this.#size - held - this.pending
  }

  /**
   * Looks whether the next slot is available, and how many behind it up to the end of the ring, so that one barrier does
   * for all of them: an atomic load costs more than the rest of a look. TAKEN says that there is one.
   */
  #look(): number {
    const words = this.#words
    const owner = this.#availOwner
    const first = this.#availSlot
    if ((Atomics.load(words, WORDS * first + FLAGS) & OWNER) !== owner) return EMPTY
    const room = this.#roomLeft()
    // More than the driver has got back: nothing in the ring can be believed (bad-input #15, #17).
    if (room === 0) return this.#break("more descriptors available than there is room for, 0")
    const end = Math.min(first + Math.min(LOOK_AHEAD, room), this.#size)
    let slot = first + 1
    let at = WORDS * slot + FLAGS
    // Mostly all of them are, so that four at a time cost less.
    while (slot + 4 <= end) {
      const two = (words[at]! ^ owner) | (words[at + WORDS]! ^ owner)
      const four = two | (words[at + 2 * WORDS]! ^ owner) | (words[at + 3 * WORDS]! ^ owner)
      if ((four & OWNER) !== 0) break
      slot += 4
      at += 4 * WORDS
    }
    for (; slot < end && (words[at]! & OWNER) === owner; at += WORDS) slot++
    this.#seenEnd = slot
    // The flags of the others were loaded after the first ones, what else is in their slots comes after these.
    if (slot > first + 1) Atomics.load(words, WORDS * (slot - 1) + FLAGS)
    return TAKEN
  }

  /**
   * Takes the rest of a list of which `begun` slots were looked at: beyond what was seen to be available, or of one that
   * broke a rule, which is read for its end only.
   */
  #takeRest(chain: RingChain, begun: number, problem: string | undefined): number {
    const longs = this.#longs
    const room = this.#roomLeft()
    let wrong = problem
    let slots = begun
    for (;;) {
      // A list with no end, or more than the driver has got back (bad-input #8, #15, #17), stops here: every descriptor
      // takes a slot, and where the chain ends, so its id, would be anybody's guess.
      if (slots === room) return this.#break(`more descriptors available than there is room for, ${room}`)
      const isNextLap = this.#availSlot + slots >= this.#size
      const slot = this.#availSlot + slots - (isNextLap ? this.#size : 0)
      const at = LONGS * slot
      const idAndFlags = longs[at + ID_AND_FLAGS]!
      const owner = isNextLap ? this.#availOwner ^ OWNER : this.#availOwner
      if (((idAndFlags >>> 16) & OWNER) !== owner) return this.#break(NOT_AVAILABLE)
      const writable = (idAndFlags & IS_WRITABLE) !== 0
      wrong ??=
        (idAndFlags & IS_INDIRECT) !== 0
          ? this.#addTable(slot, true, chain)
          : this.#reader.addBuffer(longs[at]!, longs[at + HIGH]!, longs[at + LENGTH]!, writable, chain)
      slots++
      if ((idAndFlags & HAS_NEXT) === 0) {
        chain.head = idAndFlags & 0xffff
        return this.#moveOn(chain, slots, wrong)
      }
    }
  }

  /** The chain takes the next `slots` slots; `wrong` is the rule that it breaks, if it does. */
  #moveOn(chain: RingChain, slots: number, wrong: string | undefined): number {
    chain.slots = slots
    const next = this.#availSlot + slots
    this.#availSlot = next
    if (next >= this.#seenEnd) this.#passSeen(next)
    if (wrong === undefined) return OK
    this.reason = wrong
    return MALFORMED
  }

  /** What was seen to be available is taken, up to slot `next`, which may be in the next lap. */
  #passSeen(next: number): void {
    if (next >= this.#size) {
      this.#availSlot = next - this.#size
      this.#availOwner ^= OWNER
    }
    this.#seenEnd = this.#availSlot
  }

  #writeUsed(slot: number, owner: number, chain: RingChain, written: number): void {
    const at = LONGS * slot + LENGTH
    const flags = written > 0 ? owner | WRITE : owner
    this.#longs[at] = written
    this.#longs[at + 1] = chain.head | (flags << 16)
  }

  /** The first used descriptor of a batch: its flags are kept back, since they publish all of it. */
  #writeFirst(slot: number, owner: number, chain: RingChain, written: number): void {
    this.#longs[LONGS * slot + LENGTH] = written
    this.#words[WORDS * slot + ID] = chain.head
    this.#firstSlot = slot
    this.#firstFlags = written > 0 ? owner | WRITE : owner
  }

  /** 2.8.22: one used descriptor for a batch, where its first one would be, with the id of its last. */
  #writeInOrder(slot: number, chain: RingChain, written: number, whole: boolean): void {
    if (!this.#joinable) {
      this.#lastSlot = slot
      this.#lastOwner = this.#usedOwner
    }
    this.#joinable = whole
    const isFirst = this.pending === 0 || this.#lastSlot === this.#firstSlot
    if (isFirst) this.#writeFirst(this.#lastSlot, this.#lastOwner, chain, written)
    else this.#writeUsed(this.#lastSlot, this.#lastOwner, chain, written)
  }

  /** 2.8.7: adds the buffers of the indirect table that the descriptor refers to; of its flags WRITE alone counts. */
  #addTable(slot: number, inList: boolean, chain: RingChain): string | undefined {
    if (inList) return "an indirect descriptor within a list" // 2.8.19
    const reader = this.#reader
    const wrong = reader.enterTable(this.#desc, BYTES * slot)
    if (wrong !== undefined) return wrong
    const { table, tableOffset, tableSize } = reader
    for (let index = 0; index < tableSize; index++) {
      const at = tableOffset + BYTES * index
      const writable = (table.getUint16(at + 14, true) & WRITE) !== 0
      const rule = reader.addFrom(table, at, writable, chain)
      if (rule !== undefined) return rule
    }
    return undefined
  }

  /** 2.8.10 and 2.8.21.3.1. Runs after the batch of `count` slots was published. */
  #driverWantsInterrupt(count: number): boolean {
    const event = Atomics.load(this.#driverEvent, 0)
    const flags = (event >>> 16) & 3
    if (flags === RING_EVENT_FLAGS_DISABLE) return false
    if (flags !== RING_EVENT_FLAGS_DESC || !this.#options.eventIdx) return true
    // On a line on which this lap of the ring begins at 0 and the one before it at -size.
    const sameLap = (event & WRAP) === (this.nextUsed & WRAP)
    const position = (event & (WRAP - 1)) - (sameLap ? 0 : this.#size)
    return position < this.#usedSlot && position >= this.#usedSlot - count
  }

  #storeEvent(value: number): void {
    Atomics.store(this.#deviceEvent, 0, value)
    const { memory, used } = this.#options
    if (memory.dirtyTracking !== false) memory.markDirty(used, 4)
  }

  #markUsedDirty(count: number): void {
    const { memory, desc } = this.#options
    const first = this.#firstSlot
    const straight = Math.min(count, this.#size - first)
    memory.markDirty(desc + BYTES * first, BYTES * straight)
    if (straight < count) memory.markDirty(desc, BYTES * (count - straight))
  }

  #break(reason: string): number {
    this.reason = reason
    return BROKEN
  }
}
