import type { GuestMemory } from "@virtkit/interface"
import { availableSlots, packedChain, type ReferenceChain, splitChain } from "./ring-reference.js"

export interface RingModelOptions {
  readonly memory: GuestMemory
  readonly packed: boolean
  readonly size: number
  readonly indirect: boolean
  readonly inOrder: boolean
  readonly desc: number
  readonly avail: number
  readonly used: number
  /** Split: both indexes. Packed: a slot, with the wrap counter in bit 15. */
  readonly start: number
}

/** A chain that the device took. */
export interface Taken extends ReferenceChain {
  done: boolean
  /** Once it is done: what the driver is told. */
  written: number
}

/** What a device makes of a ring, by the letter; it only looks at guest memory. */
export class RingModel {
  /** Positions as saved states have them. */
  nextAvail: number
  nextUsed: number
  broken = false
  malformed = 0
  /** Given back, and not visible to the driver yet. */
  readonly pending: Taken[] = []
  readonly #options: RingModelOptions
  /** With IN_ORDER: what was taken, oldest first. */
  readonly #order: Taken[] = []
  readonly #busy = new Set<number>()
  /** Split: avail.idx when it was last looked at. It is not looked at while there is more of what it offered. */
  #known: number
  /** Packed: slots that the driver does not have back. */
  #slots = 0
  /** Packed: up to there slots of this lap were available when they were last looked at, which is when none of them is left. */
  #seen: number

  constructor(options: RingModelOptions) {
    this.#options = options
    this.nextAvail = options.start
    this.nextUsed = options.start
    this.#known = options.start
    this.#seen = options.start & 0x7fff
  }

  /** The next chain that keeps the rules. Those before it that do not go back at once. */
  pop(): Taken | undefined {
    const before = this.malformed
    let found: Taken | undefined
    while (found === undefined && !this.broken) {
      const next = this.#options.packed ? this.#nextPacked() : this.#nextSplit()
      if (next === undefined) break
      if (next === "broken") this.broken = true
      else if (next.buffers === undefined) this.#refuse(next)
      else found = this.#taken(next)
    }
    if (this.malformed > before) this.publish()
    return found
  }

  giveBack(chain: Taken, written: number): void {
    chain.done = true
    chain.written = written
    if (!this.#options.inOrder) {
      this.#complete(chain)
      return
    }
    while (this.#order[0]?.done) this.#complete(this.#order.shift()!)
  }

  /** Returns what the driver sees from now on. */
  publish(): Taken[] {
    for (const { slots } of this.pending) {
      this.nextUsed = this.#moved(this.nextUsed, slots)
      this.#slots -= slots
    }
    return this.pending.splice(0)
  }

  /** The device side was replaced by another one that goes on from the saved state. */
  restored(): void {
    this.#known = this.nextAvail
    this.#seen = this.nextAvail & 0x7fff
  }

  #refuse(chain: ReferenceChain): void {
    this.malformed++
    this.giveBack(this.#taken(chain), 0)
  }

  #taken(chain: ReferenceChain): Taken {
    const taken = { ...chain, done: false, written: 0 }
    this.#busy.add(chain.head)
    this.#slots += chain.slots
    const before = this.nextAvail & 0x7fff
    this.nextAvail = this.#moved(this.nextAvail, chain.slots)
    if (before + chain.slots >= this.#seen) this.#seen = this.nextAvail & 0x7fff
    if (this.#options.inOrder) this.#order.push(taken)
    return taken
  }

  #complete(chain: Taken): void {
    this.#busy.delete(chain.head)
    this.pending.push(chain)
  }

  #nextSplit(): ReferenceChain | undefined | "broken" {
    const { memory, size, desc, avail, indirect } = this.#options
    if (this.nextAvail === this.#known) {
      this.#known = memory.readUint16(avail + 2)
      const offered = (this.#known - this.nextAvail) & 0xffff
      if (offered === 0) return undefined
      // bad-input #15 and #17: more than the driver has got back.
      if (offered > size - ((this.nextAvail - this.nextUsed) & 0xffff)) return "broken"
    }
    const head = memory.readUint16(avail + 4 + 2 * (this.nextAvail % size))
    if (head >= size || this.#busy.has(head)) return "broken"
    return splitChain(memory, desc, size, indirect, head)
  }

  #nextPacked(): ReferenceChain | undefined | "broken" {
    const { memory, size, desc, indirect } = this.#options
    const [slot, wrap] = [this.nextAvail & 0x7fff, (this.nextAvail & 0x8000) !== 0]
    const room = size - this.#slots
    if (slot === this.#seen) {
      this.#seen += availableSlots(memory, desc, slot, wrap, Math.min(room, size - slot))
    }
    return packedChain(memory, desc, size, indirect, room, slot, wrap, this.#seen)
  }

  #moved(position: number, slots: number): number {
    const { packed, size } = this.#options
    if (!packed) return (position + slots) & 0xffff
    const slot = (position & 0x7fff) + slots
    const wrap = position & 0x8000
    return slot < size ? slot | wrap : (slot - size) | (wrap ^ 0x8000)
  }
}
