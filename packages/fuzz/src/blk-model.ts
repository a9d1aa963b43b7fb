import type { DriverChain } from "@virtkit/testkit"
import { must } from "./target.js"

const SECTOR = 512
const HEADER = 16
const RANGE = 16
const MOST_RANGES = 16

/** Request types and status of virtio 1.3, section 5.2.6. */
export const BLK = { IN: 0, OUT: 1, FLUSH: 4, GET_ID: 8, DISCARD: 11, WRITE_ZEROES: 13 } as const
const STATUS = { OK: 0, IOERR: 1, UNSUPP: 2 } as const

export interface DiskModelOptions {
  readonly sectors: number
  readonly readonly: boolean
  readonly serial: string
  /** Largest range of one discard or write zeroes segment, in sectors; 0: not negotiated. */
  readonly rangeSectors: number
}

/** What a disk must answer and contain, by the specification's words. */
export class DiskModel {
  readonly data: Uint8Array
  readonly #options: DiskModelOptions

  constructor(options: DiskModelOptions) {
    this.#options = options
    this.data = new Uint8Array(options.sectors * SECTOR)
  }

  /** Carries a request out and compares; returns what it was. */
  check(request: Uint8Array, room: number, chain: DriverChain): string {
    const { written, data } = chain
    if (request.length < HEADER || room < 1) {
      must(written === 0, "an answer to what is no request")
      return "no request"
    }
    const view = new DataView(request.buffer, request.byteOffset, request.length)
    const type = view.getUint32(0, true)
    const sector = view.getBigUint64(8, true)
    const got = data!.at(-1)!
    const expected = this.#status(type, sector, request, room - 1)
    must(got === expected, `request ${type} has status ${got} instead of ${expected}`)
    if (expected === STATUS.OK) this.#carryOut(type, Number(sector) * SECTOR, request, data!.subarray(0, -1))
    const bytes = type === BLK.IN && expected === STATUS.OK ? room : 1
    if (type !== BLK.GET_ID)
      must(written === bytes, `used.len of request ${type} is ${written} instead of ${bytes}`)
    return `${type in NAMES ? NAMES[type] : "unknown"} ${expected}`
  }

  #status(type: number, sector: bigint, request: Uint8Array, room: number): number {
    const { readonly, rangeSectors } = this.#options
    const out = request.length - HEADER
    if (type === BLK.FLUSH || type === BLK.GET_ID) return STATUS.OK
    if (type === BLK.IN) return this.#fits(sector, room) ? STATUS.OK : STATUS.IOERR
    if (type === BLK.OUT) return this.#fits(sector, out) && !readonly ? STATUS.OK : STATUS.IOERR
    if (type !== BLK.DISCARD && type !== BLK.WRITE_ZEROES) return STATUS.UNSUPP
    if (readonly) return STATUS.IOERR
    if (rangeSectors === 0) return STATUS.UNSUPP
    if (out === 0 || out % RANGE !== 0 || out > MOST_RANGES * RANGE) return STATUS.IOERR
    for (const { first, count, flags } of ranges(request)) {
      if ((flags & ~(type === BLK.DISCARD ? 0 : 1)) !== 0) return STATUS.UNSUPP
      if (count > rangeSectors || first + BigInt(count) > BigInt(this.#options.sectors)) return STATUS.IOERR
    }
    return STATUS.OK
  }

  #fits(sector: bigint, bytes: number): boolean {
    return bytes % SECTOR === 0 && sector + BigInt(bytes / SECTOR) <= BigInt(this.#options.sectors)
  }

  #carryOut(type: number, at: number, request: Uint8Array, room: Uint8Array): void {
    if (type === BLK.OUT) {
      this.data.set(request.subarray(HEADER), at)
    } else if (type === BLK.IN) {
      const same = Buffer.compare(room, this.data.subarray(at, at + room.length)) === 0
      must(same, "what was read is not what was written")
    } else if (type === BLK.GET_ID) {
      const id = Buffer.alloc(20)
      id.write(this.#options.serial)
      must(Buffer.compare(room.subarray(0, 20), id.subarray(0, room.length)) === 0, "the ID is another one")
    } else if (type !== BLK.FLUSH) {
      for (const { first, count } of ranges(request)) {
        this.data.fill(0, Number(first) * SECTOR, (Number(first) + count) * SECTOR)
      }
    }
  }
}

const NAMES: Readonly<Record<number, string>> = {
  0: "IN",
  1: "OUT",
  4: "FLUSH",
  8: "GET_ID",
  11: "DISCARD",
  13: "WRITE_ZEROES",
}

function ranges(request: Uint8Array): { first: bigint; count: number; flags: number }[] {
  const view = new DataView(request.buffer, request.byteOffset, request.length)
  return Array.from({ length: (request.length - HEADER) / RANGE }, (_, index) => {
    const at = HEADER + RANGE * index
    return {
      first: view.getBigUint64(at, true),
      count: view.getUint32(at + 8, true),
      flags: view.getUint32(at + 12, true),
    }
  })
}
