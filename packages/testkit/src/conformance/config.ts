import type { MakeFixture, TestRunner } from "./fixture.js"

/** 2.5: the device configuration space. */
export function configTests({ it, expect }: TestRunner, make: MakeFixture): void {
  it("is read in any width", async () => {
    const { driver } = make({ config: Uint8Array.of(1, 2, 3, 4, 0xff, 0xff, 0xff, 0xff) })
    await driver.begin()
    expect([driver.readConfigAt(0, 1), driver.readConfigAt(1, 1)]).toEqual([1, 2])
    expect([driver.readConfigAt(2, 2), driver.readConfigAt(0, 4)]).toEqual([0x0403, 0x0403_0201])
    expect(driver.readConfigAt(4, 4)).toBe(0xffff_ffff)
  })

  it("bad-input #5: reads past the end, straddling and unaligned, are filled with zeroes", async () => {
    const { driver } = make()
    await driver.begin()
    expect(driver.readConfigAt(4, 4)).toBe(0x0007_0605)
    expect([driver.readConfigAt(7, 1), driver.readConfigAt(8, 4), driver.readConfigAt(0x200, 4)]).toEqual([
      0, 0, 0,
    ])
    expect([driver.readConfigAt(1, 2), driver.readConfigAt(5, 4)]).toEqual([0x0302, 0x0706])
  })

  it("bad-input #5: writes past the end and straddling it are dropped", async () => {
    const { device, driver } = make()
    await driver.start()
    driver.writeConfig(7, 1, 1)
    driver.writeConfig(4, 1, 4)
    driver.writeConfig(6, 1, 2)
    driver.writeConfig(0x200, 1, 4)
    expect(device.calls).toEqual(["activate"])
    driver.writeConfig(3, 0x0908, 2)
    expect(device.calls).toEqual(["activate", "writeConfig"])
    expect([...device.config]).toEqual([1, 2, 3, 8, 9, 6, 7])
    expect(driver.readConfigAt(3, 2)).toBe(0x0908)
  })

  it("a change by the device shows, moves the generation and interrupts", async () => {
    const { device, driver, interrupt } = make()
    await driver.start()
    const generation = driver.configGeneration
    device.context?.updateConfig(() => {
      device.config[0] = 0x77
    })
    expect(driver.readConfigAt(0, 1)).toBe(0x77)
    expect(driver.configGeneration === generation).toBe(false)
    expect(interrupt.count).toBe(1)
    expect(driver.handleInterrupt()).toEqual({ usedBuffer: false, configChange: true })
  })

  it("a device without writable fields ignores writes", async () => {
    const { device, driver } = make()
    Object.defineProperty(device, "writeConfig", { value: undefined })
    await driver.start()
    driver.writeConfig(0, 9, 1)
    expect(device.config[0]).toBe(1)
  })
}
