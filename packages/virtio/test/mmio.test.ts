import { FEATURE, MMIO, STATUS } from "@virtkit/testkit"
import { describe, expect, it } from "vitest"
import { setup } from "./setup.js"

describe("a driver and a device", () => {
  it("exchange chains", async () => {
    const { device, driver, interrupt } = setup()
    await driver.start()
    expect(driver.features & FEATURE.VERSION_1).not.toBe(0n)
    expect(driver.rings.map((ring) => ring.size)).toEqual([16, 8])
    for (const layout of ["direct", "indirect", "mixed"] as const) {
      const chain = await driver.request(1, {
        readable: [Uint8Array.of(1, 2), Uint8Array.of(3)],
        writable: [2, 2],
        layout,
      })
      expect(chain.written).toBe(3)
      expect([...chain.data!.subarray(0, 3)]).toEqual([1, 2, 3])
    }
    expect(device.calls).toEqual(["activate", "notify 1", "notify 1", "notify 1"])
    expect(interrupt.count).toBe(3)
    expect(driver.handleInterrupt()).toEqual({ usedBuffer: true, configChange: false })
    expect(driver.handleInterrupt()).toEqual({ usedBuffer: false, configChange: false })
    expect(driver.status).toBe(STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.FEATURES_OK | STATUS.DRIVER_OK)
    expect(driver.read32(MMIO.DEVICE_ID)).toBe(42)
  })
})
