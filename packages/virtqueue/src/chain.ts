import type { Chain, Queue } from "@virtkit/interface"
import type { NearRegion } from "./near-region.js"

/** Largest number of entries that an idle chain keeps; longer arrays are given up, so that the pool stays bounded. */
export const KEPT_ENTRIES = 1024

/** The same for this module, where an exported constant would be looked up at each use. */
const MOST_ENTRIES = KEPT_ENTRIES

const FIRST_ENTRIES = 16

/** Where a chain is: in its queue's pool. */
export const IDLE = 0
/** The device has it. */
export const HELD = 1
/** Taken from the ring, and the next to be popped: it was in flight when the state was saved, or given back by `unpop`. */
export const WAITING = 2
/** The device is done with it, others have to go back to the driver first (VIRTIO_F_IN_ORDER). */
export const DONE = 3

/** A chain of either kind of ring. Pooled by its queue: the arrays grow to what the driver uses and stay. */
export class RingChain implements Chain {
  head = 0
  count = 0
  readable = 0
  readableBytes = 0
  writableBytes = 0
  addresses: Float64Array = new Float64Array(FIRST_ENTRIES)
  lengths: Uint32Array = new Uint32Array(FIRST_ENTRIES)
  /** Entries of the ring that it takes: 1 in the available ring, or the descriptors of a packed ring. */
  slots = 1
  /** IDLE, HELD, WAITING or DONE. */
  phase: number = IDLE
  /** Order in which chains were taken; for the saved state. */
  sequence = 0
  /** Of a DONE chain: what goes into the used element, and whether the writable part was filled. */
  written = 0
  whole = false
  /** Whose chain it is. */
  readonly queue: Queue
  readonly #near: NearRegion

  constructor(near: NearRegion, queue: Queue) {
    this.#near = near
    this.queue = queue
  }

  clear(head: number): void {
    this.head = head
    this.count = 0
    this.readable = 0
    this.readableBytes = 0
    this.writableBytes = 0
  }

  append(address: number, length: number, writable: boolean): void {
    if (this.count === this.addresses.length) this.grow()
    this.addresses[this.count] = address
    this.lengths[this.count] = length
    this.added(length, writable)
  }

  /** Counts a buffer that was put into the arrays behind the last one. */
  added(length: number, writable: boolean): void {
    this.count++
    if (writable) {
      this.writableBytes += length
    } else {
      this.readable = this.count
      this.readableBytes += length
    }
  }

  trim(): void {
    if (this.addresses.length <= MOST_ENTRIES) return
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
      this.#near.read(this.addresses, this.lengths, index, skip, piece)
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
      this.#near.write(this.addresses, this.lengths, index, skip, piece)
      done += bytes
      skip = 0
    }
    return done
  }

  /** Makes room for more buffers. */
  grow(): void {
    const addresses = new Float64Array(this.addresses.length * 2)
    const lengths = new Uint32Array(this.lengths.length * 2)
    addresses.set(this.addresses)
    lengths.set(this.lengths)
    this.addresses = addresses
    this.lengths = lengths
  }
}
