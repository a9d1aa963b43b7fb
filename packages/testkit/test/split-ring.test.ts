import { SplitRingDriver, TestAllocator, TestMemory } from "@virtkit/testkit"
import { describe, expect, it } from "vitest"

/** Bytes of the rings as section 2.7 of the specification lays them out, worked out by hand. */
describe("SplitRingDriver", () => {
  const make = (
    eventIdx = false,
  ): { memory: TestMemory; ring: SplitRingDriver; allocator: TestAllocator } => {
    const memory = new TestMemory()
    const allocator = new TestAllocator(0x1000, 0x10000)
    return { memory, allocator, ring: new SplitRingDriver({ memory, allocator, size: 4, eventIdx }) }
  }

  it("writes descriptors and available ring", () => {
    const { memory, ring } = make()
    const chain = ring.add({ readable: [Uint8Array.of(9)], writable: [2] })
    const [first, second] = chain.buffers
    expect(memory.readBigUint64(ring.desc)).toBe(BigInt(first!.address))
    expect(memory.readUint32(ring.desc + 8)).toBe(1)
    expect([memory.readUint16(ring.desc + 12), memory.readUint16(ring.desc + 14)]).toEqual([1, 1])
    expect(memory.readBigUint64(ring.desc + 16)).toBe(BigInt(second!.address))
    expect([memory.readUint32(ring.desc + 24), memory.readUint16(ring.desc + 28)]).toEqual([2, 2])
    expect([memory.readUint16(ring.avail + 2), memory.readUint16(ring.avail + 4)]).toEqual([0, chain.head])
    expect(ring.publish()).toBe(true)
    expect(memory.readUint16(ring.avail + 2)).toBe(1)
    expect(ring.freeDescriptors).toBe(2)
  })

  it("takes used elements back, with what the device wrote", () => {
    const { memory, ring, allocator } = make()
    const chain = ring.add({ writable: [2], layout: "indirect" })
    ring.publish()
    memory.write(chain.buffers[0]!.address, Uint8Array.of(5, 6))
    memory.writeUint32(ring.used + 4, chain.head)
    memory.writeUint32(ring.used + 8, 2)
    expect(ring.reap()).toEqual([])
    memory.writeUint16(ring.used + 2, 1)
    expect(ring.reap()).toEqual([chain])
    expect([chain.written, [...chain.data!]]).toEqual([2, [5, 6]])
    expect([ring.freeDescriptors, ring.inFlight, allocator.allocated]).toEqual([4, 0, 3])
  })

  it("refuses a used element that it did not ask for", () => {
    const { memory, ring } = make()
    memory.writeUint32(ring.used + 4, 3)
    memory.writeUint16(ring.used + 2, 1)
    expect(() => ring.reap()).toThrow("gave back 3")
  })

  it("heeds the device's wish for notifications", () => {
    const plain = make()
    plain.memory.writeUint16(plain.ring.used, 1)
    plain.ring.add({ writable: [1] })
    expect(plain.ring.publish()).toBe(false)

    const { memory, ring } = make(true)
    const availEvent = ring.used + 4 + 8 * 4
    memory.writeUint16(availEvent, 1)
    ring.add({ writable: [1] })
    expect(ring.publish()).toBe(false)
    ring.add({ writable: [1] })
    expect(ring.publish()).toBe(true)
  })

  it("tells the device its wish for interrupts", () => {
    const plain = make()
    plain.ring.disableInterrupts()
    expect(plain.memory.readUint16(plain.ring.avail)).toBe(1)
    expect(plain.ring.enableInterrupts()).toBe(false)
    expect(plain.memory.readUint16(plain.ring.avail)).toBe(0)

    const { memory, ring } = make(true)
    const usedEvent = ring.avail + 4 + 2 * 4
    expect(ring.delayInterrupts(3)).toBe(false)
    expect(memory.readUint16(usedEvent)).toBe(2)
    memory.writeUint16(ring.used + 2, 3)
    expect(ring.delayInterrupts(3)).toBe(true)
    expect(ring.enableInterrupts()).toBe(true)
    expect(memory.readUint16(usedEvent)).toBe(0)
  })

  it("says when the ring is full", () => {
    const { ring } = make()
    ring.add({ writable: [1, 1, 1] })
    expect(() => ring.add({ writable: [1, 1] })).toThrow("ring full")
    expect(() => ring.add({})).toThrow("needs a buffer")
  })
})
