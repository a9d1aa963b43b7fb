/** Memory that driver and back end share. */
export interface BlkMemory {
  readonly buffer: SharedArrayBuffer
  readonly byteOffset: number
  readonly size: number
  readonly fd: number
  /** Guest address of its first byte, a multiple of 2^32. Default 0. */
  readonly guestAddress?: number
}

/** Numbers of virtio 1.3, sections 2.7 and 5.2. */
const NEXT = 1
const WRITE = 2
const INDIRECT = 4
const T_IN = 0
const T_OUT = 1
const S_OK = 0

/** Entries of a ring, and requests that it can hold. */
export const RING_SIZE: number = 128
/** Bytes of data of a request at most. */
export const MAX_DATA: number = 128 * 1024
/** Each block of the disk starts with its number. */
export const BLOCK = 4096

/** Where things lie in a ring's part of the memory. */
const DESC = 0
const AVAIL = 0x1000
const USED = 0x2000
const TABLES = 0x3000
const HEADERS = 0x8000
const STATUS = 0x9000
const DATA = 0x10_000

/** Bytes of memory that a ring needs. */
export const RING_BYTES: number = DATA + RING_SIZE * MAX_DATA

/**
 * A split ring's driver for reads and writes of one length, which does no more than it must: an indirect descriptor a request, as Linux
 * has it, and all of it written beforehand but for the sector. Checks the status and the first word of what was read.
 */
export class BlkRing {
  readonly size: number = RING_SIZE
  /** Guest addresses. */
  readonly desc: number
  readonly avail: number
  readonly used: number
  /** Milliseconds at which the request in that slot was made. */
  readonly started: Float64Array = new Float64Array(RING_SIZE)
  /** Slots that {@link reap} found. */
  readonly reaped: Uint16Array = new Uint16Array(RING_SIZE)
  readonly #u8: Uint8Array
  readonly #u16: Uint16Array
  readonly #u32: Uint32Array
  readonly #base: number
  readonly #high: number
  /** By slot: block that it reads or writes. */
  readonly #blocks = new Uint32Array(RING_SIZE)
  #write = false
  #blocksEach = 1
  #availIndex = 0
  #published = 0
  #usedIndex = 0

  constructor(memory: BlkMemory, index: number) {
    this.#base = index * RING_BYTES
    const { buffer, byteOffset, guestAddress = 0 } = memory
    const start = guestAddress + this.#base
    this.#high = guestAddress / 2 ** 32
    this.desc = start + DESC
    this.avail = start + AVAIL
    this.used = start + USED
    this.#u8 = new Uint8Array(buffer, byteOffset + this.#base, RING_BYTES)
    this.#u16 = new Uint16Array(buffer, byteOffset + this.#base, RING_BYTES / 2)
    this.#u32 = new Uint32Array(buffer, byteOffset + this.#base, RING_BYTES / 4)
  }

  /** What requests are from now on; none is in flight. */
  prepare(write: boolean, bytes: number): void {
    this.#write = write
    this.#blocksEach = bytes / BLOCK
    for (let slot = 0; slot < RING_SIZE; slot++) {
      const table = TABLES + 64 * slot
      this.#descriptor(DESC + 16 * slot, table, 48, INDIRECT)
      this.#descriptor(table, HEADERS + 16 * slot, 16, NEXT | (1 << 16))
      this.#descriptor(table + 16, DATA + MAX_DATA * slot, bytes, (write ? 0 : WRITE) | NEXT | (2 << 16))
      this.#descriptor(table + 32, STATUS + slot, 1, WRITE)
      this.#u32[(HEADERS + 16 * slot) / 4] = write ? T_OUT : T_IN
    }
  }

  /** Makes a request; nobody sees it before {@link publish}. */
  add(slot: number, block: number, now: number): void {
    const u32 = this.#u32
    const header = (HEADERS + 16 * slot) >> 2
    u32[header + 2] = block << 3
    u32[header + 3] = block >>> 29
    this.#blocks[slot] = block
    const data = (DATA + MAX_DATA * slot) >> 2
    if (this.#write) for (let i = 0; i < this.#blocksEach; i++) u32[data + (i << 10)] = block + i
    else u32[data] = 0xffff_ffff
    this.#u8[STATUS + slot] = 0xff
    this.#u16[(AVAIL >> 1) + 2 + (this.#availIndex & (RING_SIZE - 1))] = slot
    this.#availIndex = (this.#availIndex + 1) & 0xffff
    this.started[slot] = now
  }

  /** Shows the requests to the device; whether it wants to be kicked (2.7.10). */
  publish(): boolean {
    const before = this.#published
    const after = this.#availIndex
    if (before === after) return false
    this.#published = after
    Atomics.store(this.#u16, (AVAIL >> 1) + 1, after)
    const event = Atomics.load(this.#u16, (USED >> 1) + 2 + 4 * RING_SIZE)
    return ((after - event - 1) & 0xffff) < ((after - before) & 0xffff)
  }

  /** Takes back what is done: the slots are in `reaped`. Throws when a request failed or has the wrong data. */
  reap(): number {
    const u32 = this.#u32
    const published = Atomics.load(this.#u16, (USED >> 1) + 1)
    let count = 0
    for (; this.#usedIndex !== published; this.#usedIndex = (this.#usedIndex + 1) & 0xffff) {
      const slot = u32[(USED >> 2) + 1 + 2 * (this.#usedIndex & (RING_SIZE - 1))]!
      if (this.#u8[STATUS + slot] !== S_OK || u32[(DATA + MAX_DATA * slot) >> 2] !== this.#blocks[slot])
        throw new Error(`block ${this.#blocks[slot]}: status ${this.#u8[STATUS + slot]}, or data of another`)
      this.reaped[count++] = slot
    }
    return count
  }

  /** Asks for an interrupt with the next request that is done; whether some are done already. */
  enableInterrupt(): boolean {
    Atomics.store(this.#u16, (AVAIL >> 1) + 2 + RING_SIZE, this.#usedIndex)
    return Atomics.load(this.#u16, (USED >> 1) + 1) !== this.#usedIndex
  }

  /** None but one in 65,536. */
  disableInterrupt(): void {
    Atomics.store(this.#u16, (AVAIL >> 1) + 2 + RING_SIZE, (this.#usedIndex - 1) & 0xffff)
  }

  /** For people: why nothing moves. */
  describe(): string {
    const u16 = this.#u16
    return `published ${this.#published}, avail ${u16[(AVAIL >> 1) + 1]}, device's event ${u16[(USED >> 1) + 2 + 4 * RING_SIZE]}, reaped ${this.#usedIndex}, used ${u16[(USED >> 1) + 1]}, driver's event ${u16[(AVAIL >> 1) + 2 + RING_SIZE]}`
  }

  #descriptor(at: number, address: number, length: number, flagsAndNext: number): void {
    const guest = this.#base + address
    this.#u32.set([guest, this.#high, length, flagsAndNext], at / 4)
  }
}
