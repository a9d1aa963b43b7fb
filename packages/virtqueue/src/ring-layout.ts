import type { GuestMemory } from "@virtkit/interface"
import { DESC_BYTES, MAX_QUEUE_SIZE } from "./constants.js"
import type { QueueOptions } from "./options.js"

/**
 * The three parts of a split ring as views of guest memory, for as long as the queue lives.
 *
 * Indexes and event fields are 16-bit words, so that each can be one atomic access (bad-input #19).
 */
export interface RingLayout {
  /** Over the whole descriptor table. */
  readonly desc: DataView
  /** 2.7.6: flags, idx, ring[size], used_event. */
  readonly avail: Uint16Array
  /** 2.7.8: flags, idx, then elements; avail_event behind them. */
  readonly used: Uint16Array
  /** The same memory: word 0 holds flags and idx, element n is the words 1 + 2n (id) and 2 + 2n (len). */
  readonly usedElements: Uint32Array
}

/** Checks size and addresses of a ring, all of them given by the guest; returns why they cannot be used, or the views. */
export function layOut(options: QueueOptions): RingLayout | string {
  const { size, memory } = options
  if (!isQueueSize(size)) return `queue size ${size} is not a power of two from 1 to ${MAX_QUEUE_SIZE}`
  const desc = part(memory, "descriptor table", options.desc, DESC_BYTES * size, 16)
  if (typeof desc === "string") return desc
  const avail = part(memory, "available ring", options.avail, 6 + 2 * size, 2)
  if (typeof avail === "string") return avail
  const used = part(memory, "used ring", options.used, 6 + 8 * size, 4)
  if (typeof used === "string") return used
  return {
    desc: new DataView(desc.buffer, desc.byteOffset, DESC_BYTES * size),
    avail: new Uint16Array(avail.buffer, avail.byteOffset, 3 + size),
    used: new Uint16Array(used.buffer, used.byteOffset, 3 + 4 * size),
    usedElements: new Uint32Array(used.buffer, used.byteOffset, 1 + 2 * size),
  }
}

/** 2.7: a power of two, at most 32768. */
export function isQueueSize(size: number): boolean {
  return Number.isInteger(size) && size >= 1 && size <= MAX_QUEUE_SIZE && (size & (size - 1)) === 0
}

interface Part {
  readonly buffer: ArrayBufferLike
  readonly byteOffset: number
}

/** Alignment as 2.7 demands it; the range must lie in one region, or the views would reach outside of guest RAM. */
function part(
  memory: GuestMemory,
  name: string,
  address: number,
  length: number,
  alignment: number,
): Part | string {
  if (!Number.isSafeInteger(address)) return `${name} above 2^53 is not in guest memory`
  const where = `${name} at 0x${address.toString(16)}`
  if (address % alignment !== 0) return `${where} is not aligned to ${alignment} bytes`
  const region = memory.regionOf(address, length)
  if (region === undefined) return `${where} is not in guest memory`
  const byteOffset = region.byteOffset + (address - region.guestAddress)
  // Only a region that the VMM itself placed at an odd address gets here.
  if (byteOffset % Math.min(alignment, 4) !== 0) return `${where} lies in a misaligned region`
  return { buffer: region.buffer, byteOffset }
}
