import type { EchoDevice } from "../echo-device.js"
import { FEATURE, STATUS } from "../spec.js"
import type { TransportDriver } from "../transport-driver.js"
import { fillRing, type MakeFixture, STARTED, type TestRunner, turn } from "./fixture.js"

/** 2.6.1: queues that are reset one by one, with VIRTIO_F_RING_RESET. */
export function queueResetTests({ it, expect }: TestRunner, make: MakeFixture): void {
  const echo = { readable: [Uint8Array.of(7)], writable: [1] }
  const start = (driver: TransportDriver): Promise<void> => {
    return driver.start({ features: driver.wantedFeatures | FEATURE.RING_RESET })
  }
  const gate = (): { promise: Promise<void>; open: () => void } => {
    let open = (): void => {}
    const promise = new Promise<void>((resolve) => {
      open = resolve
    })
    return { promise, open }
  }

  it("is offered for devices that can, and only for them", async () => {
    for (const queueReset of [true, false]) {
      const { driver } = make({ queueReset })
      await driver.begin()
      expect((driver.offeredFeatures() & FEATURE.RING_RESET) !== 0n).toBe(queueReset)
    }
  })

  it("a queue can be reset and enabled again with another ring, while others go on", async () => {
    const { device, driver } = make({ queueReset: true })
    await start(driver)
    await driver.request(0, echo)
    const old = driver.ring(0)
    await driver.resetQueue(0)
    expect(device.context?.queues[0]).toBe(undefined)
    expect([driver.queueSizeMax(0), driver.queueReady(0), driver.queueReady(1)]).toEqual([16, false, true])
    expect((await driver.request(1, echo)).written).toBe(1)
    driver.notify(0)
    const ring = driver.setupQueue(0, 4)
    expect(ring.desc === old.desc).toBe(false)
    expect([driver.queueReady(0), device.context?.queues[0]?.size]).toEqual([true, 4])
    for (let i = 0; i < 10; i++) expect((await driver.request(0, echo)).written).toBe(1)
    expect(driver.status).toBe(STARTED)
    expect(device.calls.filter((call) => !call.startsWith("notify"))).toEqual(["activate", "resetQueue 0"])
  })

  it("chains that wait in the ring when it is enabled again are found", async () => {
    const { driver } = make({ queueReset: true })
    await start(driver)
    await driver.resetQueue(0)
    const ring = driver.setupQueue(0, 4)
    ring.add(echo)
    ring.publish()
    await driver.resetQueue(0)
    driver.writeQueue(0, 4, ring)
    expect(ring.reap().length).toBe(1)
  })

  it("is complete only when the device is done with the queue", async () => {
    const { device, driver } = make({ queueReset: true })
    await start(driver)
    const { promise, open } = gate()
    device.resetGate = promise
    let complete = false
    const reset = Promise.resolve(driver.writeQueueReset(0)).then(() => {
      complete = true
    })
    await turn()
    expect([complete, driver.queueResetting(0), driver.queueResetting(1)]).toEqual([false, true, false])
    driver.setupQueue(0, 4)
    expect(driver.queueReady(0)).toBe(false)
    const again = Promise.resolve(driver.writeQueueReset(0)).then(() => {
      complete = true
    })
    await turn()
    expect(complete).toBe(false)
    open()
    await Promise.all([reset, again])
    expect([driver.queueResetting(0), driver.queueReady(0)]).toEqual([false, false])
    expect(device.calls).toEqual(["activate", "resetQueue 0"])
  })

  it("bad-input #27: what completes after the reset of its queue reaches neither memory nor driver", async () => {
    const { device, driver, interrupt } = make({ queueReset: true })
    await start(driver)
    device.holds = true
    const ring = driver.ring(0)
    ring.add(echo)
    driver.kick(0)
    await driver.resetQueue(0)
    const untouched = fillRing(driver, ring)
    device.release()
    expect([interrupt.count, untouched()]).toEqual([0, true])
  })

  it("ignored when it was not negotiated, and for queues that are not there or not enabled", async () => {
    const { device, driver } = make({ queueReset: true })
    await driver.writeQueueReset(0)
    await driver.start()
    await driver.writeQueueReset(0)
    expect([driver.queueReady(0), driver.queueResetting(0)]).toEqual([true, false])
    await driver.start({ features: driver.wantedFeatures | FEATURE.RING_RESET, queues: 1 })
    await driver.writeQueueReset(1)
    await driver.writeQueueReset(2)
    await driver.writeQueueReset(0xffff)
    expect(device.calls.filter((call) => call.startsWith("resetQueue"))).toEqual([])
  })

  it("before DRIVER_OK it takes the queue back without the device", async () => {
    const { device, driver } = make({ queueReset: true })
    await driver.begin()
    driver.negotiate(driver.wantedFeatures | FEATURE.RING_RESET)
    driver.setupQueue(0, 4)
    await driver.resetQueue(0)
    driver.setupQueue(0, 8)
    driver.addStatus(STATUS.DRIVER_OK)
    expect(device.calls).toEqual(["activate"])
    expect((await driver.request(0, echo)).written).toBe(1)
  })

  it("a reset of the device during one is complete after it, and heals", async () => {
    const { device, driver } = make({ queueReset: true })
    await start(driver)
    const { promise, open } = gate()
    device.resetGate = promise
    const resets = [driver.writeQueueReset(0), driver.writeQueueReset(1), driver.writeStatus(0)]
    await turn()
    expect(device.calls).toEqual(["activate", "resetQueue 0", "resetQueue 1"])
    open()
    await Promise.all(resets)
    expect([driver.status, device.calls.at(-1)]).toEqual([0, "reset"])
    await driver.start()
    expect((await driver.request(0, echo)).written).toBe(1)
  })

  it("bad-input #34: a storm of them leaves the queue working", async () => {
    const { device, driver } = make({ queueReset: true })
    await start(driver)
    for (let i = 0; i < 200; i++) {
      await driver.writeQueueReset(0)
      await driver.writeQueueReset(0)
      if (i % 2 === 0) driver.setupQueue(0, 2)
    }
    expect(device.calls.filter((call) => call.startsWith("resetQueue")).length).toBe(101)
    driver.setupQueue(0, 16)
    expect((await driver.request(0, echo)).written).toBe(1)
  })

  it("a device that cannot needs a reset of all", async () => {
    for (const fail of [
      (device: EchoDevice) => {
        device.failAt = "resetQueue 0"
      },
      (device: EchoDevice) => {
        device.resetGate = Promise.reject(new Error("a bug"))
      },
    ]) {
      const { device, driver, interrupt } = make({ queueReset: true })
      await start(driver)
      fail(device)
      await driver.writeQueueReset(0)
      expect([driver.status, interrupt.count]).toEqual([STARTED | STATUS.DEVICE_NEEDS_RESET, 1])
      expect([driver.queueReady(0), driver.queueResetting(0)]).toEqual([false, false])
      // 2.1.2: nothing but a reset heals it.
      driver.setupQueue(0, 4)
      expect(driver.queueReady(0)).toBe(false)
      device.failAt = undefined
      device.resetGate = undefined
      await driver.start()
      expect(driver.status).toBe(STARTED)
    }
  })

  it("one that fails during a reset of the device is not heard of any more", async () => {
    const { device, driver, interrupt } = make({ queueReset: true })
    await start(driver)
    let fail = (): void => {}
    device.resetGate = new Promise((_, reject) => {
      fail = () => reject(new Error("a bug"))
    })
    const queueReset = driver.writeQueueReset(0)
    device.resetGate = undefined
    const reset = driver.writeStatus(0)
    fail()
    await Promise.all([queueReset, reset])
    expect([driver.status, interrupt.count]).toEqual([0, 0])
  })
}
