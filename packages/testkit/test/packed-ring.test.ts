import {
  PackedRingDriver,
  type PackedRingOptions,
  SplitRingDriver,
  TestAllocator,
  TestMemory,
} from "@virtkit/testkit"
import { describe, expect, it } from "vitest"

/** Bytes of the ring as section 2.8 of the specification lays them out, worked out by hand. */
describe("PackedRingDriver", () => {
  const make = (options: Partial<PackedRingOptions> = {}) => {
    const memory = new TestMemory()
    const allocator = new TestAllocator(0x1000, 0x10000)
    return { memory, allocator, ring: new PackedRingDriver({ memory, allocator, size: 3, ...options }) }
  }
  const words = (memory: TestMemory, ring: PackedRingDriver, slot: number): number[] => {
    const at = ring.desc + 16 * slot
    return [memory.readUint32(at + 8), memory.readUint16(at + 12), memory.readUint16(at + 14)]
  }
  /** What a device writes to give a chain back. */
  const use = (memory: TestMemory, ring: PackedRingDriver, slot: number, id: number, flags: number): void => {
    ring.writeDescriptor(slot, { address: 0, length: 1, id, flags })
    expect(memory.readUint16(ring.desc + 16 * slot + 14)).toBe(flags)
  }

  it("writes a list with AVAIL, the id in its last descriptor, the flags of the first one last", () => {
    const { memory, ring } = make()
    const chain = ring.add({ readable: [Uint8Array.of(9)], writable: [2] })
    expect(memory.readBigUint64(ring.desc)).toBe(BigInt(chain.buffers[0]!.address))
    expect(words(memory, ring, 0)).toEqual([1, 0xffff, 0])
    expect(words(memory, ring, 1)).toEqual([2, chain.head, 0x82])
    expect(ring.publish()).toBe(true)
    expect(words(memory, ring, 0)).toEqual([1, 0xffff, 0x81])
    expect([ring.freeDescriptors, ring.availPosition]).toEqual([1, 0x8002])
  })

  it("writes an indirect table with no flag but WRITE", () => {
    const { memory, ring } = make()
    const chain = ring.add({ readable: [Uint8Array.of(9)], writable: [2], layout: "mixed" })
    ring.publish()
    expect(words(memory, ring, 0)).toEqual([32, chain.head, 0x84])
    const table = Number(memory.readBigUint64(ring.desc))
    expect(memory.readBigUint64(table + 16)).toBe(BigInt(chain.buffers[1]!.address))
    expect([memory.readUint16(table + 14), memory.readUint16(table + 30)]).toEqual([0, 2])
    expect(ring.freeDescriptors).toBe(2)
  })

  it("goes round: on the next lap AVAIL is 0 and USED is 1, used are those with both 0", () => {
    const { memory, ring } = make()
    const first = ring.add({ writable: [1, 1, 1] })
    ring.publish()
    expect(ring.reap()).toEqual([])
    use(memory, ring, 0, first.head, 0x8080)
    expect(ring.reap()).toEqual([first])
    expect([ring.availPosition, ring.usedPosition, ring.freeDescriptors]).toEqual([0, 0, 3])
    const second = ring.add({ writable: [1] })
    ring.publish()
    expect(words(memory, ring, 0)).toEqual([1, second.head, 0x8002])
    expect(ring.reap()).toEqual([])
    use(memory, ring, 0, second.head, 0)
    expect(ring.reap()).toEqual([second])
  })

  it("starts anywhere on either lap, with nothing that looks used or available", () => {
    for (const [startPosition, flags] of [
      [0x8001, [0x8080, 0, 0]],
      [0x0001, [0, 0x8080, 0x8080]],
    ] as const) {
      const { memory, ring } = make({ startPosition })
      expect([0, 1, 2].map((slot) => words(memory, ring, slot)[2])).toEqual(flags)
      expect(ring.reap()).toEqual([])
    }
  })

  it("heeds the device's wish for notifications", () => {
    const { memory, ring } = make()
    expect(ring.publish()).toBe(false)
    memory.writeUint16(ring.used + 2, 1)
    ring.add({ writable: [1] })
    expect(ring.publish()).toBe(false)
    for (const [event, count, expected] of [
      [0x8000, 1, true],
      [0x8001, 1, false],
      [0x8001, 2, true],
      [0x0000, 2, false],
      [0x0000, 3, false],
    ] as const) {
      const test = make({ eventIdx: true })
      test.memory.writeUint16(test.ring.used, event)
      test.memory.writeUint16(test.ring.used + 2, 2)
      for (let i = 0; i < count; i++) test.ring.add({ writable: [1] })
      expect(test.ring.publish(), `${event} ${count}`).toBe(expected)
    }
  })

  it("tells the device its wish for interrupts", () => {
    const plain = make()
    plain.ring.disableInterrupts()
    expect(plain.memory.readUint16(plain.ring.avail + 2)).toBe(1)
    expect(plain.ring.enableInterrupts()).toBe(false)
    expect(plain.memory.readUint32(plain.ring.avail)).toBe(0)

    const { memory, ring } = make({ eventIdx: true })
    expect(memory.readUint32(ring.avail)).toBe(0x0002_8000)
    expect(ring.delayInterrupts(3)).toBe(false)
    expect(memory.readUint32(ring.avail)).toBe(0x0002_8002)
    ring.delayInterrupts(4)
    expect(memory.readUint32(ring.avail)).toBe(0x0002_0000)
  })

  it("refuses what it did not ask for, and says when the ring is full", () => {
    const { memory, ring } = make()
    expect(() => ring.add({})).toThrow("needs a buffer")
    expect(() => ring.add({ writable: [1, 1, 1, 1] })).toThrow("ring full")
    use(memory, ring, 0, 2, 0x8080)
    expect(() => ring.reap()).toThrow("gave back 2")
  })
})

describe("drivers with IN_ORDER", () => {
  it("take a batch by its last chain, those before it as full", () => {
    for (const kind of [SplitRingDriver, PackedRingDriver]) {
      const memory = new TestMemory()
      const allocator = new TestAllocator(0x1000, 0x10000)
      const ring = new kind({ memory, allocator, size: 4, inOrder: true })
      const chains = [4, 2, 1].map((bytes) => ring.add({ writable: [bytes] }))
      ring.publish()
      if (ring instanceof SplitRingDriver) {
        memory.writeUint32(ring.used + 4, chains[1]!.head)
        memory.writeUint32(ring.used + 8, 1)
        memory.writeUint16(ring.used + 2, 2)
      } else {
        ring.writeDescriptor(0, { address: 0, length: 1, id: chains[1]!.head, flags: 0x8082 })
      }
      expect(ring.reap()).toEqual(chains.slice(0, 2))
      expect(chains.map((chain) => chain.written)).toEqual([4, 1, undefined])
    }
  })
})
