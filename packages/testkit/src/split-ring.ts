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
import { DESCRIPTOR, RING_FLAG } from "./spec.js"

export interface SplitRingOptions {
  readonly memory: GuestMemory
  /** Rings, indirect tables and buffers are allocated here. */
  readonly allocator: TestAllocator
  /** Queue size, a power of two. */
  readonly size: number
  /** VIRTIO_F_RING_EVENT_IDX was negotiated. Default false. */
  readonly eventIdx?: boolean
  /** VIRTIO_F_IN_ORDER was negotiated. Default false. */
  readonly inOrder?: boolean
  /** Value that both ring indexes start from, for rings in mid-life. Default 0. */
  readonly startIndex?: number
}

/** The fields of one descriptor (2.7.5). */
export interface RawDescriptor {
  readonly address: number | bigint
  readonly length: number
  readonly flags: number
  readonly next?: number
}

interface Submitted {
  readonly chain: DriverChain
  readonly descriptors: readonly number[]
  readonly allocations: readonly number[]
}

/**
 * The driver side of a split virtqueue (virtio 1.3, section 2.7), over any guest memory.
 *
 * `add` and `publish` follow the rules; `writeDescriptor`, `offerHead` and `setAvailIndex` let a test break each of
 * them on purpose.
 */
export class SplitRingDriver implements RingDriver {
  readonly size: number
  /** Guest addresses of the three parts. */
  readonly desc: number
  readonly avail: number
  readonly used: number
  /** Next avail.idx, 16 bits; the device sees it after {@link publish}. */
  availIndex: number
  /** used.idx up to which chains were reaped. */
  usedIndex: number

  readonly #memory: GuestMemory
  readonly #allocator: TestAllocator
  readonly #eventIdx: boolean
  readonly #inOrder: boolean
  /** Descriptors that no chain has, the next to take first: with IN_ORDER that makes the order of the table (2.7.9.1). */
  readonly #free: number[] = []
  readonly #submitted = new Map<number, Submitted>()
  #lastKick: number
  #interrupts = true

  constructor(options: SplitRingOptions) {
    const { memory, allocator, size } = options
    this.size = size
    this.#memory = memory
    this.#allocator = allocator
    this.#eventIdx = options.eventIdx ?? false
    this.#inOrder = options.inOrder ?? false
    this.availIndex = options.startIndex ?? 0
    this.usedIndex = this.availIndex
    this.#lastKick = this.availIndex
    const bytes = { desc: DESCRIPTOR.BYTES * size, avail: 6 + 2 * size, used: 6 + 8 * size }
    this.desc = allocator.allocate(bytes.desc, 16)
    this.avail = allocator.allocate(bytes.avail, 2)
    this.used = allocator.allocate(bytes.used, 4)
    memory.fill(this.desc, bytes.desc, 0)
    memory.fill(this.avail, bytes.avail, 0)
    memory.fill(this.used, bytes.used, 0)
    memory.writeUint16(this.avail + 2, this.availIndex)
    memory.writeUint16(this.used + 2, this.usedIndex)
    for (let index = 0; index < size; index++) this.#free.push(index)
    if (this.#eventIdx) memory.writeUint16(this.#usedEvent, this.usedIndex)
  }

  get freeDescriptors(): number {
    return this.#free.length
  }

  /** Chains made available and not reaped yet. */
  get inFlight(): number {
    return this.#submitted.size
  }

  get #usedEvent(): number {
    return this.avail + 4 + 2 * this.size
  }

  get #availEvent(): number {
    return this.used + 4 + 8 * this.size
  }

  /** Allocates buffers, links them and puts the chain into the available ring. Throws when descriptors run out. */
  add(request: ChainRequest): DriverChain {
    const readable = request.readable ?? []
    const writable = request.writable ?? []
    const total = readable.length + writable.length
    const layout = request.layout ?? "direct"
    const direct = layout === "direct" ? total : layout === "indirect" ? 0 : Math.min(1, total)
    const indirect = total - direct
    const needed = direct + (indirect > 0 ? 1 : 0)
    if (total === 0) throw new Error("a chain needs a buffer")
    if (needed > this.#free.length) throw new Error("ring full")

    const buffers = makeBuffers(this.#memory, this.#allocator, request)
    return this.#link(buffers, direct, indirect)
  }

  /** Makes the chains added since the last call visible; returns whether the device must be notified of them. */
  publish(): boolean {
    const before = this.#lastKick
    this.#memory.writeUint16(this.avail + 2, this.availIndex)
    this.#lastKick = this.availIndex
    if (!this.#eventIdx) {
      return (this.#memory.readUint16(this.used) & RING_FLAG.USED_NO_NOTIFY) === 0
    }
    return crossed(this.#memory.readUint16(this.#availEvent), this.availIndex, before)
  }

  /** Takes every chain that the device gave back, in its order, and frees their descriptors and buffers. */
  reap(): DriverChain[] {
    const reaped: DriverChain[] = []
    while (this.#memory.readUint16(this.used + 2) !== this.usedIndex) {
      const element = this.used + 4 + 8 * (this.usedIndex % this.size)
      const id = this.#memory.readUint32(element)
      const length = this.#memory.readUint32(element + 4)
      const batch = this.#inOrder ? this.#batch(id) : [id]
      // Those that were left out are full (2.7.9.2).
      for (const head of batch) reaped.push(this.#finish(head, head === id ? length : undefined))
      this.usedIndex = (this.usedIndex + batch.length) & 0xffff
      if (this.#eventIdx && this.#interrupts) this.#memory.writeUint16(this.#usedEvent, this.usedIndex)
    }
    return reaped
  }

  /** Asks the device not to interrupt. With EVENT_IDX used_event is left behind, as drivers do. */
  disableInterrupts(): void {
    this.#interrupts = false
    if (!this.#eventIdx) this.#memory.writeUint16(this.avail, RING_FLAG.AVAIL_NO_INTERRUPT)
  }

  /** Asks for interrupts again; true when chains came back meanwhile, so that the driver must reap without one. */
  enableInterrupts(): boolean {
    this.#interrupts = true
    if (this.#eventIdx) this.#memory.writeUint16(this.#usedEvent, this.usedIndex)
    else this.#memory.writeUint16(this.avail, 0)
    return this.#memory.readUint16(this.used + 2) !== this.usedIndex
  }

  /**
   * With EVENT_IDX: interrupt only once `count` more chains came back (2.7.10); true when they have already, so that the
   * driver must reap without one.
   */
  delayInterrupts(count: number): boolean {
    this.#interrupts = false
    this.#memory.writeUint16(this.#usedEvent, (this.usedIndex + count - 1) & 0xffff)
    return ((this.publishedUsedIndex - this.usedIndex) & 0xffff) >= count
  }

  // What follows knows no rules.

  /** Writes a descriptor, of the queue's table or of the indirect table at guest address `table`. */
  writeDescriptor(index: number, descriptor: RawDescriptor, table: number = this.desc): void {
    const address = table + DESCRIPTOR.BYTES * index
    this.#memory.writeBigUint64(address, BigInt(descriptor.address))
    this.#memory.writeUint32(address + 8, descriptor.length)
    this.#memory.writeUint16(address + 12, descriptor.flags)
    this.#memory.writeUint16(address + 14, descriptor.next ?? 0)
  }

  /** Puts any number into the available ring; the device sees it after {@link publish}. */
  offerHead(head: number): void {
    this.#memory.writeUint16(this.avail + 4 + 2 * (this.availIndex % this.size), head)
    this.availIndex = (this.availIndex + 1) & 0xffff
  }

  /** Publishes any value as avail.idx. */
  setAvailIndex(value: number): void {
    this.availIndex = value & 0xffff
    this.#memory.writeUint16(this.avail + 2, this.availIndex)
  }

  /** The used element at ring position `index` (not masked), whatever the driver knows of it. */
  usedElement(index: number): { id: number; length: number } {
    const element = this.used + 4 + 8 * (index % this.size)
    return { id: this.#memory.readUint32(element), length: this.#memory.readUint32(element + 4) }
  }

  /** used.idx as the device last published it. */
  get publishedUsedIndex(): number {
    return this.#memory.readUint16(this.used + 2)
  }

  #link(buffers: readonly DriverBuffer[], direct: number, indirect: number): DriverChain {
    const descriptors: number[] = []
    for (let count = direct + (indirect > 0 ? 1 : 0); count > 0; count--)
      descriptors.push(this.#free.shift()!)
    const allocations = buffers.map((buffer) => buffer.address)
    for (let i = 0; i < direct; i++) {
      const next = descriptors[i + 1]
      this.writeDescriptor(descriptors[i]!, { ...fields(buffers[i]!, next), next: next ?? 0 })
    }
    if (indirect > 0) {
      const length = indirect * DESCRIPTOR.BYTES
      const table = this.#allocator.allocate(length)
      allocations.push(table)
      for (let i = 0; i < indirect; i++) {
        const next = i + 1 < indirect ? i + 1 : undefined
        this.writeDescriptor(i, { ...fields(buffers[direct + i]!, next), next: next ?? 0 }, table)
      }
      this.writeDescriptor(descriptors[direct]!, { address: table, length, flags: DESCRIPTOR.INDIRECT })
    }
    const chain: DriverChain = { head: descriptors[0]!, buffers, written: undefined, data: undefined }
    this.#submitted.set(chain.head, { chain, descriptors, allocations })
    this.offerHead(chain.head)
    return chain
  }

  /** 2.7.9.2: the chains up to the one that was given back, in the order in which they were made available. */
  #batch(id: number): number[] {
    const heads = [...this.#submitted.keys()]
    const position = heads.indexOf(id)
    return position < 0 ? [id] : heads.slice(0, position + 1)
  }

  #finish(id: number, length: number | undefined): DriverChain {
    const submitted = this.#submitted.get(id)
    if (submitted === undefined) throw new Error(`the device gave back ${id}, which it did not have`)
    this.#submitted.delete(id)
    const { chain, descriptors, allocations } = submitted
    finishChain(this.#memory, chain, length)
    for (const address of allocations) this.#allocator.free(address)
    for (const descriptor of descriptors) this.#free.push(descriptor)
    return chain
  }
}

function fields(
  buffer: DriverBuffer,
  next: number | undefined,
): { address: number; length: number; flags: number } {
  const flags = (buffer.writable ? DESCRIPTOR.WRITE : 0) | (next === undefined ? 0 : DESCRIPTOR.NEXT)
  return { address: buffer.address, length: buffer.length, flags }
}

/** 2.7.10: whether the index that was to be passed, `event`, lies in the step from `before` to `now`. */
function crossed(event: number, now: number, before: number): boolean {
  return ((now - event - 1) & 0xffff) < ((now - before) & 0xffff)
}
