import { FEATURE, STATUS } from "../spec.js"
import { until } from "../wait.js"
import { fillRing, type MakeFixture, STARTED, type TestRunner, turn } from "./fixture.js"

const { ACKNOWLEDGE, DEVICE_NEEDS_RESET } = STATUS

/** 2.4: reset, and what a device does that breaks its contract. */
export function resetTests({ it, expect }: TestRunner, make: MakeFixture): void {
  it("puts everything back, and the driver can start again", async () => {
    const { device, driver } = make()
    for (let round = 0; round < 3; round++) {
      await driver.start()
      expect((await driver.request(0, { readable: [Uint8Array.of(7)], writable: [1] })).written).toBe(1)
      await driver.reset()
      expect([driver.status, driver.queueReady(0)]).toEqual([0, false])
      expect(driver.handleInterrupt()).toEqual({ usedBuffer: false, configChange: false })
    }
    expect(device.calls.filter((call) => call === "reset").length).toBe(3)
  })

  it("is complete only when the device is quiet", async () => {
    const { device, driver } = make()
    await driver.start()
    let quiet = (): void => {}
    device.resetGate = new Promise((resolve) => {
      quiet = resolve
    })
    let complete = false
    const reset = Promise.resolve(driver.writeStatus(0)).then(() => {
      complete = true
    })
    await turn()
    expect(complete).toBe(false)
    expect(driver.status === 0).toBe(false)
    quiet()
    await reset
    expect(driver.status).toBe(0)
  })

  it("bad-input #34: a driver that goes on during a reset, or resets again, is not heard", async () => {
    const { device, driver } = make()
    await driver.start()
    let quiet = (): void => {}
    device.resetGate = new Promise((resolve) => {
      quiet = resolve
    })
    const resets = [driver.writeStatus(0), driver.writeStatus(0), driver.writeStatus(0)]
    await driver.writeStatus(ACKNOWLEDGE)
    driver.writeFeatures(FEATURE.VERSION_1)
    driver.writeQueue(0, 4, { desc: 0x1000, avail: 0x2000, used: 0x3000 })
    driver.notify(0)
    driver.writeConfig(0, 1, 1)
    quiet()
    await Promise.all(resets)
    expect(driver.status).toBe(0)
    expect(device.calls).toEqual(["activate", "reset"])
    await driver.start()
    expect(device.calls).toEqual(["activate", "reset", "activate"])
  })

  it("bad-input #34: a storm of resets with nothing to reset does not reach the device", async () => {
    const { device, driver } = make()
    for (let i = 0; i < 1000; i++) await driver.reset()
    expect(device.calls).toEqual([])
  })

  it("bad-input #27: what completes after a reset reaches neither memory nor driver", async () => {
    const { device, driver, interrupt } = make()
    await driver.start()
    device.holds = true
    const ring = driver.ring(0)
    const chain = ring.add({ readable: [Uint8Array.of(1)], writable: [1] })
    driver.kick(0)
    expect(device.held.length).toBe(1)
    const context = device.context
    let deferred = false
    context?.defer(() => {
      deferred = true
    })
    const before = interrupt.count
    await driver.reset()
    const untouched = fillRing(driver, ring)
    device.release()
    context?.needsReset("too late")
    context?.updateConfig(() => {})
    await turn()
    expect([interrupt.count, driver.status, deferred]).toEqual([before, 0, false])
    expect(untouched()).toBe(true)
    expect(chain.written).toBe(undefined)
  })

  it("a deferred task runs in a later turn", async () => {
    const { device, driver } = make()
    await driver.start()
    let ran = false
    device.context?.defer(() => {
      ran = true
    })
    expect(ran).toBe(false)
    await until(() => ran, "the deferred task")
  })

  it("the device's own bugs end the device, not the machine", async () => {
    for (const failAt of ["activate", "notify 0", "writeConfig"]) {
      const { device, driver } = make()
      device.failAt = failAt
      await driver.start().catch(() => {})
      driver.notify(0)
      driver.writeConfig(0, 1, 1)
      expect(driver.status).toBe(STARTED | DEVICE_NEEDS_RESET)
      device.failAt = undefined
      await driver.start()
      expect(driver.status).toBe(STARTED)
    }
  })

  it("a device that cannot be reset stays in need of one", async () => {
    const { device, driver } = make()
    await driver.start()
    device.failAt = "reset"
    await driver.writeStatus(0)
    expect(driver.status).toBe(DEVICE_NEEDS_RESET)
    device.failAt = undefined
    await driver.start()
    expect(driver.status).toBe(STARTED)
  })
}
