import { EchoDevice, FakeInterrupt, FEATURE, MMIO, MmioDriver, STATUS, TestMemory } from "@virtkit/testkit"
import { VirtioMmio } from "@virtkit/virtio"
import { describe, expect, it } from "vitest"

const RINGS = FEATURE.RING_PACKED | FEATURE.IN_ORDER
const ALL = ~FEATURE.RING_RESET
const CASES = [false, true].flatMap((packed) => [false, true].map((inOrder) => ({ packed, inOrder })))

describe.each(CASES)("rings that a transport offers, packed $packed, in order $inOrder", (offers) => {
  const setup = (memory = new TestMemory()) => {
    const device = new EchoDevice()
    const transport = new VirtioMmio({ device, memory, interrupt: new FakeInterrupt(), ...offers })
    return { device, transport, driver: new MmioDriver({ device: transport, memory }), memory }
  }

  it("are those of the options, and a driver may use them or not", async () => {
    const { driver } = setup()
    await driver.begin()
    const wanted = (offers.packed ? FEATURE.RING_PACKED : 0n) | (offers.inOrder ? FEATURE.IN_ORDER : 0n)
    expect(driver.offeredFeatures() & RINGS).toBe(wanted)
    for (const features of [ALL, ALL & ~FEATURE.IN_ORDER, ALL & ~FEATURE.RING_PACKED, ALL & ~RINGS]) {
      await driver.start({ features, queueSize: 8 })
      const packed = offers.packed && (features & FEATURE.RING_PACKED) !== 0n
      expect([driver.packedRings.length, driver.rings.length]).toEqual(packed ? [2, 0] : [0, 2])
      for (let round = 0; round < 20; round++) {
        for (const layout of ["direct", "indirect", "mixed"] as const) {
          const readable = [Uint8Array.of(round, 2), Uint8Array.of(3)]
          const chain = await driver.request(0, { readable, writable: [2, 3], layout })
          expect([chain.written, ...chain.data!.subarray(0, 3)]).toEqual([3, round, 2, 3])
        }
      }
    }
  })

  it.each([{ eventIdx: false }, { indirect: false }, { eventIdx: false, indirect: false }])(
    "are there without %j",
    async (without) => {
      const device = new EchoDevice()
      const memory = new TestMemory()
      const interrupt = new FakeInterrupt()
      const transport = new VirtioMmio({ device, memory, interrupt, ...offers, ...without })
      const driver = new MmioDriver({ device: transport, memory })
      await driver.start({ features: ALL, queueSize: 8 })
      expect([
        (driver.offeredFeatures() & FEATURE.RING_EVENT_IDX) === 0n,
        (driver.offeredFeatures() & FEATURE.RING_INDIRECT_DESC) === 0n,
      ]).toEqual([without.eventIdx === false, without.indirect === false])
      const layout = without.indirect === false ? "direct" : "indirect"
      for (let round = 0; round < 20; round++) {
        const chain = await driver.request(0, { readable: [Uint8Array.of(round)], writable: [1], layout })
        expect([chain.written, chain.data![0]]).toEqual([1, round])
      }
    },
  )

  it("have any size from 1 to 32768, split ones powers of two", async () => {
    for (const size of offers.packed ? [1, 3, 100, 32767, 32768] : [1, 2, 64, 32768]) {
      const memory = new TestMemory({ regions: [{ guestAddress: 0, size: 4 << 20 }] })
      const device = new EchoDevice({ queueMaxSizes: [32768] })
      const transport = new VirtioMmio({ device, memory, interrupt: new FakeInterrupt(), ...offers })
      const driver = new MmioDriver({ device: transport, memory })
      await driver.start({ features: ALL, queueSize: size })
      expect(device.context?.queues[0]?.size).toBe(size)
      for (let round = 0; round < 4; round++) {
        const chain = await driver.request(0, { readable: [], writable: [1] })
        expect([size, chain.written]).toEqual([size, 0])
      }
    }
  })

  it("are told of with VIRTIO_F_NOTIFICATION_DATA how far the driver got", async () => {
    const device = new EchoDevice()
    const memory = new TestMemory()
    const interrupt = new FakeInterrupt()
    const transport = new VirtioMmio({ device, memory, interrupt, notificationData: true, ...offers })
    const driver = new MmioDriver({ device: transport, memory })
    const notified: number[] = []
    const write = transport.write.bind(transport)
    transport.write = (offset, size, value) => {
      if (offset === MMIO.QUEUE_NOTIFY) notified.push(value)
      return write(offset, size, value)
    }
    for (const data of [FEATURE.NOTIFICATION_DATA, 0n]) {
      await driver.start({ features: FEATURE.VERSION_1 | FEATURE.RING_PACKED | data, queueSize: 8 })
      const request = { readable: [Uint8Array.of(1)], writable: [1] }
      for (let i = 0; i < 3; i++) expect((await driver.request(1, request)).written).toBe(1)
      const next = offers.packed ? 0x8006 : 3
      expect(notified.splice(0)[2]).toBe(data === 0n ? 1 : 1 + next * 0x1_0000)
    }
    // Without it the value is the queue, all of it (bad-input #4).
    device.calls.length = 0
    transport.write(MMIO.QUEUE_NOTIFY, 4, 0x1_0001)
    expect(device.calls).toEqual([])
  })

  it("go on from a saved state", async () => {
    const { driver, transport, memory } = setup()
    await driver.start({ features: ALL, queueSize: 4 })
    for (let i = 0; i < 7; i++) await driver.request(0, { readable: [Uint8Array.of(i)], writable: [1] })
    const state = structuredClone(transport.state())
    const second = setup(memory)
    second.transport.restore(state)
    const ring = driver.ring(0)
    const chain = ring.add({ readable: [Uint8Array.of(99)], writable: [1] })
    ring.publish()
    second.driver.notify(0)
    expect(ring.reap()).toEqual([chain])
    expect(chain.data![0]).toBe(99)
  })

  it("bad-input #30: a broken ring of either kind needs a reset, after which all is well", async () => {
    const { driver } = setup()
    await driver.start({ features: ALL, queueSize: 4 })
    if (offers.packed) {
      driver.packedRings[0]!.offer(new Array(4).fill({ address: 0, length: 1, flags: 1 }))
      driver.packedRings[0]!.publish()
    } else {
      driver.rings[0]!.setAvailIndex(100)
    }
    driver.notify(0)
    expect(driver.status & STATUS.DEVICE_NEEDS_RESET).toBe(STATUS.DEVICE_NEEDS_RESET)
    await driver.start({ features: ALL, queueSize: 4 })
    expect((await driver.request(0, { readable: [Uint8Array.of(1)], writable: [1] })).written).toBe(1)
  })
})
