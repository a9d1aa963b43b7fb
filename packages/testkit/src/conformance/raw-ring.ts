import { PackedRingDriver } from "../packed-ring.js"
import type { RingDriver } from "../ring-driver.js"
import { DESCRIPTOR, PACKED_DESCRIPTOR } from "../spec.js"
import type { SplitRingDriver } from "../split-ring.js"

export type RingKind = "split" | "packed"

/** A descriptor as a test writes it. NEXT comes by itself in all but the last of a chain. */
export interface RawBuffer {
  readonly address: number | bigint
  readonly length: number
  readonly flags?: number
  /** Split rings: where the chain goes on, instead of at the next one of the list. */
  readonly next?: number
}

/** What the device wrote into the used ring, or over a descriptor. */
export interface UsedElement {
  readonly id: number
  readonly length: number
}

const { NEXT } = DESCRIPTOR

/**
 * Either kind of ring without the rules: chains of any descriptors, in places that a good driver would take, so that one
 * test breaks a rule on both.
 */
export abstract class RawRing {
  abstract readonly kind: RingKind
  abstract readonly driver: RingDriver

  /** Puts a chain where the next one goes and returns its id. The device sees it after {@link publish}. */
  abstract offer(chain: readonly RawBuffer[]): number
  /** Writes an indirect table at a guest address, its entries linked as this kind of ring wants it. */
  abstract table(address: number, entries: readonly RawBuffer[]): void
  /** What the device gave back since the last call, in its order. */
  abstract takeUsed(): UsedElement[]
  /** Guest address and bytes of what the device reads to see whether the `nth` slot from the start is available. */
  abstract availability(nth: number): Place
  /** What it writes to publish a batch whose first slot is the `nth`. */
  abstract publication(nth: number): Place
  /** Where the driver says whether it wants interrupts. */
  abstract driverEvent(eventIdx: boolean): Place
  /** Where the device says whether it wants notifications. */
  abstract deviceEvent(eventIdx: boolean): Place

  get size(): number {
    return this.driver.size
  }

  publish(): boolean {
    return this.driver.publish()
  }
}

/** A range of guest memory. */
export interface Place {
  readonly address: number
  readonly bytes: number
}

class RawSplitRing extends RawRing {
  readonly kind = "split"
  readonly driver: SplitRingDriver
  #next = 0

  constructor(driver: SplitRingDriver) {
    super()
    this.driver = driver
  }

  offer(chain: readonly RawBuffer[]): number {
    const at = (index: number): number => (this.#next + index) % this.size
    const head = at(0)
    for (const [index, { flags = 0, next, ...rest }] of chain.entries()) {
      const last = index === chain.length - 1
      this.driver.writeDescriptor(at(index), {
        ...rest,
        flags: last ? flags : flags | NEXT,
        next: next ?? (last ? 0 : at(index + 1)),
      })
    }
    this.driver.offerHead(head)
    this.#next = at(chain.length)
    return head
  }

  table(address: number, entries: readonly RawBuffer[]): void {
    for (const [index, { flags = 0, next = index + 1, ...rest }] of entries.entries()) {
      const linked = index < entries.length - 1 ? flags | NEXT : flags
      this.driver.writeDescriptor(index, { ...rest, flags: linked, next }, address)
    }
  }

  takeUsed(): UsedElement[] {
    const used: UsedElement[] = []
    while (this.driver.publishedUsedIndex !== this.driver.usedIndex) {
      used.push(this.driver.usedElement(this.driver.usedIndex))
      this.driver.usedIndex = (this.driver.usedIndex + 1) & 0xffff
    }
    return used
  }

  availability(_nth: number): Place {
    return { address: this.driver.avail + 2, bytes: 2 }
  }

  publication(_nth: number): Place {
    return { address: this.driver.used + 2, bytes: 2 }
  }

  driverEvent(eventIdx: boolean): Place {
    return { address: this.driver.avail + (eventIdx ? 4 + 2 * this.size : 0), bytes: 2 }
  }

  deviceEvent(eventIdx: boolean): Place {
    return { address: this.driver.used + (eventIdx ? 4 + 8 * this.size : 0), bytes: 2 }
  }
}

class RawPackedRing extends RawRing {
  readonly kind = "packed"
  readonly driver: PackedRingDriver
  /** Slots by id, of the chains that the device has. */
  readonly #slots = new Map<number, number>()
  #nextId = 0
  #usedSlot: number
  #usedWrap: boolean

  constructor(driver: PackedRingDriver) {
    super()
    this.driver = driver
    this.#usedSlot = driver.usedPosition & 0x7fff
    this.#usedWrap = (driver.usedPosition & 0x8000) !== 0
  }

  offer(chain: readonly RawBuffer[]): number {
    // One that the device does not have, if there is one.
    for (let tries = 0; tries < this.size && this.#slots.has(this.#nextId % this.size); tries++)
      this.#nextId++
    const id = this.#nextId++ % this.size
    const last = chain.length - 1
    this.driver.offer(
      chain.map(({ address, length, flags = 0 }, index) => {
        // The id of any but the last is not looked at (2.8.6): make sure of that.
        return index < last
          ? { address, length, flags: flags | NEXT, id: 0xffff }
          : { address, length, flags, id }
      }),
    )
    this.#slots.set(id, chain.length)
    return id
  }

  table(address: number, entries: readonly RawBuffer[]): void {
    for (const [index, { flags = 0, address: at, length }] of entries.entries()) {
      this.driver.writeDescriptor(index, { address: at, length, flags }, address)
    }
  }

  takeUsed(): UsedElement[] {
    const both = PACKED_DESCRIPTOR.AVAIL | PACKED_DESCRIPTOR.USED
    const used: UsedElement[] = []
    for (;;) {
      const { id, length, flags } = this.driver.descriptor(this.#usedSlot)
      if ((flags & both) !== (this.#usedWrap ? both : 0)) return used
      const slots = this.#slots.get(id)
      if (slots === undefined) throw new Error(`the device gave back ${id}, which it did not have`)
      this.#slots.delete(id)
      used.push({ id, length })
      this.#usedSlot += slots
      if (this.#usedSlot < this.size) continue
      this.#usedSlot -= this.size
      this.#usedWrap = !this.#usedWrap
    }
  }

  availability(nth: number): Place {
    return { address: this.driver.desc + DESCRIPTOR.BYTES * (nth % this.size) + 14, bytes: 2 }
  }

  publication(nth: number): Place {
    return this.availability(nth)
  }

  driverEvent(_eventIdx: boolean): Place {
    return { address: this.driver.avail, bytes: 4 }
  }

  deviceEvent(_eventIdx: boolean): Place {
    return { address: this.driver.used, bytes: 4 }
  }
}

export function rawRing(driver: SplitRingDriver | PackedRingDriver): RawRing {
  return driver instanceof PackedRingDriver ? new RawPackedRing(driver) : new RawSplitRing(driver)
}

/** The driver of a ring that is known to be a split one. */
export function splitDriver(ring: RawRing): SplitRingDriver {
  return (ring as RawSplitRing).driver
}

/** The driver of a ring that is known to be a packed one. */
export function packedDriver(ring: RawRing): PackedRingDriver {
  return (ring as RawPackedRing).driver
}
