import { FEATURE, STATUS } from "../spec.js"
import type { MakeFixture, TestRunner } from "./fixture.js"

const { ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK } = STATUS

/** 2.2: feature negotiation. */
export function featureTests({ it, expect }: TestRunner, make: MakeFixture): void {
  const common = FEATURE.VERSION_1 | FEATURE.RING_INDIRECT_DESC | FEATURE.RING_EVENT_IDX

  it("offers the device's, VERSION_1, indirect descriptors and EVENT_IDX", async () => {
    const { driver, transportFeatures } = make({ features: 0x8000_0001n | (1n << 33n) })
    await driver.begin()
    expect(driver.offeredFeatures()).toBe(0x8000_0001n | (1n << 33n) | common | transportFeatures)
  })

  it("tells the device what was accepted", async () => {
    const { device, driver } = make({ features: 3n })
    await driver.start({ features: FEATURE.VERSION_1 | 2n })
    expect(device.context?.features).toBe(FEATURE.VERSION_1 | 2n)
  })

  it("bad-input #2: refuses features that were not offered, and doing without VERSION_1", async () => {
    for (const features of [FEATURE.VERSION_1 | 2n, FEATURE.VERSION_1 | (1n << 127n), 1n, 0n]) {
      const { driver } = make({ features: 1n })
      await driver.begin()
      driver.writeFeatures(features)
      driver.addStatus(FEATURES_OK)
      expect(driver.status).toBe(ACKNOWLEDGE | DRIVER)
      // It may try again.
      expect(driver.negotiate()).toBe(true)
    }
  })

  it("are forgotten by a reset", async () => {
    const { driver } = make()
    await driver.start()
    await driver.begin()
    driver.addStatus(FEATURES_OK)
    expect(driver.status).toBe(ACKNOWLEDGE | DRIVER)
  })

  it("bad-input #2: features written before DRIVER or after FEATURES_OK are ignored", async () => {
    const { device, driver } = make({ features: 3n })
    driver.writeFeatures(FEATURE.VERSION_1 | 1n)
    await driver.writeStatus(ACKNOWLEDGE)
    driver.writeFeatures(FEATURE.VERSION_1 | 1n)
    driver.addStatus(DRIVER)
    driver.addStatus(FEATURES_OK)
    expect(driver.status).toBe(ACKNOWLEDGE | DRIVER)
    driver.writeFeatures(FEATURE.VERSION_1 | 2n)
    driver.addStatus(FEATURES_OK)
    driver.writeFeatures(0n)
    driver.addStatus(DRIVER_OK)
    driver.writeFeatures(0n)
    expect(device.context?.features).toBe(FEATURE.VERSION_1 | 2n)
  })
}
