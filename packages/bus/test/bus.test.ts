import { Bus } from "@virtkit/bus"
import { type AccessSize, type BusDevice, ConfigError, StateError } from "@virtkit/interface"
import fc from "fast-check"
import { describe, expect, it } from "vitest"

/** Remembers what it was asked; its byte at offset n reads as n. */
class Recorder implements BusDevice {
  readonly log: string[] = []
  answer: void | Promise<void> = undefined
  readonly name: string

  constructor(name: string) {
    this.name = name
  }

  read(offset: number, size: AccessSize): number {
    this.log.push(`r${size}@${offset}`)
    let value = 0
    for (let byte = 0; byte < size; byte++) value |= ((offset + byte) & 0xff) << (8 * byte)
    return value
  }

  write(offset: number, size: AccessSize, value: number): void | Promise<void> {
    this.log.push(`w${size}@${offset}=${value}`)
    return this.answer
  }
}

const ports = () => new Bus({ name: "port", limit: 0x10000 })

describe("isFree", () => {
  it("tells whether a claim would be refused", () => {
    const bus = ports()
    bus.claim(0x3f8, 8, new Recorder("serial0"))
    expect([bus.isFree(0x3f0, 8), bus.isFree(0x400, 1), bus.isFree(0, 0x3f8)]).toEqual([true, true, true])
    expect([bus.isFree(0x3ff, 1), bus.isFree(0x3f0, 9), bus.isFree(0, 0x10000)]).toEqual([
      false,
      false,
      false,
    ])
  })
})

describe("claim", () => {
  it("refuses an overlap and names both devices and ranges", () => {
    const bus = ports()
    bus.claim(0x3f8, 8, new Recorder("serial0"))
    expect(() => bus.claim(0x3ff, 2, new Recorder("rtc"))).toThrow(
      new ConfigError("rtc (0x3ff to 0x400) overlaps serial0 (0x3f8 to 0x3ff) on the port bus"),
    )
    for (const [start, length] of [
      [0x3f8, 8],
      [0x3f0, 0x20],
      [0x3fa, 1],
      [0x3f0, 9],
    ] as const) {
      expect(() => bus.claim(start, length, new Recorder("other"))).toThrow(ConfigError)
    }
    expect(bus.claims).toHaveLength(1)
  })

  it("takes neighbours", () => {
    const bus = ports()
    bus.claim(0x10, 4, new Recorder("b"))
    bus.claim(0x0c, 4, new Recorder("a"))
    bus.claim(0x14, 4, new Recorder("c"))
    expect(bus.claims.map((claim) => claim.name)).toEqual(["a", "b", "c"])
  })

  it("refuses ranges that are none", () => {
    const bus = ports()
    for (const [start, length] of [
      [-1, 4],
      [0, 0],
      [0.5, 1],
      [0, Number.NaN],
      [0xffff, 2],
      [2 ** 53, 1],
    ] as const) {
      expect(() => bus.claim(start, length, new Recorder("x"))).toThrow(ConfigError)
    }
  })

  it("gives a released range to the next one", () => {
    const bus = ports()
    const claim = bus.claim(0, 4, new Recorder("a"))
    expect(bus.read(0, 1)).toBe(0)
    bus.release(claim)
    expect(bus.read(0, 1)).toBe(0xff)
    expect(() => bus.release(claim)).toThrow(StateError)
    bus.claim(0, 4, new Recorder("b"))
  })
})

describe("access", () => {
  it("hands over offset, size and value", () => {
    const bus = ports()
    const device = new Recorder("a")
    bus.claim(0x100, 8, device, "alias")
    expect(bus.read(0x104, 2)).toBe(0x0504)
    bus.write(0x100, 4, 0xffff_fffe)
    bus.write(0x107, 1, 0x1ff)
    expect(device.log).toEqual(["r2@4", "w4@0=4294967294", "w1@7=255"])
  })

  it("answers unclaimed reads with all ones of that size, and counts", () => {
    const bus = ports()
    expect([bus.read(0, 1), bus.read(0, 2), bus.read(0, 4)]).toEqual([0xff, 0xffff, 0xffff_ffff])
    expect(bus.write(5, 4, 1)).toBeUndefined()
    expect([bus.unclaimedReads, bus.unclaimedWrites]).toEqual([3, 1])
  })

  it("splits what straddles an end or a beginning into bytes", () => {
    const bus = ports()
    const device = new Recorder("a")
    const neighbour = new Recorder("b")
    bus.claim(0x10, 3, device)
    expect(bus.read(0x12, 4)).toBe(0xffff_ff02)
    expect(bus.read(0x0e, 4)).toBe(0x0100_ffff)
    bus.claim(0x13, 1, neighbour)
    bus.write(0x11, 4, 0x4433_2211)
    expect(device.log.slice(-2)).toEqual(["w1@1=17", "w1@2=34"])
    expect(neighbour.log).toEqual(["w1@0=51"])
    expect(bus.unclaimedReads).toBe(5)
    expect(bus.unclaimedWrites).toBe(1)
  })

  it("passes promises through, of split writes too", async () => {
    const bus = ports()
    const [a, b] = [new Recorder("a"), new Recorder("b")]
    bus.claim(0, 2, a)
    bus.claim(2, 2, b)
    let done = (): void => {}
    a.answer = new Promise((resolve) => {
      done = resolve
    })
    expect(bus.write(0, 2, 0)).toBe(a.answer)
    let settled = false
    const split = bus.write(1, 2, 0)!.then(() => {
      settled = true
    })
    await Promise.resolve()
    expect(settled).toBe(false)
    done()
    await split
    expect(settled).toBe(true)
  })

  it("lets the error of a device that breaks its contract through", () => {
    const bus = ports()
    const device = new Recorder("a")
    device.read = () => {
      throw new Error("bug")
    }
    bus.claim(0, 4, device)
    expect(() => bus.read(0, 4)).toThrow("bug")
  })

  it("bad-input #35: results are unsigned and addresses may be up to 2^53", () => {
    const bus = new Bus({ name: "MMIO" })
    const start = 2 ** 53 - 4096
    const device = new Recorder("high")
    device.read = () => -1
    bus.claim(start, 4095, device)
    expect([bus.read(start, 1), bus.read(start, 2), bus.read(start, 4)]).toEqual([0xff, 0xffff, 0xffff_ffff])
    expect(bus.lookup(start + 4094)?.device).toBe(device)
    expect(bus.lookup(start + 4095)).toBeUndefined()
  })

  it("finds what a linear search finds, byte by byte", () => {
    const range = fc.record({ start: fc.nat(120), length: fc.integer({ min: 1, max: 12 }) })
    const access = fc.record({
      address: fc.nat(130),
      size: fc.constantFrom<AccessSize>(1, 2, 4),
      release: fc.boolean(),
    })
    fc.assert(
      fc.property(
        fc.array(range, { maxLength: 12 }),
        fc.array(access, { maxLength: 30 }),
        (ranges, accesses) => {
          const bus = ports()
          const model = new Map<number, number>()
          for (const { start, length } of ranges) {
            const taken = Array.from({ length }, (_, i) => model.has(start + i)).includes(true)
            if (taken) {
              expect(() => bus.claim(start, length, new Recorder("x"))).toThrow(ConfigError)
              continue
            }
            bus.claim(start, length, new Recorder("x"))
            for (let i = 0; i < length; i++) model.set(start + i, i)
          }
          for (const { address, size, release } of accesses) {
            let expected = 0
            for (let i = 0; i < size; i++) expected += (model.get(address + i) ?? 0xff) * 2 ** (8 * i)
            expect(bus.read(address, size)).toBe(expected)
            const claim = bus.lookup(address)
            if (!release || claim === undefined) continue
            bus.release(claim)
            for (let i = 0; i < claim.length; i++) model.delete(claim.start + i)
          }
        },
      ),
      { seed: 1 },
    )
  })
})
