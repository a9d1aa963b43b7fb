import type { InflightDescription } from "./payload.js"

/**
 * "Inflight I/O tracking", split rings: memory that outlives this process, in which it writes down which chains it took and
 * has not given back, so that the one that takes over carries them out again, in order.
 *
 * The region of a queue: features (8 bytes), version (2), number of descriptors (2), head of the last batch (2), used index
 * (2), then 16 bytes a descriptor: in flight (1), 5 unused, next of its batch (2), order in which it was taken (8).
 */
const REGION = { version: 8, descNum: 10, lastBatchHead: 12, usedIndex: 14, descriptors: 16 } as const
const DESCRIPTOR = { inflight: 0, next: 6, counter: 8, bytes: 16 } as const
const VERSION = 1
/** Regions of queues start at multiples of this: a cache line. */
const ALIGNMENT = 64

/** Bytes of the region of one queue. */
function regionBytes(queueSize: number): number {
  const bytes = REGION.descriptors + DESCRIPTOR.bytes * queueSize
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT
}

/** Bytes that so many queues of that size need. */
export function inflightBytes({ numQueues, queueSize }: { numQueues: number; queueSize: number }): number {
  return numQueues * regionBytes(queueSize)
}

/** The region of queue `index` in the memory of all, which has {@link inflightBytes} at least. */
export function inflightQueue(
  memory: Uint8Array,
  { numQueues, queueSize }: Pick<InflightDescription, "numQueues" | "queueSize">,
  index: number,
): InflightQueue | undefined {
  if (index >= numQueues) return undefined
  const bytes = regionBytes(queueSize)
  return new InflightQueue(memory.subarray(index * bytes, (index + 1) * bytes), queueSize)
}

/** What is in flight on one queue. The front end can write here too, so that nothing read is trusted. */
export class InflightQueue {
  readonly size: number
  readonly #bytes: Uint8Array
  readonly #view: DataView
  /** Heads pushed since the last time that the driver was shown any. */
  readonly #batch: Uint16Array
  #batched = 0
  /** Order in which chains are taken: far below 2^53 in the life of a process. */
  #counter = 1

  constructor(bytes: Uint8Array, queueSize: number) {
    this.size = queueSize
    this.#bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
    this.#batch = new Uint16Array(queueSize)
  }

  /**
   * Starts on a queue whose used.idx is `usedIndex`: returns the heads that were taken and not given back, oldest first. A
   * region that was never used has none.
   */
  begin(usedIndex: number): number[] {
    const view = this.#view
    if (view.getUint16(REGION.version, true) !== VERSION) {
      this.#bytes.fill(0)
      view.setUint16(REGION.descNum, this.size, true)
      view.setUint16(REGION.usedIndex, usedIndex, true)
      view.setUint16(REGION.version, VERSION, true)
      return []
    }
    this.#finishLastBatch(usedIndex)
    const heads: { head: number; counter: number }[] = []
    for (let head = 0; head < this.size; head++) {
      const at = this.#at(head)
      if (this.#bytes[at + DESCRIPTOR.inflight] === 0) continue
      heads.push({ head, counter: this.#counterAt(at) })
    }
    heads.sort((a, b) => a.counter - b.counter)
    // What is taken from now on comes after them.
    for (const [order, { head }] of heads.entries()) this.#setCounter(this.#at(head), order)
    this.#counter = heads.length
    return heads.map(({ head }) => head)
  }

  /** A chain was taken from the ring. */
  took(head: number): void {
    if (head >= this.size) return
    const at = this.#at(head)
    this.#setCounter(at, this.#counter++)
    Atomics.store(this.#bytes, at + DESCRIPTOR.inflight, 1)
  }

  /** A chain is about to be put into the used ring, where the driver does not see it yet. */
  gives(head: number): void {
    if (head >= this.size || this.#batched >= this.size) return
    const view = this.#view
    view.setUint16(this.#at(head) + DESCRIPTOR.next, view.getUint16(REGION.lastBatchHead, true), true)
    view.setUint16(REGION.lastBatchHead, head, true)
    this.#batch[this.#batched++] = head
  }

  /** The driver sees all that was given: used.idx is `usedIndex` now. */
  gave(usedIndex: number): void {
    for (let i = 0; i < this.#batched; i++) {
      Atomics.store(this.#bytes, this.#at(this.#batch[i]!) + DESCRIPTOR.inflight, 0)
    }
    this.#batched = 0
    this.#view.setUint16(REGION.usedIndex, usedIndex, true)
  }

  /** Nothing is in flight any more: the ring will be looked at from used.idx on. */
  clear(): void {
    for (let head = 0; head < this.size; head++) this.#bytes[this.#at(head) + DESCRIPTOR.inflight] = 0
    this.#batched = 0
  }

  /** The last process showed a batch to the driver and came to no more: the chains of it are done. */
  #finishLastBatch(usedIndex: number): void {
    const view = this.#view
    const shown = (usedIndex - view.getUint16(REGION.usedIndex, true)) & 0xffff
    let head = view.getUint16(REGION.lastBatchHead, true)
    // No batch is larger than the queue.
    for (let i = 0; i < Math.min(shown, this.size) && head < this.size; i++) {
      this.#bytes[this.#at(head) + DESCRIPTOR.inflight] = 0
      head = view.getUint16(this.#at(head) + DESCRIPTOR.next, true)
    }
    view.setUint16(REGION.usedIndex, usedIndex, true)
  }

  #at(head: number): number {
    return REGION.descriptors + DESCRIPTOR.bytes * head
  }

  #counterAt(at: number): number {
    const view = this.#view
    return (
      view.getUint32(at + DESCRIPTOR.counter + 4, true) * 0x1_0000_0000 +
      view.getUint32(at + DESCRIPTOR.counter, true)
    )
  }

  #setCounter(at: number, counter: number): void {
    this.#view.setUint32(at + DESCRIPTOR.counter, counter >>> 0, true)
    this.#view.setUint32(at + DESCRIPTOR.counter + 4, Math.floor(counter / 0x1_0000_0000), true)
  }
}
