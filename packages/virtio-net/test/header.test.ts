import fc from "fast-check"
import { expect, it } from "vitest"
import { completeChecksum } from "../src/checksum.js"
import { checkTransmitHeader, newHeader, readHeader, wirePackets, writeHeader } from "../src/header.js"
import { header } from "./helpers.js"

const CSUM = 1
const TSO4 = 2
const ALL = 127

function check(fields: Parameters<typeof header>[0], length: number, offloads = ALL) {
  const parsed = newHeader()
  readHeader(header(fields), 0, parsed)
  return checkTransmitHeader(parsed, length, offloads) ? parsed : undefined
}

it("reads and writes the fields where the specification has them", () => {
  const fields = { flags: 1, gsoType: 4, hdrLen: 0x102, gsoSize: 0x304, csumStart: 0x506, csumOffset: 0x708 }
  const parsed = newHeader()
  readHeader(header(fields), 0, parsed)
  expect(parsed).toEqual(fields)
  const bytes = new Uint8Array(16).fill(0xff)
  writeHeader(bytes, 2, parsed, 0x90a)
  expect(bytes.subarray(2, 14)).toEqual(Uint8Array.from([...header(fields).subarray(0, 10), 0x0a, 0x09]))
  expect([...bytes.subarray(0, 2), ...bytes.subarray(14)]).toEqual([255, 255, 255, 255])
  writeHeader(bytes, 2, undefined, 1)
  expect([...bytes.subarray(2, 14)]).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0])
})

it("clears what has no meaning", () => {
  // DATA_VALID, RSC and unknown flags; sizes without a segmentation.
  expect(check({ flags: 0xfe, hdrLen: 99, gsoSize: 99, csumStart: 99, csumOffset: 99 }, 60)).toEqual(
    newHeader(),
  )
  expect(check({ flags: 1, csumStart: 34, csumOffset: 16, hdrLen: 7 }, 60)).toMatchObject({ hdrLen: 0 })
})

it("bad-input #28: csum_start and csum_offset past the frame, or in the Ethernet header", () => {
  const sum = (csumStart: number, csumOffset: number, length = 60) =>
    check({ flags: 1, csumStart, csumOffset }, length)
  expect(sum(34, 16)).toBeDefined()
  expect(sum(34, 24)).toBeDefined()
  expect(sum(34, 25)).toBeUndefined()
  expect(sum(60, 0)).toBeUndefined()
  expect(sum(13, 0)).toBeUndefined()
  expect(sum(0xffff, 0xffff)).toBeUndefined()
  expect(sum(34, 0xffff)).toBeUndefined()
  expect(check({ flags: 1, csumStart: 34, csumOffset: 16 }, 60, 0)).toBeUndefined()
})

it("bad-input #28: segmentation that was not negotiated, of size 0, of no kind, without checksum", () => {
  const gso = (gsoType: number, more = {}, offloads = ALL) =>
    check(
      { flags: 1, csumStart: 34, csumOffset: 16, gsoSize: 1448, hdrLen: 66, gsoType, ...more },
      3000,
      offloads,
    )
  for (const type of [1, 3, 4, 5, 0x81, 0x84]) expect(gso(type), `type ${type}`).toBeDefined()
  for (const type of [2, 6, 7, 0x80, 0x82, 0x83, 0x85, 0xff])
    expect(gso(type), `type ${type}`).toBeUndefined()
  expect(gso(1, { gsoSize: 0 })).toBeUndefined()
  expect(gso(1, { flags: 0 })).toBeUndefined()
  expect(gso(1, {}, CSUM)).toBeUndefined()
  expect(gso(4, {}, CSUM | TSO4)).toBeUndefined()
  expect(gso(0x81, {}, CSUM | TSO4)).toBeUndefined()
  // A huge gso_size is the host's to judge: it bounds nothing here.
  expect(gso(1, { gsoSize: 0xffff })).toBeDefined()
  expect(gso(1, { hdrLen: 0xffff })).toMatchObject({ hdrLen: 3000 })
})

it("whatever the header, what passes lies within the frame", () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ minLength: 12, maxLength: 12 }),
      fc.integer({ min: 14, max: 65553 }),
      fc.nat(127),
      (bytes, length, offloads) => {
        const parsed = newHeader()
        readHeader(bytes, 0, parsed)
        if (!checkTransmitHeader(parsed, length, offloads)) return
        expect(parsed.flags & ~1).toBe(0)
        expect(parsed.hdrLen).toBeLessThanOrEqual(length)
        expect(wirePackets(parsed, length)).toBeLessThanOrEqual(65553)
        if (parsed.flags === 1) {
          expect(offloads & CSUM).toBe(CSUM)
          expect(parsed.csumStart + parsed.csumOffset + 2).toBeLessThanOrEqual(length)
        } else {
          expect(parsed).toEqual(newHeader())
        }
      },
    ),
  )
})

it("counts packets as on the wire", () => {
  const tso = { ...newHeader(), gsoType: 1, gsoSize: 1448, hdrLen: 66 }
  expect(wirePackets(tso, 66 + 1448)).toBe(1)
  expect(wirePackets(tso, 66 + 1449)).toBe(2)
  expect(wirePackets(newHeader(), 60)).toBe(1)
})

it("completes checksums, odd lengths too", () => {
  const field = (data: number[]) => {
    const bytes = Uint8Array.from([...new Array(14).fill(9), ...data])
    completeChecksum(bytes, 0, bytes.length, { ...newHeader(), flags: 1, csumStart: 14, csumOffset: 0 })
    return [bytes[14], bytes[15]]
  }
  // RFC 1071's example: the words 0001 f203 f4f5 f6f7 sum to ddf2.
  expect(field([0, 0, 0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7])).toEqual([0x22, 0x0d])
  expect(field([0, 0, 0x12])).toEqual([0xed, 0xff])
  // 0 would mean "none" in UDP.
  expect(field([0, 0, 0xff, 0xff])).toEqual([0xff, 0xff])
})
