import type { GuestMemory } from "@virtkit/interface"
import type { TestAllocator } from "./allocator.js"
import {
  type ChainRequest,
  type DriverBuffer,
  type DriverChain,
  finishChain,
  makeBuffers,
  type RingDriver,
} from "./ring-driver.js"
import { DESCRIPTOR, PACKED_DESCRIPTOR, PACKED_EVENT } from "./spec.js"

export interface PackedRingOptions {
  readonly memory: GuestMemory
  /** Rings, indirect tables and buffers are allocated here. */
  readonly allocator: TestAllocator
  /** Queue size, any number from 1 to 32768. */
  readonly size: number
  /** VIRTIO_F_RING_EVENT_IDX was negotiated. Default false. */
  readonly eventIdx?: boolean
  /** VIRTIO_F_IN_ORDER was negotiated. Default false. */
  readonly inOrder?: boolean
  /** Slot to start from, the wrap counter in bit 15, for rings in mid-life. Default 0x8000, a new ring. */
  readonly startPosition?: number
}

/** The fields of one descriptor of a packed ring (2.8.13). */
export interface RawPackedDescriptor {
  readonly address: number | bigint
  readonly length: number
  readonly flags: number
  readonly id?: number
}

/** A slot of the ring, and the wrap counter of who gets there (2.8.1). */
interface Position {
  slot: number
  wrap: boolean
}

interface Submitted {
  readonly chain: DriverChain
  readonly slots: number
  readonly allocations: readonly number[]
}

/**
 * The driver side of a packed virtqueue (virtio 1.3, section 2.8), over any guest memory.
 *
 * `add` and `publish` follow the rules; `writeDescriptor` and `offer` let a test break each of them on purpose.
 */
export class PackedRingDriver implements RingDriver {
  readonly size: number
  /** Guest addresses: descriptor ring, driver and device event suppression structure. */
  readonly desc: number
  readonly avail: number
  readonly used: number

  readonly #memory: GuestMemory
  readonly #allocator: TestAllocator
  readonly #eventIdx: boolean
  readonly #inOrder: boolean
  readonly #avail: Position
  readonly #used: Position
  readonly #freeIds: number[] = []
  #freeSlots: number
  /** In the order in which they were added. */
  readonly #submitted = new Map<number, Submitted>()
  /** Flags that {@link publish} has to write, and where: those of the first descriptor that the device cannot see yet. */
  #held: { slot: number; flags: number } | undefined
  /** Slots filled since the last {@link publish}. */
  #added = 0
  #interrupts = true

  constructor(options: PackedRingOptions) {
    const { memory, allocator, size, startPosition = 0x8000 } = options
    this.size = size
    this.#memory = memory
    this.#allocator = allocator
    this.#eventIdx = options.eventIdx ?? false
    this.#inOrder = options.inOrder ?? false
    this.#avail = { slot: startPosition & 0x7fff, wrap: (startPosition & 0x8000) !== 0 }
    this.#used = { ...this.#avail }
    this.#freeSlots = size
    this.desc = allocator.allocate(DESCRIPTOR.BYTES * size, 16)
    this.avail = allocator.allocate(4, 4)
    this.used = allocator.allocate(4, 4)
    memory.fill(this.desc, DESCRIPTOR.BYTES * size, 0)
    memory.fill(this.avail, 4, 0)
    memory.fill(this.used, 4, 0)
    // As the laps before have left it: all used, those behind the start with the present wrap counter.
    for (let slot = 0; slot < size; slot++) {
      memory.writeUint16(this.#flagsAt(slot), usedBits(slot < this.#avail.slot === this.#avail.wrap))
    }
    for (let id = size - 1; id >= 0; id--) this.#freeIds.push(id)
    if (this.#eventIdx) this.#writeEvent(PACKED_EVENT.DESC, this.#used)
  }

  get freeDescriptors(): number {
    return this.#freeSlots
  }

  get inFlight(): number {
    return this.#submitted.size
  }

  /** Where the next chain goes: slot, and wrap counter in bit 15. */
  get availPosition(): number {
    return encode(this.#avail)
  }

  /** Where the next used descriptor is expected. */
  get usedPosition(): number {
    return encode(this.#used)
  }

  add(request: ChainRequest): DriverChain {
    const total = (request.readable?.length ?? 0) + (request.writable?.length ?? 0)
    const direct = (request.layout ?? "direct") === "direct"
    const slots = direct ? total : 1
    if (total === 0) throw new Error("a chain needs a buffer")
    if (slots > this.#freeSlots) throw new Error("ring full")

    const buffers = makeBuffers(this.#memory, this.#allocator, request)
    const allocations = buffers.map((buffer) => buffer.address)
    const id = this.#freeIds.pop()!
    if (direct) {
      this.offer(
        buffers.map((buffer, at) => {
          const next = at + 1 < buffers.length ? DESCRIPTOR.NEXT : 0
          // The id of any but the last is not looked at (2.8.6): make sure of that.
          return { ...fields(buffer), flags: writeFlag(buffer) | next, id: next === 0 ? id : 0xffff }
        }),
      )
    } else {
      const length = DESCRIPTOR.BYTES * total
      const table = this.#allocator.allocate(length)
      allocations.push(table)
      for (const [at, buffer] of buffers.entries()) {
        this.writeDescriptor(at, { ...fields(buffer), flags: writeFlag(buffer) }, table)
      }
      this.offer([{ address: table, length, flags: DESCRIPTOR.INDIRECT, id }])
    }
    this.#freeSlots -= slots
    const chain: DriverChain = { head: id, buffers, written: undefined, data: undefined }
    this.#submitted.set(id, { chain, slots, allocations })
    return chain
  }

  publish(): boolean {
    const added = this.#added
    this.#added = 0
    if (this.#held !== undefined) this.#memory.writeUint16(this.#flagsAt(this.#held.slot), this.#held.flags)
    this.#held = undefined
    if (added === 0) return false
    const event = {
      off: this.#memory.readUint16(this.used),
      flags: this.#memory.readUint16(this.used + 2) & 3,
    }
    if (event.flags !== PACKED_EVENT.DESC) return event.flags === PACKED_EVENT.ENABLE
    return this.#passed(this.#avail, added, event.off)
  }

  reap(): DriverChain[] {
    const reaped: DriverChain[] = []
    while (this.#isUsed()) {
      const at = this.desc + DESCRIPTOR.BYTES * this.#used.slot
      const length = this.#memory.readUint32(at + 8)
      const id = this.#memory.readUint16(at + 12)
      // Those that were left out are full (2.8.22).
      for (const one of this.#inOrder ? this.#batch(id) : [id]) {
        reaped.push(this.#finish(one, one === id ? length : undefined))
      }
      if (this.#eventIdx && this.#interrupts) this.#writeEvent(PACKED_EVENT.DESC, this.#used)
    }
    return reaped
  }

  disableInterrupts(): void {
    this.#interrupts = false
    this.#writeEvent(PACKED_EVENT.DISABLE, { slot: 0, wrap: false })
  }

  enableInterrupts(): boolean {
    this.#interrupts = true
    if (this.#eventIdx) this.#writeEvent(PACKED_EVENT.DESC, this.#used)
    else this.#writeEvent(PACKED_EVENT.ENABLE, { slot: 0, wrap: false })
    return this.#isUsed()
  }

  delayInterrupts(count: number): boolean {
    this.#interrupts = false
    const at = { ...this.#used }
    // Chains take one slot at least: by the time that `count` came back, this one was passed.
    this.#advance(at, count - 1)
    this.#writeEvent(PACKED_EVENT.DESC, at)
    return this.#isUsed()
  }

  // What follows knows no rules.

  /** Writes a descriptor, of the ring or of the indirect table at guest address `table`, with these very flags. */
  writeDescriptor(slot: number, descriptor: RawPackedDescriptor, table: number = this.desc): void {
    const at = table + DESCRIPTOR.BYTES * slot
    this.#memory.writeBigUint64(at, BigInt(descriptor.address))
    this.#memory.writeUint32(at + 8, descriptor.length)
    this.#memory.writeUint16(at + 12, descriptor.id ?? 0)
    this.#memory.writeUint16(at + 14, descriptor.flags)
  }

  /** Puts descriptors into the next slots, whoever they belong to, as available; seen after {@link publish}. */
  offer(descriptors: readonly RawPackedDescriptor[]): void {
    for (const descriptor of descriptors) {
      const { slot } = this.#avail
      const flags = descriptor.flags ^ availBits(this.#avail.wrap)
      const first = this.#held === undefined
      this.writeDescriptor(slot, { ...descriptor, flags: first ? this.descriptor(slot).flags : flags })
      if (first) this.#held = { slot, flags }
      this.#advance(this.#avail, 1)
      this.#added++
    }
  }

  /** What the slot holds, whoever wrote it. */
  descriptor(slot: number): { id: number; length: number; flags: number } {
    const at = this.desc + DESCRIPTOR.BYTES * slot
    const [length, id] = [this.#memory.readUint32(at + 8), this.#memory.readUint16(at + 12)]
    return { id, length, flags: this.#memory.readUint16(at + 14) }
  }

  #flagsAt(slot: number): number {
    return this.desc + DESCRIPTOR.BYTES * slot + 14
  }

  #isUsed(): boolean {
    const { AVAIL, USED } = PACKED_DESCRIPTOR
    return (
      (this.#memory.readUint16(this.#flagsAt(this.#used.slot)) & (AVAIL | USED)) === usedBits(this.#used.wrap)
    )
  }

  /** 2.8.14: whether the slot and wrap counter `event` lie in the step of `count` slots that ended at `now`. */
  #passed(now: Position, count: number, event: number): boolean {
    const at = { slot: event & 0x7fff, wrap: (event & 0x8000) !== 0 }
    const distance = now.slot - at.slot + (now.wrap === at.wrap ? 0 : this.size)
    return distance >= 1 && distance <= count
  }

  #writeEvent(flags: number, at: Position): void {
    this.#memory.writeUint16(this.avail, encode(at))
    this.#memory.writeUint16(this.avail + 2, flags)
  }

  #advance(position: Position, slots: number): void {
    position.slot += slots
    if (position.slot < this.size) return
    position.slot -= this.size
    position.wrap = !position.wrap
  }

  /** 2.8.22: the chains up to the one that was given back, in the order in which they were made available. */
  #batch(id: number): number[] {
    const ids = [...this.#submitted.keys()]
    const position = ids.indexOf(id)
    return position < 0 ? [id] : ids.slice(0, position + 1)
  }

  #finish(id: number, length: number | undefined): DriverChain {
    const submitted = this.#submitted.get(id)
    if (submitted === undefined) throw new Error(`the device gave back ${id}, which it did not have`)
    this.#submitted.delete(id)
    const { chain, slots, allocations } = submitted
    finishChain(this.#memory, chain, length)
    for (const address of allocations) this.#allocator.free(address)
    this.#freeIds.push(id)
    this.#freeSlots += slots
    this.#advance(this.#used, slots)
    return chain
  }
}

/** 2.8.1: AVAIL is the wrap counter, USED is not. */
function availBits(wrap: boolean): number {
  return wrap ? PACKED_DESCRIPTOR.AVAIL : PACKED_DESCRIPTOR.USED
}

/** 2.8.1: both are the wrap counter. */
function usedBits(wrap: boolean): number {
  return wrap ? PACKED_DESCRIPTOR.AVAIL | PACKED_DESCRIPTOR.USED : 0
}

function encode({ slot, wrap }: Position): number {
  return slot | (wrap ? 0x8000 : 0)
}

function fields({ address, length }: DriverBuffer): { address: number; length: number } {
  return { address, length }
}

function writeFlag(buffer: DriverBuffer): number {
  return buffer.writable ? DESCRIPTOR.WRITE : 0
}
