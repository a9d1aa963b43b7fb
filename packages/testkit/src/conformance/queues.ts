import { DESCRIPTOR, STATUS } from "../spec.js"
import { type MakeFixture, STARTED, type TestRunner } from "./fixture.js"

const { ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK, DEVICE_NEEDS_RESET } = STATUS

/** 2.6 and 2.7: queues and notifications. */
export function queueTests({ it, expect }: TestRunner, make: MakeFixture): void {
  const hello = Uint8Array.of(1, 2, 3)

  it("carries chains of any layout, and interrupts", async () => {
    const { driver, interrupt } = make()
    await driver.start()
    for (const layout of ["direct", "indirect", "mixed"] as const) {
      const before = interrupt.count
      const chain = await driver.request(1, { readable: [hello, hello], writable: [5, 3], layout })
      expect(chain.written).toBe(6)
      expect([...(chain.data ?? [])].slice(0, 6)).toEqual([1, 2, 3, 1, 2, 3])
      expect(interrupt.count).toBe(before + 1)
      expect(driver.handleInterrupt()).toEqual({ usedBuffer: true, configChange: false })
      expect(driver.handleInterrupt()).toEqual({ usedBuffer: false, configChange: false })
    }
  })

  it("finds chains that were there before DRIVER_OK", async () => {
    const { driver } = make()
    await driver.begin()
    driver.negotiate()
    const ring = driver.setupQueue(0, 8)
    ring.add({ readable: [hello], writable: [3] })
    ring.publish()
    driver.addStatus(DRIVER_OK)
    expect(ring.reap().length).toBe(1)
  })

  it("gives the device only the queues that were enabled", async () => {
    const { device, driver } = make()
    await driver.start({ queues: 1, queueSize: 4 })
    expect(device.context?.queues.map((queue) => queue?.size)).toEqual([4, undefined])
    expect([driver.queueReady(0), driver.queueReady(1)]).toEqual([true, false])
  })

  it("bad-input #3: a queue out of range has size 0 and cannot be enabled", async () => {
    const { driver } = make()
    await driver.begin()
    driver.negotiate()
    expect([driver.queueSizeMax(0), driver.queueSizeMax(1)]).toEqual([16, 8])
    for (const index of [2, 0xffff, 0xffff_ffff]) {
      driver.writeQueue(index, 4, { desc: 0x1000, avail: 0x2000, used: 0x3000 })
      expect([driver.queueSizeMax(index), driver.queueReady(index)]).toEqual([0, false])
    }
    expect(driver.status & DEVICE_NEEDS_RESET).toBe(0)
  })

  it("bad-input #1: size and addresses written after a queue was enabled are ignored", async () => {
    const { driver } = make()
    await driver.start()
    driver.writeQueue(0, 2, { desc: 0, avail: 0, used: 0 })
    driver.writeQueue(0, 32768, { desc: 2 ** 40, avail: 2 ** 40, used: 2 ** 40 })
    for (let i = 0; i < 20; i++) {
      expect((await driver.request(0, { readable: [hello], writable: [3] })).written).toBe(3)
    }
    expect(driver.status).toBe(STARTED)
  })

  it("bad-input #1: an enabled queue stays as it is before DRIVER_OK too", async () => {
    const { device, driver } = make()
    await driver.begin()
    driver.negotiate()
    driver.setupQueue(0, 8)
    driver.writeQueue(0, 4, { desc: 0x1000, avail: 0x2000, used: 0x3000 })
    driver.addStatus(DRIVER_OK)
    expect(device.context?.queues[0]?.size).toBe(8)
    expect((await driver.request(0, { readable: [hello], writable: [3] })).written).toBe(3)
  })

  it("bad-input #1: queues cannot be set up before FEATURES_OK or after DRIVER_OK", async () => {
    const { device, driver } = make()
    await driver.begin()
    driver.setupQueue(0, 4)
    expect(driver.queueReady(0)).toBe(false)
    driver.negotiate()
    driver.addStatus(DRIVER_OK)
    driver.setupQueue(0, 4)
    expect(driver.queueReady(0)).toBe(false)
    expect(device.context?.queues).toEqual([undefined, undefined])
  })

  it("2.4: size and addresses are those of the start again after a reset", async () => {
    const { device, driver } = make()
    await driver.start({ queueSize: 4 })
    await driver.begin()
    driver.negotiate()
    expect([driver.queueSizeMax(0), driver.queueSizeMax(1)]).toEqual([16, 8])
    driver.setupQueue(0, 16)
    driver.addStatus(DRIVER_OK)
    expect(device.context?.queues[0]?.size).toBe(16)
  })

  it("bad-input #11: rings that cannot be need a reset, and the device never sees them", async () => {
    const at = { desc: 0x1000, avail: 0x2000, used: 0x3000 }
    for (const [size, place] of [
      [0, at],
      [17, at],
      [32, at],
      [0xffff_ffff, at],
      [4, { ...at, desc: 0x1001 }],
      [4, { ...at, avail: 2 ** 52 }],
      [4, { ...at, used: 2 ** 63 }],
    ] as const) {
      const { device, driver, interrupt } = make()
      await driver.begin()
      driver.negotiate()
      driver.writeQueue(0, size, place)
      expect(driver.queueReady(0)).toBe(false)
      expect(driver.status).toBe(ACKNOWLEDGE | DRIVER | FEATURES_OK | DEVICE_NEEDS_RESET)
      driver.addStatus(DRIVER_OK)
      expect(device.calls).toEqual([])
      expect(interrupt.count).toBe(0)
      await driver.start()
      expect(driver.status).toBe(STARTED)
    }
  })

  it("bad-input #4: notifications of queues that are not there, not enabled or not yet in use are ignored", async () => {
    const { device, driver } = make()
    driver.notify(0)
    await driver.begin()
    driver.negotiate()
    driver.setupQueue(0, 4)
    driver.notify(0)
    driver.addStatus(DRIVER_OK)
    for (const index of [1, 2, 0xffff, 0xffff_ffff]) driver.notify(index)
    expect(device.calls).toEqual(["activate"])
    driver.notify(0)
    expect(device.calls).toEqual(["activate", "notify 0"])
  })

  it("bad-input #34: a storm of notifications costs no more than looking", async () => {
    const { device, driver, interrupt } = make()
    await driver.start()
    for (let i = 0; i < 1000; i++) driver.notify(i % 4)
    expect(device.calls.length).toBe(1 + 500)
    expect([interrupt.count, driver.status]).toEqual([0, STARTED])
  })

  it("bad-input #15: a broken ring needs a reset, after which all is well", async () => {
    const { device, driver, interrupt } = make()
    await driver.start()
    driver.rings[0]?.setAvailIndex(100)
    driver.packedRings[0]?.offer(new Array(16).fill({ address: 0x1000, length: 1, flags: DESCRIPTOR.NEXT }))
    driver.packedRings[0]?.publish()
    driver.notify(0)
    expect(driver.status).toBe(STARTED | DEVICE_NEEDS_RESET)
    expect(interrupt.count).toBe(1)
    const calls = device.calls.length
    driver.notify(0)
    driver.notify(1)
    expect(device.calls.length).toBe(calls)
    await driver.start()
    expect((await driver.request(0, { readable: [hello], writable: [3] })).written).toBe(3)
  })
}
