import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { type DiskLimits, type ParsedRequest, parseRange, parseRequest } from "../src/request.js"

// Written from virtio 1.3, section 5.2.6, not from the package's constants.
const IN = 0
const OUT = 1
const FLUSH = 4
const GET_ID = 8
const DISCARD = 11
const WRITE_ZEROES = 13
const OK = 0
const IOERR = 1
const UNSUPP = 2

const disk: DiskLimits = {
  capacity: 1000,
  readonly: false,
  maxDiscardSectors: 100,
  maxWriteZeroesSectors: 50,
}

function parse(
  type: number,
  sector: bigint,
  readable: number,
  writable: number,
  limits = disk,
): ParsedRequest {
  const header = new DataView(new ArrayBuffer(16))
  header.setUint32(0, type, true)
  header.setUint32(4, 0xffff_ffff, true)
  header.setBigUint64(8, sector, true)
  const into = { type: -1, offset: -1, dataBytes: -1, status: -1 }
  parseRequest(header, readable, writable, limits, into)
  return into
}

function range(type: number, sector: bigint, sectors: number, flags: number, limits = disk) {
  const data = new DataView(new ArrayBuffer(48))
  data.setBigUint64(16, sector, true)
  data.setUint32(24, sectors, true)
  data.setUint32(28, flags, true)
  const into = { offset: -1, length: -1, unmap: false, status: -1 }
  parseRange(data, 16, type, limits, into)
  return into
}

describe("parseRequest", () => {
  it("parses reads and writes", () => {
    expect(parse(IN, 2n, 16, 1025)).toEqual({ type: IN, offset: 1024, dataBytes: 1024, status: OK })
    expect(parse(OUT, 999n, 16 + 512, 1)).toEqual({
      type: OUT,
      offset: 999 * 512,
      dataBytes: 512,
      status: OK,
    })
    expect(parse(IN, 1000n, 16, 1).status).toBe(OK)
  })

  it("refuses data that is no whole number of sectors, or too much of it (bad-input #12)", () => {
    expect(parse(IN, 0n, 16, 512).status).toBe(IOERR)
    expect(parse(OUT, 0n, 16 + 100, 1).status).toBe(IOERR)
    const huge = { ...disk, capacity: 2 ** 40 }
    expect(parse(IN, 0n, 16, 2 ** 26 + 1, huge).status).toBe(OK)
    expect(parse(IN, 0n, 16, 2 ** 26 + 513, huge).status).toBe(IOERR)
  })

  it("bad-input #23: no sector arithmetic overflows, whatever the disk's size", () => {
    const sectors = fc.oneof(fc.bigInt(0n, 2n ** 64n - 1n), fc.bigInt(0n, 3000n))
    fc.assert(
      fc.property(
        sectors,
        fc.nat(3000),
        fc.oneof(fc.nat(3000), fc.nat(2 ** 53 / 512)),
        fc.constantFrom(IN, OUT),
        (sector, count, capacity, type) => {
          const limits = { ...disk, capacity }
          const bytes = count * 512
          const request =
            type === IN
              ? parse(type, sector, 16, bytes + 1, limits)
              : parse(type, sector, 16 + bytes, 1, limits)
          const fits = sector + BigInt(count) <= BigInt(capacity)
          expect(request.status).toBe(fits ? OK : IOERR)
          if (!fits) return
          expect(BigInt(request.offset)).toBe(sector * 512n)
          expect(request.dataBytes).toBe(bytes)
        },
      ),
      { numRuns: 1000 },
    )
  })

  it("bad-input #24: refuses to change a read-only disk", () => {
    const limits = { ...disk, readonly: true }
    expect(parse(OUT, 0n, 528, 1, limits).status).toBe(IOERR)
    expect(parse(DISCARD, 0n, 32, 1, limits).status).toBe(IOERR)
    expect(parse(WRITE_ZEROES, 0n, 32, 1, limits).status).toBe(IOERR)
    expect(parse(IN, 0n, 16, 513, limits).status).toBe(OK)
    expect(parse(FLUSH, 0n, 16, 1, limits).status).toBe(OK)
  })

  it("knows the other types, and no more", () => {
    expect(parse(FLUSH, 2n ** 64n - 1n, 16, 1).status).toBe(OK)
    expect(parse(GET_ID, 0n, 16, 21)).toEqual({ type: GET_ID, offset: 0, dataBytes: 20, status: OK })
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 0xffff_ffff }), fc.nat(), fc.nat(), (type, more, writable) => {
        const { status } = parse(type, 0n, 16 + more, 1 + writable)
        if (![IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES].includes(type)) expect(status).toBe(UNSUPP)
        else expect([OK, IOERR, UNSUPP]).toContain(status)
      }),
    )
  })

  it("takes 1 to 16 whole segments for a discard, if it was negotiated", () => {
    for (const type of [DISCARD, WRITE_ZEROES]) {
      expect(parse(type, 0n, 16 + 16, 1).status).toBe(OK)
      expect(parse(type, 0n, 16 + 16 * 16, 1).status).toBe(OK)
      expect(parse(type, 0n, 16 + 17 * 16, 1).status).toBe(IOERR)
      expect(parse(type, 0n, 16 + 15, 1).status).toBe(IOERR)
      expect(parse(type, 0n, 16, 1).status).toBe(IOERR)
    }
    expect(parse(DISCARD, 0n, 32, 1, { ...disk, maxDiscardSectors: 0 }).status).toBe(UNSUPP)
    expect(parse(WRITE_ZEROES, 0n, 32, 1, { ...disk, maxWriteZeroesSectors: 0 }).status).toBe(UNSUPP)
  })
})

describe("parseRange", () => {
  it("checks limits, the end of the disk and flags", () => {
    expect(range(DISCARD, 900n, 100, 0)).toEqual({
      offset: 900 * 512,
      length: 51200,
      unmap: false,
      status: OK,
    })
    expect(range(DISCARD, 901n, 100, 0).status).toBe(IOERR)
    expect(range(DISCARD, 0n, 101, 0).status).toBe(IOERR)
    expect(range(DISCARD, 0n, 1, 1).status).toBe(UNSUPP)
    expect(range(DISCARD, 0n, 1, 2).status).toBe(UNSUPP)
    expect(range(WRITE_ZEROES, 0n, 50, 1)).toEqual({ offset: 0, length: 25600, unmap: true, status: OK })
    expect(range(WRITE_ZEROES, 0n, 51, 0).status).toBe(IOERR)
    expect(range(WRITE_ZEROES, 0n, 1, 0x8000_0000).status).toBe(UNSUPP)
    expect(range(WRITE_ZEROES, 2n ** 64n - 1n, 1, 0).status).toBe(IOERR)
  })
})
