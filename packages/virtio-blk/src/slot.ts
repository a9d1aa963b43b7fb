import type { Chain, Queue } from "@virtkit/interface"
import type { BlockRequest } from "./backend.js"
import { MAX_RANGES } from "./constants.js"

/** Largest number of data segments whose arrays an idle slot keeps. */
const KEPT_SEGMENTS = 1024

/** A request in flight: what the backend sees of it, and what the device needs to answer it. Reused. */
export class Slot implements BlockRequest {
  readonly tag: number
  op = 0
  offset = 0
  length = 0
  sync = false
  unmap = false
  addresses: Float64Array = new Float64Array(16)
  lengths: Uint32Array = new Uint32Array(16)
  count = 0

  chain: Chain | undefined
  queue: Queue | undefined
  /** Ranges of a discard or write zeroes request, done one after the other. */
  readonly #rangeOffsets = new Float64Array(MAX_RANGES)
  readonly #rangeLengths = new Float64Array(MAX_RANGES)
  readonly #rangeUnmaps = new Uint8Array(MAX_RANGES)
  #rangeCount = 0
  #nextRange = 0

  constructor(tag: number) {
    this.tag = tag
  }

  begin(chain: Chain, queue: Queue): void {
    this.chain = chain
    this.queue = queue
    this.count = 0
    this.#rangeCount = 0
    this.#nextRange = 0
    this.sync = false
    this.unmap = false
  }

  /** At most MAX_RANGES times. */
  addRange(offset: number, length: number, unmap: boolean): void {
    const index = this.#rangeCount++
    this.#rangeOffsets[index] = offset
    this.#rangeLengths[index] = length
    this.#rangeUnmaps[index] = unmap ? 1 : 0
  }

  /** Makes the next range, if there is one, the one to carry out. */
  advance(): boolean {
    const index = this.#nextRange
    if (index >= this.#rangeCount) return false
    this.#nextRange = index + 1
    this.offset = this.#rangeOffsets[index]!
    this.length = this.#rangeLengths[index]!
    this.unmap = this.#rangeUnmaps[index] === 1
    return true
  }

  /** Takes `length` bytes of one part of the chain, from `skip` bytes into it, as the data segments. */
  setData(skip: number, length: number, writable: boolean): void {
    const chain = this.chain!
    let toSkip = skip
    let left = length
    for (let i = writable ? chain.readable : 0; left > 0; i++) {
      const size = chain.lengths[i]!
      if (toSkip >= size) {
        toSkip -= size
        continue
      }
      const bytes = Math.min(size - toSkip, left)
      const at = this.count++
      if (at === this.addresses.length) this.#grow()
      // No call takes the address: V8 may allocate a number above 2^31 for that.
      this.addresses[at] = chain.addresses[i]! + toSkip
      this.lengths[at] = bytes
      left -= bytes
      toSkip = 0
    }
  }

  end(): void {
    this.chain = undefined
    this.queue = undefined
    if (this.addresses.length > KEPT_SEGMENTS) {
      this.addresses = new Float64Array(16)
      this.lengths = new Uint32Array(16)
    }
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
