import type { Chain, GuestMemory, Queue } from "@virtkit/interface"
import { VIRTIO_F_IN_ORDER } from "@virtkit/virtqueue"
import type { ReceiveBuffers } from "./backend.js"
import { completeChecksum } from "./checksum.js"
import { ETHERNET_HEADER_BYTES, HEADER_BYTES, MAX_FRAME_BYTES } from "./constants.js"
import type { NetCore } from "./core.js"
import {
  CHECKSUM_FLAGS,
  gsoAllowed,
  type MutableNetHeader,
  type NetHeader,
  newHeader,
  readHeader,
  wirePackets,
  writeHeader,
} from "./header.js"
import { OFFLOAD_CSUM } from "./offloads.js"

/** Buffers taken from the ring at once; a frame of 64 KiB needs 43 of the size of an MTU. */
const MAX_WAITING = 256

/** One receive queue (5.1.6.3, 5.1.6.4): the buffers that the driver gave, and the way of frames into them. */
export class ReceiveQueue implements ReceiveBuffers {
  readonly limit: number
  readonly mergeable: boolean
  readonly inOrder: boolean
  readonly #pair: number
  readonly #queue: Queue
  readonly #core: NetCore
  /** A ring of the chains that wait: from `#head`, `count` of them. */
  readonly #waiting: (Chain | undefined)[]
  readonly #mask: number
  #head = 0
  #count = 0
  /** Bytes of the buffers that wait. */
  #capacity = 0
  /** The backend waits for buffers. */
  #starved = false
  #closed = false
  readonly #headerBytes = new Uint8Array(HEADER_BYTES)
  readonly #header: MutableNetHeader = newHeader()
  /** For frames whose checksum must be filled in. */
  #scratch: Uint8Array | undefined

  constructor(pair: number, queue: Queue, core: NetCore) {
    this.#pair = pair
    this.#queue = queue
    this.#core = core
    this.mergeable = core.mergeable
    this.inOrder = (core.context.features & VIRTIO_F_IN_ORDER) !== 0n
    this.limit = Math.min(queue.size, MAX_WAITING)
    let slots = 1
    while (slots < this.limit) slots *= 2
    this.#waiting = new Array<Chain | undefined>(slots).fill(undefined)
    this.#mask = slots - 1
    // Buffers are looked for when a frame needs them.
    queue.disableNotification()
  }

  get count(): number {
    return this.#count
  }

  get checksums(): boolean {
    return (this.#core.receiveOffloads & OFFLOAD_CSUM) !== 0
  }

  /** After a reset: late calls of a backend do nothing. */
  close(): void {
    this.#closed = true
    this.#waiting.fill(undefined)
    this.#count = 0
    this.#capacity = 0
  }

  /** The driver gave buffers, or may have. */
  notify(): void {
    if (this.#starved) this.ready()
  }

  /** The backend may go on. */
  ready(): void {
    this.#starved = false
    if (this.#closed) return
    this.#core.backend.receiveReady?.(this.#pair)
  }

  at(index: number): Chain {
    return this.#waiting[(this.#head + index) & this.#mask]!
  }

  refill(bytes = 1): boolean {
    if (this.#closed) return false
    const queue = this.#queue
    // Each round is bounded, because a driver may give useless chains as fast as they go back (bad-input #16).
    for (let useless = 0; this.#count < this.limit && useless < queue.size; ) {
      const chain = queue.pop()
      if (chain === undefined) {
        if (this.#capacity >= bytes || !this.#askForMore()) break
        useless++
      } else if (chain.writableBytes < HEADER_BYTES) {
        // 5.1.6.3.1: each buffer holds the header at least. The driver gets it back unused (bad-input #20).
        this.#core.counters.malformed++
        queue.push(chain, 0)
        useless++
      } else {
        this.#append(chain)
      }
    }
    const enough = this.#capacity >= bytes
    if (!enough && this.#count < this.limit && this.#askForMore()) {
      this.#core.context.defer(() => this.notify())
    }
    return enough
  }

  allowance(): number {
    if (!this.#core.receiveLimiter.limited) return Number.POSITIVE_INFINITY
    const allowed = this.#core.receiveLimiter.allowance()
    if (allowed === 0) {
      this.#core.counters.rxLimited++
      this.#starved = true
    }
    return allowed
  }

  filled(buffers: number, bytes: number, head: Uint8Array, headOffset: number): boolean {
    const core = this.#core
    const length = bytes - HEADER_BYTES
    if (!this.#wanted(head, headOffset + HEADER_BYTES, length)) {
      for (let i = 0; i < buffers && !this.inOrder; i++) this.#append(this.#shift())
      return false
    }
    if (core.capture !== undefined || core.receiveLimiter.limited) {
      readHeader(head, headOffset, this.#header)
      core.receiveLimiter.take(length, wirePackets(this.#header, length))
      core.capture?.chains(core.context.memory, this, buffers, length, this.#header)
    }
    const untracked = core.context.memory.dirtyTracking === false
    let left = bytes
    for (let i = 0; i < buffers; i++) {
      const chain = this.#shift()
      const written = Math.min(left, chain.writableBytes)
      left -= written
      if (!untracked) markWritten(core.context.memory, chain, written)
      this.#queue.push(chain, written)
    }
    this.#received(length)
    return true
  }

  dropped(reason: "tooLong" | "error"): void {
    if (reason === "tooLong") this.#core.counters.rxTooLong++
    else this.#core.counters.rxErrors++
  }

  /** See `NetSession.receive`. */
  receive(frame: Uint8Array, header?: NetHeader): boolean {
    const core = this.#core
    const { length } = frame
    if (this.#closed || !this.#wanted(frame, 0, length)) return true
    if (!this.#prepareHeader(header)) {
      core.counters.rxErrors++
      return true
    }
    if (this.allowance() < 1) return false
    const needed = HEADER_BYTES + length
    if (!this.#roomFor(needed)) {
      // No more buffers can come than these: it will never fit.
      if (this.#count < (this.mergeable ? this.limit : 1)) return false
      core.counters.rxTooLong++
      return true
    }
    const source = header === undefined ? frame : this.#withChecksum(frame, header)
    core.receiveLimiter.take(length, wirePackets(this.#header, length))
    core.capture?.frame("in", source, this.#header)
    this.#copy(source, needed)
    this.#received(length)
    return true
  }

  flush(): void {
    if (!this.#closed) this.#queue.flush()
  }

  #append(chain: Chain): void {
    this.#waiting[(this.#head + this.#count) & this.#mask] = chain
    this.#count++
    this.#capacity += chain.writableBytes
  }

  #shift(): Chain {
    const slot = this.#head & this.#mask
    const chain = this.#waiting[slot]!
    this.#waiting[slot] = undefined
    this.#head = (this.#head + 1) & this.#mask
    this.#count--
    this.#capacity -= chain.writableBytes
    return chain
  }

  /** Whether buffers are there; if not, the driver will notify. */
  #askForMore(): boolean {
    this.#queue.flush()
    this.#starved = true
    if (!this.#queue.enableNotification()) return false
    this.#queue.disableNotification()
    return true
  }

  #wanted(bytes: Uint8Array, at: number, length: number): boolean {
    const { counters, filter, linkUp, queuePairs } = this.#core
    if (length < ETHERNET_HEADER_BYTES || length > MAX_FRAME_BYTES) {
      counters.rxErrors++
    } else if (!linkUp || this.#pair >= queuePairs) {
      counters.rxDropped++
    } else if (!filter.accepts(bytes, at)) {
      counters.rxFiltered++
    } else {
      return true
    }
    return false
  }

  /** Puts into `#header` what the guest may be told (5.1.6.4.1); false when it did not negotiate that. */
  #prepareHeader(header: NetHeader | undefined): boolean {
    Object.assign(this.#header, header ?? NOTHING_LEFT)
    if (header === undefined) return true
    if (header.gsoType !== 0 && !gsoAllowed(header.gsoType, this.#core.receiveOffloads)) return false
    if (this.checksums) {
      this.#header.flags &= CHECKSUM_FLAGS
    } else {
      this.#header.flags = 0
      this.#header.csumStart = 0
      this.#header.csumOffset = 0
    }
    return true
  }

  #withChecksum(frame: Uint8Array, header: NetHeader): Uint8Array {
    if (header.flags === this.#header.flags) return frame
    this.#scratch ??= new Uint8Array(MAX_FRAME_BYTES)
    this.#scratch.set(frame)
    completeChecksum(this.#scratch, 0, frame.length, header)
    return this.#scratch.subarray(0, frame.length)
  }

  #roomFor(bytes: number): boolean {
    if (this.mergeable) return this.#capacity >= bytes || this.refill(bytes)
    return (this.#count > 0 || this.refill()) && this.at(0).writableBytes >= bytes
  }

  #copy(frame: Uint8Array, needed: number): void {
    let buffers = 0
    for (let bytes = 0; bytes < needed; buffers++) bytes += this.at(buffers).writableBytes
    // 5.1.6.4.1: num_buffers is 1 when MRG_RXBUF was not negotiated.
    writeHeader(this.#headerBytes, 0, this.#header, buffers)
    let done = 0
    for (let i = 0; i < buffers; i++) {
      const chain = this.#shift()
      let at = 0
      if (i === 0) at = chain.copyIn(0, this.#headerBytes)
      const part = Math.min(chain.writableBytes - at, frame.length - done)
      if (part > 0) chain.copyIn(at, part === frame.length ? frame : frame.subarray(done, done + part))
      done += part
      this.#queue.push(chain, at + part)
    }
  }

  #received(length: number): void {
    const { counters } = this.#core
    counters.rxFrames++
    counters.rxBytes += length
    const queue = counters.queues[this.#pair]!
    queue.rxFrames++
    queue.rxBytes += length
  }
}

const NOTHING_LEFT: NetHeader = newHeader()

/** Marks the first `bytes` of the writable part, which a system call wrote. */
function markWritten(memory: GuestMemory, chain: Chain, bytes: number): void {
  let left = bytes
  for (let i = chain.readable; i < chain.count && left > 0; i++) {
    const part = Math.min(left, chain.lengths[i]!)
    memory.markDirty(chain.addresses[i]!, part)
    left -= part
  }
}
