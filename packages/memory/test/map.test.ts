import { ConfigError, GuestAddressError, StateError } from "@virtkit/interface"
import {
  copyFromRanges,
  copyToRanges,
  GuestMemoryMap,
  heapMemory,
  heapRegion,
  rangesLength,
} from "@virtkit/memory"
import fc from "fast-check"
import { describe, expect, it } from "vitest"

const PAGE = 4096

/** Two adjacent regions and one behind a hole. */
function threeRegions() {
  return heapMemory([
    { guestAddress: 0x4000, size: PAGE },
    { guestAddress: 0x1_0000_0000, size: 2 * PAGE },
    { guestAddress: 0x3000, size: PAGE },
  ])
}

describe("GuestMemoryMap", () => {
  it("sorts its regions and knows its size", () => {
    const memory = threeRegions()
    expect(memory.regions.map((region) => region.guestAddress)).toEqual([0x3000, 0x4000, 0x1_0000_0000])
    expect(memory.size).toBe(4 * PAGE)
    expect(memory.hostAddress(0x3000, 1)).toBe(0)
  })

  it("reads and writes little-endian values of every width, unaligned too", () => {
    const memory = threeRegions()
    const at = 0x1_0000_0000 + PAGE - 3
    memory.writeBigUint64(at, 0x8877_6655_4433_2211n)
    expect(memory.readBigUint64(at)).toBe(0x8877_6655_4433_2211n)
    expect(memory.readUint32(at)).toBe(0x4433_2211)
    expect(memory.readUint32(at + 4)).toBe(0x8877_6655)
    expect(memory.readUint16(at + 6)).toBe(0x8877)
    expect(memory.readUint8(at + 7)).toBe(0x88)
    memory.writeUint32(at, 0xffff_fffe)
    memory.writeUint16(at + 4, 0xabcd)
    memory.writeUint8(at + 6, 0x1ff)
    expect(memory.readBigUint64(at)).toBe(0x88ff_abcd_ffff_fffen)
  })

  it("bad-input #11: a range counts only when it is whole in one region", () => {
    const memory = threeRegions()
    expect(memory.contains(0x3000, PAGE)).toBe(true)
    expect(memory.contains(0x3000, PAGE + 1)).toBe(false)
    expect(memory.contains(0x2fff, 1)).toBe(false)
    expect(memory.contains(0x3fff, 2)).toBe(false)
    expect(memory.contains(0x4fff, 1)).toBe(true)
    expect(memory.contains(0x5000, 0)).toBe(false)
    expect(memory.contains(0x4fff, 0)).toBe(true)
    expect(memory.contains(0x4000, -1)).toBe(false)
    expect(memory.contains(-1, 2)).toBe(false)
    expect(memory.contains(2 ** 64 - 1, 2)).toBe(false)
    expect(memory.contains(0x3000, 2 ** 64)).toBe(false)
    expect(memory.contains(0x3000 + 0.5, 1)).toBe(false)
    expect(memory.contains(0x3000, 1.5)).toBe(false)
    expect(memory.contains(Number.NaN, 1)).toBe(false)
    expect(memory.contains(0x3000, Number.NaN)).toBe(false)
    expect(memory.contains(0x3000, Number.POSITIVE_INFINITY)).toBe(false)
    expect(memory.regionOf(0x4000, 8)?.guestAddress).toBe(0x4000)
    expect(memory.regionOf(0x4ffc, 8)).toBeUndefined()
  })

  it("throws GuestAddressError for every kind of access outside", () => {
    const memory = threeRegions()
    const outside = 0x4fff
    const bytes = new Uint8Array(100)
    for (const access of [
      () => memory.readUint8(0x5000),
      () => memory.readUint16(outside),
      () => memory.readUint32(outside),
      () => memory.readBigUint64(outside),
      () => memory.writeUint8(0x5000, 0),
      () => memory.writeUint16(outside, 0),
      () => memory.writeUint32(outside, 0),
      () => memory.writeBigUint64(outside, 0n),
      () => memory.read(outside, bytes),
      () => memory.write(outside, bytes),
      () => memory.read(outside, bytes.subarray(0, 2)),
      () => memory.write(outside, bytes.subarray(0, 2)),
      () => memory.fill(outside, 2, 0),
    ]) {
      expect(access).toThrow(GuestAddressError)
    }
    expect(() => memory.readUint8(0x5000)).toThrow("guest range 0x5000+1 is not in guest memory")
  })

  it("copies and fills small and large blocks as a plain array would", () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.record({
            at: fc.integer({ min: 0, max: PAGE - 1 }),
            bytes: fc.uint8Array({ maxLength: 200 }),
            fill: fc.option(fc.integer({ min: 0, max: 255 })),
          }),
        ),
        (writes) => {
          const memory = threeRegions()
          const model = new Uint8Array(PAGE)
          for (const { at, bytes, fill } of writes) {
            const fits = at + bytes.length <= PAGE
            const go = () =>
              fill === null ? memory.write(0x4000 + at, bytes) : memory.fill(0x4000 + at, bytes.length, fill)
            if (!fits) expect(go).toThrow(GuestAddressError)
            else {
              go()
              if (fill === null) model.set(bytes, at)
              else model.fill(fill, at, at + bytes.length)
            }
            if (fits) {
              const back = new Uint8Array(bytes.length)
              memory.read(0x4000 + at, back)
              expect(back).toEqual(model.subarray(at, at + bytes.length))
            }
          }
          const all = new Uint8Array(PAGE)
          memory.read(0x4000, all)
          expect(all).toEqual(model)
        },
      ),
      { numRuns: 50 },
    )
  })

  it("refuses overlapping and ragged regions by name", () => {
    const make = (...ranges: [number, number][]) =>
      heapMemory(ranges.map(([guestAddress, size]) => ({ guestAddress, size })))
    expect(() => make([0, 2 * PAGE], [PAGE, PAGE])).toThrow(
      new ConfigError("memory region at 0x1000 overlaps the one at 0x0"),
    )
    expect(() => make([1, PAGE])).toThrow(ConfigError)
    expect(() => make([0, PAGE + 1])).toThrow(ConfigError)
    expect(() => make([0, 0])).toThrow(ConfigError)
    expect(() => make([-PAGE, PAGE])).toThrow(ConfigError)
  })

  it("releases every region once and throws StateError afterwards", () => {
    let released = 0
    const regions = [0, PAGE].map((at) => ({ ...heapRegion(at, PAGE), release: () => void released++ }))
    const memory = new GuestMemoryMap(regions)
    memory.readUint8(0)
    memory.close()
    memory.close()
    expect(released).toBe(2)
    expect(memory.closed).toBe(true)
    for (const access of [
      () => memory.readUint8(0),
      () => memory.writeUint8(0, 1),
      () => memory.contains(0, 1),
      () => memory.regionOf(0, 1),
      () => memory.hostAddress(0, 1),
      () => memory.startDirtyTracking(),
      () => memory.share(),
    ]) {
      expect(access).toThrow(StateError)
    }
    memory.markDirty(0, 1)
  })
})

describe("range lists", () => {
  it("copy as one block would be, from any offset", () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 0, max: 90 }), { maxLength: 12 }),
        fc.integer({ min: 0, max: 300 }),
        fc.uint8Array({ maxLength: 300 }),
        (sizes, offset, source) => {
          const memory = heapMemory(4 * PAGE)
          const list = {
            addresses: Float64Array.from(sizes, (_, i) => i * 200 + 7),
            lengths: Uint32Array.from(sizes),
            count: sizes.length,
          }
          const total = rangesLength(list)
          const expected = Math.max(0, Math.min(total - offset, source.length))
          expect(copyToRanges(memory, list, offset, source)).toBe(expected)
          const back = new Uint8Array(source.length)
          expect(copyFromRanges(memory, list, offset, back)).toBe(expected)
          expect(back.subarray(0, expected)).toEqual(source.subarray(0, expected))
          const whole = new Uint8Array(total)
          copyFromRanges(memory, list, 0, whole)
          expect(whole.subarray(0, Math.min(offset, total)).every((byte) => byte === 0)).toBe(true)
        },
      ),
    )
  })
})
