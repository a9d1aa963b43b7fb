import type { VirtioDevice } from "@virtkit/interface"
import type { DriverChain } from "../ring-driver.js"
import { FEATURE, STATUS } from "../spec.js"
import type { WithDevice } from "./device-basics.js"
import { type DeviceBench, type DeviceBenchOptions, deviceBench, Seeded } from "./device-bench.js"
import { STARTED, type TestRunner, turn } from "./fixture.js"
import { type RingKind, rawRing } from "./raw-ring.js"

/** What drivers put on its queues, whatever these mean. */
export function deviceRingTests(
  { it, expect }: TestRunner,
  kind: RingKind,
  withDevice: WithDevice,
  options: DeviceBenchOptions & { setup(): VirtioDevice | Promise<VirtioDevice>; saves?: boolean },
): void {
  for (const seed of [1, 2, 3]) {
    it(`bad-input #12, #18 and #21 (2.7.4, 2.8.5): random requests in any framing, on every queue (seed ${seed})`, () => {
      return withDevice(async ({ device, driver }) => {
        const random = new Seeded(seed)
        await driver.start()
        for (let round = 0; round < 60; round++) {
          const index = random.below(device.queueMaxSizes.length)
          const chain = offerRandom(driver, index, random)
          if (chain !== undefined) driver.kick(index)
          if (random.below(4) === 0) await turn()
          for (const queue of device.queueMaxSizes.keys()) checkWritten(driver.ring(queue).reap())
        }
        for (let turns = 0; turns < 5; turns++) await turn()
        expect(driver.status & ~STATUS.DEVICE_NEEDS_RESET).toBe(STARTED)
        await driver.start()
        expect(driver.status).toBe(STARTED)
      })
    })
  }

  it("bad-input #11, #20 and #22 (2.7.5, 2.8.5): descriptors of any bits, on every queue", () => {
    return withDevice(async ({ device, driver, memory }) => {
      const random = new Seeded(4)
      const size = memory.regions[0]!.size
      for (const index of device.queueMaxSizes.keys()) {
        for (let round = 0; round < 40; round++) {
          await driver.start({ queueSize: 8 })
          const ring = rawRing(driver.packedRings[index] ?? driver.rings[index]!)
          for (let chains = 0; chains < 3; chains++) {
            const count = 1 + random.below(2)
            ring.offer(
              Array.from({ length: count }, () => ({
                address: random.one([size / 2, size - 1, size, 2 ** 40, 2n ** 63n, random.below(size)]),
                length: random.one([0, 1, 16, 48, 4096, size, 0xffff_ffff]),
                flags: random.one([0, 0, 2, 2, 4, 6, 3]),
              })),
            )
          }
          ring.publish()
          driver.notify(index)
          await turn()
          expect(driver.status & ~STATUS.DEVICE_NEEDS_RESET).toBe(STARTED)
        }
      }
    })
  })

  it("bad-input #27 (2.4): a reset with requests in flight: after it no memory is touched, and no interrupt comes", () => {
    return withDevice(async ({ device, driver, memory, interrupt }) => {
      const random = new Seeded(5)
      for (let round = 0; round < 6; round++) {
        await driver.start()
        for (const index of device.queueMaxSizes.keys()) {
          for (let chains = 0; chains < 3; chains++) offerRandom(driver, index, random)
          driver.kick(index)
        }
        if (round % 2 === 0) await turn()
        await driver.reset()
        const before = interrupt.count
        const untouched = fillAll(memory)
        for (let turns = 0; turns < 5; turns++) await turn()
        expect([interrupt.count - before, untouched()]).toEqual([0, true])
        expect(driver.status).toBe(0)
      }
    })
  })

  it("bad-input #27 and #34 (2.6.1): each queue can be reset with requests in flight, and used again", () => {
    return withDevice(async ({ device, driver }) => {
      if (device.resetQueue === undefined) return
      const random = new Seeded(6)
      const features = driver.wantedFeatures | FEATURE.RING_RESET
      for (const index of device.queueMaxSizes.keys()) {
        await driver.start({ features })
        for (let round = 0; round < 5; round++) {
          const ring = driver.ring(index)
          for (let chains = 0; chains < 3; chains++) offerRandom(driver, index, random)
          driver.kick(index)
          if (round % 2 === 0) await turn()
          if ((driver.status & STATUS.DEVICE_NEEDS_RESET) !== 0) break
          await driver.resetQueue(index)
          const used = new Uint8Array(16)
          driver.memory.fill(ring.used, kind === "packed" ? 4 : 16, 0x55)
          driver.memory.fill(ring.desc, 16, 0x55)
          for (let turns = 0; turns < 3; turns++) await turn()
          driver.memory.read(ring.desc, used)
          expect([...used]).toEqual([...new Uint8Array(16).fill(0x55)])
          expect(driver.memory.readUint32(ring.used)).toBe(0x5555_5555)
          driver.setupQueue(index, 4)
          expect(driver.queueReady(index)).toBe(true)
        }
        expect(driver.status & ~STATUS.DEVICE_NEEDS_RESET).toBe(STARTED)
      }
    })
  })

  it("bad-input #34 (2.4): a storm of resets and notifications, with requests waiting", () => {
    return withDevice(async ({ device, driver }) => {
      const random = new Seeded(7)
      for (let round = 0; round < 30; round++) {
        await driver.start({ queueSize: 4 })
        for (const index of device.queueMaxSizes.keys()) {
          offerRandom(driver, index, random)
          for (let storm = 0; storm < 20; storm++) driver.kick(index)
        }
      }
      await driver.start()
      expect(driver.status).toBe(STARTED)
    })
  })

  for (const refused of ["every", "every second"] as const) {
    it(`bad-input #16 (2.7.13, 2.8.21): a driver that refills without end leaves the event loop its turn, ${refused} chain refused`, () => {
      return withDevice(async ({ device, driver, memory, interrupt }) => {
        const middle = memory.regions[0]!.size / 2
        for (const index of device.queueMaxSizes.keys()) {
          // So that every batch interrupts.
          await driver.start({ queueSize: 4, features: driver.wantedFeatures & ~FEATURE.RING_EVENT_IDX })
          let offered = 0
          let back = 0
          const ring = rawRing(driver.packedRings[index] ?? driver.rings[index]!)
          const refill = (): void => {
            back += ring.takeUsed().length
            for (; offered - back < 4; offered++) {
              const bad = refused === "every" || offered % 2 === 1
              ring.offer([{ address: bad ? 2n ** 60n : middle, length: 4, flags: 2 }])
            }
            ring.publish()
          }
          const signal = interrupt.signal
          let limit = 1000
          interrupt.signal = () => {
            // Thrown within the device, so it ends the loop, and the test sees it.
            if (limit-- === 0) throw new Error("the device works on without end")
            refill()
          }
          try {
            refill()
            driver.notify(index)
          } finally {
            interrupt.signal = signal
          }
          await turn()
          expect(driver.status & ~STATUS.DEVICE_NEEDS_RESET).toBe(STARTED)
        }
      })
    })
  }

  it("bad-input #16 (2.7.13, 2.8.21): so does one that refills while a request is being worked on", () => {
    return withDevice(async ({ device, driver, memory }) => {
      for (const index of device.queueMaxSizes.keys()) {
        await driver.start({ queueSize: 4 })
        const ring = driver.ring(index)
        let touched = 0
        const refill = (): void => {
          if (++touched > 100_000) throw new Error("the device works on without end")
          ring.reap()
          if (ring.freeDescriptors > 0) ring.add({ writable: [1] })
          ring.publish()
        }
        const write = memory.write
        let inside = false
        memory.write = (address, source) => {
          write.call(memory, address, source)
          if (inside) return
          inside = true
          refill()
          inside = false
        }
        try {
          for (let chains = 0; chains < 4; chains++) ring.add({ writable: [1] })
          driver.kick(index)
        } finally {
          memory.write = write
        }
        await turn()
        expect(driver.status & ~STATUS.DEVICE_NEEDS_RESET).toBe(STARTED)
      }
    })
  })

  if (options.saves === false) return
  it("2.4: a device that takes over in the middle of requests gives each chain back once", () => {
    return withDevice(async ({ device, driver, transport, memory, errors }) => {
      const random = new Seeded(8)
      await driver.start()
      for (const index of device.queueMaxSizes.keys()) {
        for (let chains = 0; chains < 3; chains++) offerRandom(driver, index, random)
        driver.ring(index).publish()
      }
      const state = structuredClone(transport.state())
      if ((driver.status & STATUS.DEVICE_NEEDS_RESET) !== 0) return
      const second: DeviceBench = deviceBench(options, await options.setup(), kind, memory)
      try {
        second.transport.restore(state)
        for (const index of device.queueMaxSizes.keys()) second.driver.notify(index)
        for (let turns = 0; turns < 5; turns++) await turn()
        for (const index of device.queueMaxSizes.keys()) checkWritten(driver.ring(index).reap())
        expect([second.driver.status & ~STATUS.DEVICE_NEEDS_RESET, second.errors]).toEqual([STARTED, []])
        await second.driver.start()
        expect(second.driver.status).toBe(STARTED)
      } finally {
        await second.transport.close()
      }
      expect(errors).toEqual([])
    })
  })

  function checkWritten(chains: readonly DriverChain[]): void {
    for (const { written = 0, buffers } of chains) {
      const room = buffers.reduce((sum, { writable, length }) => sum + (writable ? length : 0), 0)
      expect(written <= room).toBe(true)
    }
  }
}

const LENGTHS = [0, 1, 2, 8, 12, 15, 16, 17, 24, 60, 64, 512, 513, 1514]

/** Adds a chain of anything; undefined when the ring is full. */
function offerRandom(driver: DeviceBench["driver"], index: number, random: Seeded): DriverChain | undefined {
  const ring = driver.ring(index)
  const readable = Array.from({ length: random.below(4) }, () => random.bytes(random.one(LENGTHS)))
  const writable = Array.from({ length: random.below(4) }, () => random.one(LENGTHS))
  if (readable.length + writable.length === 0) writable.push(1)
  const layout = random.one(["direct", "indirect", "mixed"] as const)
  if (readable.length + writable.length > ring.size) return undefined
  if (readable.length + writable.length > ring.freeDescriptors) return undefined
  return ring.add({ readable, writable, layout })
}

/** Writes over all of memory; the result tells whether it is as it was then. */
function fillAll(memory: DeviceBench["memory"]): () => boolean {
  const { size } = memory.regions[0]!
  memory.fill(0, size, 0x55)
  return () => {
    const now = new Uint8Array(size)
    memory.read(0, now)
    return now.every((byte) => byte === 0x55)
  }
}
