import type { GuestMemory } from "@virtkit/interface"
import { DESC_BYTES, EVENT_SUPPRESS_BYTES, MAX_QUEUE_SIZE } from "./constants.js"
import type { QueueOptions } from "./options.js"

/**
 * The three parts of a split ring as views of guest memory, for as long as the queue lives.
 *
 * Indexes and event fields are 16-bit words, so that each can be one atomic access (bad-input #19).
 */
export interface SplitLayout {
  /** Over the whole descriptor table. */
  readonly desc: DataView
  /** 2.7.6: flags, idx, ring[size], used_event. */
  readonly avail: Uint16Array
  /** 2.7.8: flags, idx, then elements; avail_event behind them. */
  readonly used: Uint16Array
  /** The same memory: word 0 holds flags and idx, element n is the words 1 + 2n (id) and 2 + 2n (len). */
  readonly usedElements: Uint32Array
}

/** The three parts of a packed ring as views of guest memory, for as long as the queue lives. */
export interface PackedLayout {
  /** Over the whole descriptor ring. */
  readonly desc: DataView
  /** The same memory: of descriptor n, word 8n + 6 is the buffer id, 8n + 7 the flags. */
  readonly descWords: Uint16Array
  /** The same memory: of descriptor n, word 4n + 2 is the length, 4n + 3 the id and, above it, the flags. */
  readonly descLongs: Int32Array
  /** 2.8.14, both parts in one word, so that they are read and written as one: off_wrap and, above it, flags. */
  readonly driverEvent: Int32Array
  readonly deviceEvent: Int32Array
}

/** Checks size and addresses of a ring, all of them given by the guest; returns why they cannot be used, or the views. */
export function layOutSplit(options: QueueOptions): SplitLayout | string {
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

/** As {@link layOutSplit}, for a packed ring, whose size may be any number (2.8.10.1). */
export function layOutPacked(options: QueueOptions): PackedLayout | string {
  const { size, memory } = options
  if (!Number.isInteger(size) || size < 1 || size > MAX_QUEUE_SIZE) {
    return `queue size ${size} is not a number from 1 to ${MAX_QUEUE_SIZE}`
  }
  const desc = part(memory, "descriptor ring", options.desc, DESC_BYTES * size, 16)
  if (typeof desc === "string") return desc
  const driver = part(memory, "driver event suppression", options.avail, EVENT_SUPPRESS_BYTES, 4)
  if (typeof driver === "string") return driver
  const device = part(memory, "device event suppression", options.used, EVENT_SUPPRESS_BYTES, 4)
  if (typeof device === "string") return device
  return {
    desc: new DataView(desc.buffer, desc.byteOffset, DESC_BYTES * size),
    descWords: new Uint16Array(desc.buffer, desc.byteOffset, 8 * size),
    descLongs: new Int32Array(desc.buffer, desc.byteOffset, 4 * size),
    driverEvent: new Int32Array(driver.buffer, driver.byteOffset, 1),
    deviceEvent: new Int32Array(device.buffer, device.byteOffset, 1),
  }
}

/** 2.7: a power of two, at most 32768. What any driver can use, whichever ring it chooses. */
export function isQueueSize(size: number): boolean {
  return Number.isInteger(size) && size >= 1 && size <= MAX_QUEUE_SIZE && (size & (size - 1)) === 0
}

interface Part {
  readonly buffer: ArrayBufferLike
  readonly byteOffset: number
}

/** Alignment as 2.7 and 2.8.10 demand it; the range must lie in one region, or the views would reach outside of guest RAM. */
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
