import type { Chain, GuestMemory } from "@virtkit/interface"

/** Largest number of entries that an idle chain keeps; longer arrays are given up, so that the pool stays bounded. */
export const KEPT_ENTRIES = 1024

const FIRST_ENTRIES = 16

/** A chain of a split ring. Pooled by its queue: the arrays grow to what the driver uses and stay. */
export class SplitChain implements Chain {
  head = 0
  count = 0
  readable = 0
  readableBytes = 0
  writableBytes = 0
  addresses: Float64Array = new Float64Array(FIRST_ENTRIES)
  lengths: Uint32Array = new Uint32Array(FIRST_ENTRIES)
  /** Order in which chains were popped; for the saved state. */
  sequence = 0
  /** It was in flight when the queue's state was saved, and handed out again after the restore. */
  redelivered = false
  readonly #memory: GuestMemory

  constructor(memory: GuestMemory) {
    this.#memory = memory
  }

  clear(head: number): void {
    this.head = head
    this.count = 0
    this.readable = 0
    this.readableBytes = 0
    this.writableBytes = 0
  }

  append(address: number, length: number, writable: boolean): void {
    const at = this.count
    if (at === this.addresses.length) this.#grow()
    this.addresses[at] = address
    this.lengths[at] = length
    this.count = at + 1
    if (writable) {
      this.writableBytes += length
    } else {
      this.readable = at + 1
      this.readableBytes += length
    }
  }

  trim(): void {
    if (this.addresses.length <= KEPT_ENTRIES) return
    this.addresses = new Float64Array(FIRST_ENTRIES)
    this.lengths = new Uint32Array(FIRST_ENTRIES)
  }

  copyOut(offset: number, target: Uint8Array): number {
    let index = 0
    let skip = offset
    while (index < this.readable && skip >= this.lengths[index]!) skip -= this.lengths[index++]!
    let done = 0
    for (; index < this.readable && done < target.length; index++) {
      const bytes = Math.min(this.lengths[index]! - skip, target.length - done)
      const piece = bytes === target.length ? target : target.subarray(done, done + bytes)
      this.#memory.read(this.addresses[index]! + skip, piece)
      done += bytes
      skip = 0
    }
    return done
  }

  copyIn(offset: number, source: Uint8Array): number {
    let index = this.readable
    let skip = offset
    while (index < this.count && skip >= this.lengths[index]!) skip -= this.lengths[index++]!
    let done = 0
    for (; index < this.count && done < source.length; index++) {
      const bytes = Math.min(this.lengths[index]! - skip, source.length - done)
      const piece = bytes === source.length ? source : source.subarray(done, done + bytes)
      this.#memory.write(this.addresses[index]! + skip, piece)
      done += bytes
      skip = 0
    }
    return done
  }

  #grow(): void {
    const addresses = new Float64Array(this.addresses.length * 2)
    const lengths = new Uint32Array(this.lengths.length * 2)
    addresses.set(this.addresses)
    lengths.set(this.lengths)
    this.addresses = addresses
    this.lengths = lengths
  }
}
