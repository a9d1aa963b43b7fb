import type { GuestMemoryRegion } from "@virtkit/interface"
import * as protocol from "../constants.js"

/** Payloads of a front end's requests, and what it reads in the answers. All fields are little-endian. */

/** A sequence of fields of 32 and 64 bits. */
class Writer {
  readonly bytes: Uint8Array
  readonly #view: DataView
  #at = 0

  constructor(size: number) {
    this.bytes = new Uint8Array(size)
    this.#view = new DataView(this.bytes.buffer)
  }

  u16(value: number): this {
    this.#view.setUint16(this.#at, value, true)
    this.#at += 2
    return this
  }

  u32(value: number): this {
    this.#view.setUint32(this.#at, value, true)
    this.#at += 4
    return this
  }

  u64(value: number): this {
    this.#view.setBigUint64(this.#at, BigInt(value), true)
    this.#at += 8
    return this
  }
}

/** SET_VRING_NUM, SET_VRING_BASE, SET_VRING_ENABLE, GET_VRING_BASE. */
export function vringState(index: number, num: number): Uint8Array {
  return new Writer(8).u32(index).u32(num).bytes
}

/** SET_VRING_ADDR; the addresses are user addresses as the memory table has them. */
export function vringAddresses(index: number, desc: number, used: number, avail: number): Uint8Array {
  return new Writer(40).u32(index).u32(0).u64(desc).u64(used).u64(avail).u64(0).bytes
}

/** SET_VRING_KICK, CALL and ERR, whose descriptor comes along. */
export function vringFd(index: number): Uint8Array {
  return new Writer(8).u64(index & protocol.VRING_INDEX_MASK).bytes
}

/** SET_MEM_TABLE: user addresses are those of this process. Each region has a `file`. */
export function memoryTable(regions: readonly GuestMemoryRegion[]): Uint8Array {
  const writer = new Writer(8 + 32 * regions.length).u32(regions.length).u32(0)
  for (const { guestAddress, size, hostAddress, file } of regions) {
    writer
      .u64(guestAddress)
      .u64(size)
      .u64(hostAddress)
      .u64(file?.offset ?? 0)
  }
  return writer.bytes
}

/** GET_CONFIG with room for the answer, or SET_CONFIG by the driver. */
export function configRange(offset: number, data: Uint8Array): Uint8Array {
  const { bytes } = new Writer(12 + data.length).u32(offset).u32(data.length).u32(0)
  bytes.set(data, 12)
  return bytes
}

/** Where requests in flight are written down: "Inflight description". */
export interface InflightMemory {
  readonly size: number
  readonly offset: number
  readonly numQueues: number
  readonly queueSize: number
}

/** GET_INFLIGHT_FD and SET_INFLIGHT_FD: with the padding that a C compiler adds, on which back ends insist. */
export function inflight({ size, offset, numQueues, queueSize }: InflightMemory): Uint8Array {
  return new Writer(24).u64(size).u64(offset).u16(numQueues).u16(queueSize).bytes
}
