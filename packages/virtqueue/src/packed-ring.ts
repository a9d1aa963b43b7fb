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
/** 32-bit words of a descriptor, and where its length is and its id with the flags. */
const LONGS = 4
const LENGTH = 2
const ID_AND_FLAGS = 3

const OWNER = VIRTQ_DESC_F_AVAIL | VIRTQ_DESC_F_USED

/** How many slots {@link PackedRing} looks at together. */
const LOOK_AHEAD = 32

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
  #availOwner: number = VIRTQ_DESC_F_AVAIL
  /** Slots from there on that were seen to be available. */
  #seen = 0
  /** Slot of the next used descriptor, and the AVAIL and USED bits of one there. */
  #usedSlot = 0
  #usedOwner: number = OWNER
  /** Slots from the first one that the driver does not know to be used up to `#availSlot`. */
  #taken = 0
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
    return this.#availSlot | (this.#availOwner === VIRTQ_DESC_F_AVAIL ? WRAP : 0)
  }

  get nextUsed(): number {
    return this.#usedSlot | (this.#usedOwner === OWNER ? WRAP : 0)
  }

  take(chain: RingChain): number {
    if (this.#seen === 0 && !this.#look()) return EMPTY
    const slot = this.#availSlot
    // In one, and once: the guest may change it meanwhile.
    const idAndFlags = this.#longs[LONGS * slot + ID_AND_FLAGS]!
    const flags = idAndFlags >>> 16
    if ((flags & OWNER) !== this.#availOwner) return this.#break(NOT_AVAILABLE)
    if (this.#taken === this.#size) return this.#break("more descriptors available than there is room for, 0")
    if ((flags & VIRTQ_DESC_F_NEXT) !== 0) return this.#takeList(flags, chain)
    chain.clear(idAndFlags & 0xffff)
    const wrong =
      (flags & VIRTQ_DESC_F_INDIRECT) !== 0
        ? this.#addTable(slot, chain)
        : this.#reader.addBuffer(this.#desc, DESC_BYTES * slot, (flags & VIRTQ_DESC_F_WRITE) !== 0, chain)
    return this.#moveOn(chain, 1, wrong)
  }

  complete(chain: RingChain, written: number, whole: boolean): void {
    let slot = this.#usedSlot
    let owner = this.#usedOwner
    if (this.#inOrder) {
      // 2.8.22: one used descriptor for a batch, where its first one would be, with the id of its last.
      if (this.#joinable) {
        slot = this.#lastSlot
        owner = this.#lastOwner
      }
      this.#lastSlot = slot
      this.#lastOwner = owner
      this.#joinable = whole
    }
    const flags = written > 0 ? owner | VIRTQ_DESC_F_WRITE : owner
    this.#longs[LONGS * slot + LENGTH] = written
    if (this.pending === 0) this.#firstSlot = slot
    if (slot === this.#firstSlot) {
      this.#words[WORDS * slot + ID] = chain.head
      this.#firstFlags = flags
    } else {
      this.#longs[LONGS * slot + ID_AND_FLAGS] = chain.head | (flags << 16)
    }
    const { slots } = chain
    this.pending += slots
    const next = this.#usedSlot + slots
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
    this.#taken -= count
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

  restore(nextAvail: number, nextUsed: number, chains: readonly RingChain[]): void {
    this.#availSlot = nextAvail & ~WRAP
    this.#availOwner = (nextAvail & WRAP) !== 0 ? VIRTQ_DESC_F_AVAIL : VIRTQ_DESC_F_USED
    this.#usedSlot = nextUsed & ~WRAP
    this.#usedOwner = (nextUsed & WRAP) !== 0 ? OWNER : 0
    this.#taken = 0
    for (const chain of chains) this.#taken += chain.slots
  }

  /**
   * Looks whether the next slot is available, and how many behind it up to the end of the ring, so that one barrier does
   * for all of them: an atomic load costs more than the rest of a look.
   */
  #look(): boolean {
    const words = this.#words
    const owner = this.#availOwner
    const first = this.#availSlot
    if ((Atomics.load(words, WORDS * first + FLAGS) & OWNER) !== owner) return false
    const end = Math.min(first + LOOK_AHEAD, this.#size)
    let slot = first + 1
    while (slot < end && (words[WORDS * slot + FLAGS]! & OWNER) === owner) slot++
    this.#seen = slot - first
    // The flags of the others were loaded after the first ones, what else is in their slots comes after these.
    if (this.#seen > 1) Atomics.load(words, WORDS * (slot - 1) + FLAGS)
    return true
  }

  /** 2.8.6: several descriptors in a row, all but the last with NEXT. `flags` are those of the first. */
  #takeList(flags: number, chain: RingChain): number {
    const size = this.#size
    // A list with no end, or more than the driver has got back (bad-input #8, #15, #17), stops here: every descriptor
    // takes a slot, and where the chain ends, so its id, would be anybody's guess.
    const room = size - this.#taken
    const longs = this.#longs
    const desc = this.#desc
    const reader = this.#reader
    let slot = this.#availSlot
    let owner = this.#availOwner
    let slots = 0
    let id = 0
    let wrong: string | undefined
    chain.clear(0)
    for (;;) {
      // The rest of a malformed list is read for its end only.
      if (wrong === undefined) {
        wrong =
          (flags & VIRTQ_DESC_F_INDIRECT) !== 0
            ? "an indirect descriptor within a list" // 2.8.19
            : reader.addBuffer(desc, DESC_BYTES * slot, (flags & VIRTQ_DESC_F_WRITE) !== 0, chain)
      }
      slots++
      if ((flags & VIRTQ_DESC_F_NEXT) === 0) break
      if (slots === room) return this.#break(`more descriptors available than there is room for, ${room}`)
      slot++
      if (slot === size) {
        slot = 0
        owner ^= OWNER
      }
      const idAndFlags = longs[LONGS * slot + ID_AND_FLAGS]!
      flags = idAndFlags >>> 16
      if ((flags & OWNER) !== owner) return this.#break(NOT_AVAILABLE)
      id = idAndFlags & 0xffff
    }
    // 2.8.6: that of the last descriptor.
    chain.head = id
    return this.#moveOn(chain, slots, wrong)
  }

  /** The chain takes the next `slots` slots; `wrong` is the rule that it breaks, if it does. */
  #moveOn(chain: RingChain, slots: number, wrong: string | undefined): number {
    chain.slots = slots
    this.#taken += slots
    this.#seen = slots < this.#seen ? this.#seen - slots : 0
    const next = this.#availSlot + slots
    if (next < this.#size) {
      this.#availSlot = next
    } else {
      this.#availSlot = next - this.#size
      this.#availOwner ^= OWNER
    }
    if (wrong === undefined) return TAKEN
    this.reason = wrong
    return MALFORMED
  }

  /** 2.8.7: adds the buffers of the indirect table that the descriptor refers to; of its flags WRITE alone counts. */
  #addTable(slot: number, chain: RingChain): string | undefined {
    const reader = this.#reader
    const wrong = reader.enterTable(this.#desc, DESC_BYTES * slot)
    if (wrong !== undefined) return wrong
    const { table, tableOffset, tableSize } = reader
    for (let index = 0; index < tableSize; index++) {
      const at = tableOffset + DESC_BYTES * index
      const writable = (table.getUint16(at + 14, true) & VIRTQ_DESC_F_WRITE) !== 0
      const rule = reader.addBuffer(table, at, writable, chain)
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
    memory.markDirty(desc + DESC_BYTES * first, DESC_BYTES * straight)
    if (straight < count) memory.markDirty(desc, DESC_BYTES * (count - straight))
  }

  #break(reason: string): number {
    this.reason = reason
    return BROKEN
  }
}
