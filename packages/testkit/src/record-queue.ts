import type { Chain, GuestMemory, Queue } from "@virtkit/interface"
import type { TraceBuffer, TraceEvent } from "./record-format.js"

/** Where recorded queues write to, shared by all queues of a device. */
export interface QueueLog {
  add(event: TraceEvent): void
  /** Numbers the chains of the trace. */
  nextId(): number
  /** Bytes kept of either part of a chain. */
  readonly maxData: number
}

/**
 * A queue as the device gets it, around the real one. What only goes back and forth between device and queue is not
 * recorded: a chain that is taken, put back and taken again is one chain.
 */
export class RecordedQueue implements Queue {
  readonly #inner: Queue
  readonly #memory: GuestMemory
  readonly #log: QueueLog
  /** By the queue's own chain: taken and not given back. */
  readonly #taken = new Map<Chain, RecordedChain>()
  /** Chains that were put back, the one to come next last. */
  readonly #putBack: RecordedChain[] = []
  #isOver = false
  /** Given back since the last flush. */
  #pushed = false

  constructor(inner: Queue, memory: GuestMemory, log: QueueLog) {
    this.#inner = inner
    this.#memory = memory
    this.#log = log
  }

  get index(): number {
    return this.#inner.index
  }

  get size(): number {
    return this.#inner.size
  }

  get broken(): boolean {
    return this.#inner.broken
  }

  /** The queue is being reset: what the device still does to it reaches nobody. */
  end(): void {
    this.#isOver = true
  }

  pop(): Chain | undefined {
    const inner = this.#inner.pop()
    if (inner === undefined) return undefined
    const again = this.#putBack.pop()
    if (again !== undefined) {
      again.inner = inner
      this.#taken.set(inner, again)
      return again
    }
    const chain = new RecordedChain(inner, this.#log.nextId())
    this.#taken.set(inner, chain)
    this.#log.add({
      kind: "chain",
      queue: this.index,
      id: chain.id,
      head: inner.head,
      buffers: buffersOf(inner),
      data: readableOf(inner, this.#log.maxData),
    })
    return chain
  }

  push(chain: Chain, written: number): void {
    const own = chain as RecordedChain
    if (this.#taken.delete(own.inner) && !this.#isOver) {
      this.#pushed = true
      const count = Math.min(written, own.writableBytes)
      const kept = Math.min(count, this.#log.maxData)
      this.#log.add({
        kind: "used",
        queue: this.index,
        id: own.id,
        written: count,
        data: writableOf(own, this.#memory, 0, kept),
        tail: this.#tailOf(own, count),
      })
    }
    this.#inner.push(own.inner, written)
  }

  unpop(chain: Chain): void {
    const own = chain as RecordedChain
    this.#inner.unpop(own.inner)
    this.#taken.delete(own.inner)
    this.#putBack.push(own)
  }

  flush(): void {
    if (this.#pushed && !this.#isOver) this.#log.add({ kind: "flush", queue: this.index })
    this.#pushed = false
    this.#inner.flush()
  }

  /** What the device put at the very end of the writable part, beyond the first `written` bytes. */
  #tailOf(chain: RecordedChain, written: number): Uint8Array {
    const start = Math.max(chain.tailStart, written, chain.writableBytes - this.#log.maxData)
    return writableOf(chain, this.#memory, start, Math.max(0, chain.writableBytes - start))
  }

  disableNotification(): void {
    this.#inner.disableNotification()
  }

  enableNotification(): boolean {
    return this.#inner.enableNotification()
  }
}

/** Remembers what the device copied to the end of a chain: a status there need not be within the used length. */
class RecordedChain implements Chain {
  inner: Chain
  readonly id: number
  /** Offset in the writable part from which on it was copied to, without a gap to the end. */
  tailStart = Number.POSITIVE_INFINITY

  constructor(inner: Chain, id: number) {
    this.inner = inner
    this.id = id
  }

  get head(): number {
    return this.inner.head
  }

  get count(): number {
    return this.inner.count
  }

  get readable(): number {
    return this.inner.readable
  }

  get readableBytes(): number {
    return this.inner.readableBytes
  }

  get writableBytes(): number {
    return this.inner.writableBytes
  }

  get addresses(): Float64Array {
    return this.inner.addresses
  }

  get lengths(): Uint32Array {
    return this.inner.lengths
  }

  copyOut(offset: number, target: Uint8Array): number {
    return this.inner.copyOut(offset, target)
  }

  copyIn(offset: number, source: Uint8Array): number {
    const copied = this.inner.copyIn(offset, source)
    const end = offset + copied
    if (copied > 0 && (end === this.writableBytes || end >= this.tailStart)) {
      this.tailStart = Math.min(this.tailStart, offset)
    }
    return copied
  }
}

function buffersOf(chain: Chain): TraceBuffer[] {
  return Array.from({ length: chain.count }, (_, index) => ({
    address: chain.addresses[index]!,
    length: chain.lengths[index]!,
    writable: index >= chain.readable,
  }))
}

function readableOf(chain: Chain, most: number): Uint8Array {
  const data = new Uint8Array(Math.min(chain.readableBytes, most))
  chain.copyOut(0, data)
  return data
}

/** `length` bytes of the writable part from `offset` on, out of guest memory: the device need not have copied them. */
function writableOf(chain: Chain, memory: GuestMemory, offset: number, length: number): Uint8Array {
  const data = new Uint8Array(length)
  let skip = offset
  let done = 0
  for (let index = chain.readable; index < chain.count && done < length; index++) {
    const bytes = Math.min(chain.lengths[index]! - skip, length - done)
    if (bytes > 0) memory.read(chain.addresses[index]! + skip, data.subarray(done, done + bytes))
    done += Math.max(bytes, 0)
    skip = Math.max(0, skip - chain.lengths[index]!)
  }
  return data
}
