import { GuestAddressError } from "@virtkit/interface"
import { FakeInterrupt, TestAllocator, TestMemory, until } from "@virtkit/testkit"
import { describe, expect, it } from "vitest"

const regions = [
  { guestAddress: 0x1000, size: 0x1000 },
  { guestAddress: 0x2000, size: 0x1000 },
]

describe("TestMemory", () => {
  it("has whole ranges within one region only", () => {
    const memory = new TestMemory({ regions })
    expect(memory.contains(0x1000, 0x1000)).toBe(true)
    expect(memory.contains(0x1fff, 0)).toBe(true)
    for (const [address, length] of [
      [0xfff, 1],
      [0x1fff, 2],
      [0x3000, 0],
      [0x2fff, 2],
      [-1, 1],
      [0x1000, -1],
      [4096.5, 1],
      [2 ** 53, 1],
      [0x2000, Number.MAX_SAFE_INTEGER],
      [Number.NaN, 1],
      [Number.POSITIVE_INFINITY, 1],
    ] as const) {
      expect(memory.contains(address, length), `${address}+${length}`).toBe(false)
    }
    expect(() => memory.readUint16(0x1fff)).toThrow(GuestAddressError)
  })

  it("is little-endian in all widths, and notes what was written", () => {
    for (const shared of [false, true]) {
      const memory = new TestMemory({ regions, shared })
      memory.writeBigUint64(0x1000, 0x8877_6655_4433_2211n)
      expect(memory.readUint8(0x1001)).toBe(0x22)
      expect(memory.readUint16(0x1002)).toBe(0x4433)
      expect(memory.readUint32(0x1004)).toBe(0x8877_6655)
      const bytes = new Uint8Array(3)
      memory.read(0x1006, bytes)
      expect([...bytes]).toEqual([0x77, 0x88, 0])
      memory.clearWritten()
      memory.fill(0x2000, 2, 7)
      memory.write(0x2004, bytes)
      memory.writeUint8(0x2010, 1)
      expect(memory.written).toEqual([
        { address: 0x2000, length: 2 },
        { address: 0x2004, length: 3 },
        { address: 0x2010, length: 1 },
      ])
    }
  })
})

describe("TestAllocator", () => {
  it("aligns, fills gaps and says when it is full", () => {
    const allocator = new TestAllocator(0x1001, 0x100)
    const a = allocator.allocate(3, 16)
    const b = allocator.allocate(16, 16)
    const c = allocator.allocate(1, 1)
    expect([a, b, c]).toEqual([0x1010, 0x1020, 0x1001])
    allocator.free(a)
    expect(allocator.allocate(8, 8)).toBe(0x1008)
    expect(allocator.allocate(16, 16)).toBe(0x1010)
    expect(allocator.allocated).toBe(4)
    expect(() => allocator.allocate(0x200)).toThrow("no 512 bytes left")
    expect(() => allocator.free(0x5000)).toThrow("not allocated")
  })
})

describe("FakeInterrupt", () => {
  it("counts and wakes", async () => {
    const interrupt = new FakeInterrupt()
    const next = interrupt.next()
    interrupt.signal()
    await next
    expect(interrupt.count).toBe(1)
  })
})

describe("until", () => {
  it("waits, but not for ever", async () => {
    let turns = 0
    await until(() => turns++ > 60, "turns")
    await expect(until(() => false, "nothing", 5)).rejects.toThrow("waited 5 ms for nothing")
  })
})
