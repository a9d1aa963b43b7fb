import { FEATURE, STATUS } from "../spec.js"
import { type MakeFixture, STARTED, type TestRunner } from "./fixture.js"

const { ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK, DEVICE_NEEDS_RESET, FAILED } = STATUS

/** 2.1 and 3.1.1: the device status. */
export function statusTests({ it, expect }: TestRunner, make: MakeFixture): void {
  it("goes through the steps in order and activates the device at the last", async () => {
    const { device, driver } = make()
    expect(driver.status).toBe(0)
    await driver.begin()
    expect(driver.status).toBe(ACKNOWLEDGE | DRIVER)
    expect(driver.negotiate()).toBe(true)
    expect(device.calls).toEqual([])
    driver.addStatus(DRIVER_OK)
    expect(driver.status).toBe(STARTED)
    expect(device.calls).toEqual(["activate"])
  })

  it("bad-input #2: a skipped step is refused", async () => {
    for (const skip of [FEATURES_OK, DRIVER_OK, ACKNOWLEDGE | FEATURES_OK, FEATURES_OK | DRIVER_OK]) {
      const { device, driver } = make()
      await driver.writeStatus(skip)
      expect(driver.status).toBe(0)
      await driver.begin()
      driver.addStatus(DRIVER_OK)
      expect(driver.status).toBe(ACKNOWLEDGE | DRIVER)
      expect(device.calls).toEqual([])
    }
  })

  it("goes without ACKNOWLEDGE, which some firmware loses in a reset", async () => {
    const { device, driver } = make()
    await driver.writeStatus(DRIVER)
    expect(driver.status).toBe(DRIVER)
    expect(driver.negotiate()).toBe(true)
    driver.addStatus(DRIVER_OK)
    expect(driver.status).toBe(STARTED & ~ACKNOWLEDGE)
    expect(device.calls).toEqual(["activate"])
  })

  it("bad-input #2: FEATURES_OK and DRIVER_OK at once is refused", async () => {
    const { device, driver } = make()
    await driver.begin()
    driver.writeFeatures(FEATURE.VERSION_1)
    driver.addStatus(FEATURES_OK | DRIVER_OK)
    expect(driver.status).toBe(ACKNOWLEDGE | DRIVER)
    expect(device.calls).toEqual([])
  })

  it("bad-input #2: a cleared bit stays set", async () => {
    const { driver } = make()
    await driver.start()
    for (const value of [ACKNOWLEDGE, STARTED & ~DRIVER_OK, STARTED & ~ACKNOWLEDGE, FAILED]) {
      await driver.writeStatus(value)
      expect(driver.status).toBe(STARTED)
    }
  })

  it("FAILED ends it until a reset", async () => {
    const { device, driver } = make()
    await driver.start()
    driver.addStatus(FAILED)
    expect(driver.status).toBe(STARTED | FAILED)
    driver.notify(0)
    expect(device.calls).toEqual(["activate"])
    await driver.start()
    expect(driver.status).toBe(STARTED)
  })

  it("after FAILED no further step is taken", async () => {
    const { device, driver } = make()
    await driver.begin()
    driver.negotiate()
    driver.addStatus(FAILED)
    driver.addStatus(DRIVER_OK)
    expect(driver.status).toBe(ACKNOWLEDGE | DRIVER | FEATURES_OK | FAILED)
    expect(device.calls).toEqual([])
  })

  it("DRIVER_OK written twice activates once", async () => {
    const { device, driver } = make()
    await driver.start()
    await driver.writeStatus(STARTED)
    expect(device.calls).toEqual(["activate"])
  })

  it("a device that needs a reset says so in the status and by an interrupt, once", async () => {
    const { device, driver, interrupt } = make()
    await driver.start()
    device.context?.needsReset("a test")
    device.context?.needsReset("a test")
    expect(driver.status).toBe(STARTED | DEVICE_NEEDS_RESET)
    expect(interrupt.count).toBe(1)
    expect(driver.handleInterrupt().configChange).toBe(true)
    await driver.start()
    expect(driver.status).toBe(STARTED)
  })
}
