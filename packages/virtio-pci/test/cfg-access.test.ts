import { VIRTIO_PCI_CAP as CAP, VIRTIO_PCI_COMMON as COMMON, STATUS } from "@virtkit/testkit"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { setup } from "./setup.js"

const BAR = 4

describe("configuration access capability (4.1.4.9)", () => {
  it("reads and writes registers of any width", async () => {
    const { device, driver } = setup()
    expect(driver.readWindow(BAR, COMMON.NUM_QUEUES, 2)).toBe(2)
    void driver.writeWindow(BAR, COMMON.QUEUE_SELECT, 2, 1)
    expect(driver.readWindow(BAR, COMMON.QUEUE_SIZE, 2)).toBe(8)
    void driver.writeWindow(BAR, COMMON.DRIVER_FEATURE_SELECT, 4, 0xffff_ffff)
    expect(driver.readWindow(BAR, COMMON.DRIVER_FEATURE_SELECT, 4)).toBe(0xffff_ffff)
    void driver.writeWindow(BAR, COMMON.DEVICE_STATUS, 1, STATUS.ACKNOWLEDGE)
    expect([driver.readWindow(BAR, COMMON.DEVICE_STATUS, 1), driver.status]).toEqual([1, 1])
    await driver.start()
    const config = driver.structures.get(CAP.DEVICE_CFG)!
    void driver.writeWindow(config.bar, config.offset, 1, 0x77)
    expect([device.config[0], driver.readWindow(BAR, config.offset, 4)]).toEqual([0x77, 0x0403_0277])
    const notify = driver.structures.get(CAP.NOTIFY_CFG)!
    void driver.writeWindow(notify.bar, notify.offset + 4, 2, 1)
    expect(device.calls.at(-1)).toBe("notify 1")
  })

  it("a reset through it ends when the device is quiet", async () => {
    const { device, driver } = setup()
    await driver.start()
    await driver.writeWindow(BAR, COMMON.DEVICE_STATUS, 1, 0)
    expect([driver.status, device.calls]).toEqual([0, ["activate", "reset"]])
  })

  it("reads are live, side effects included, while its length is not 0 and no longer", async () => {
    const { driver, slot } = setup({ msix: false })
    const { capability } = driver.structures.get(CAP.PCI_CFG)!
    const isr = driver.structures.get(CAP.ISR_CFG)!
    await driver.start()
    await driver.request(0, { readable: [Uint8Array.of(1)], writable: [1] })
    expect(slot.liveReads).toBe(false)
    // What is not the data does not touch the registers.
    driver.readWindow(isr.bar, isr.offset, 1)
    expect([slot.liveReads, slot.liveReadsChanges, slot.intx]).toEqual([true, 1, false])
    await driver.request(0, { readable: [Uint8Array.of(1)], writable: [1] })
    expect(slot.readConfig(capability + CAP.OFFSET, 4)).toBe(isr.offset)
    expect(slot.intx).toBe(true)
    expect(slot.readConfig(capability + CAP.PCI_CFG_DATA, 1)).toBe(1)
    void slot.writeConfig(capability + CAP.LENGTH, 4, 0)
    expect([slot.liveReads, slot.liveReadsChanges]).toEqual([false, 2])
  })

  it("is as at the start after a reset of the function", async () => {
    const { driver, slot } = setup()
    driver.readWindow(BAR, COMMON.NUM_QUEUES, 2)
    await slot.reset()
    const { capability } = driver.structures.get(CAP.PCI_CFG)!
    for (const offset of [CAP.OFFSET, CAP.LENGTH, CAP.PCI_CFG_DATA]) {
      expect(slot.readConfig(capability + offset, 4)).toBe(0)
    }
    void slot.writeConfig(capability + CAP.LENGTH, 4, 2)
    expect(slot.liveReads).toBe(true)
  })

  it("bad-input #7: a window with a wrong length, offset or BAR reaches nothing", async () => {
    const { device, driver, slot, transport } = setup()
    await driver.start()
    const before = JSON.stringify(transport.state(), (_, v) => (typeof v === "bigint" ? `${v}` : v))
    const { size } = transport.bars[1]!
    for (const [bar, offset, length] of [
      [BAR, COMMON.DEVICE_STATUS, 0],
      [BAR, COMMON.DEVICE_STATUS, 3],
      [BAR, COMMON.QUEUE_SIZE, 3],
      [BAR, COMMON.QUEUE_SIZE, 8],
      [BAR, COMMON.DEVICE_STATUS, 0xffff_ffff],
      [BAR, COMMON.DRIVER_FEATURE_SELECT + 1, 4],
      [BAR, COMMON.QUEUE_SELECT + 1, 2],
      [BAR, 0x1004, 4],
      [BAR, 0x2000 + 8, 4],
      [BAR, size, 4],
      [BAR, size - 1, 4],
      [BAR, 0xffff_fffc, 4],
      [BAR, 0xffff_ffff, 1],
      [0, 0, 4],
      [1, 0, 4],
      [5, 0, 4],
      [6, 0, 4],
      [255, 0, 4],
    ] as const) {
      const { capability } = driver.structures.get(CAP.PCI_CFG)!
      void slot.writeConfig(capability + CAP.BAR, 1, bar)
      void slot.writeConfig(capability + CAP.OFFSET, 4, offset)
      void slot.writeConfig(capability + CAP.LENGTH, 4, length)
      void slot.writeConfig(capability + CAP.PCI_CFG_DATA, 4, 0xaaaa_aaaa)
      expect(slot.readConfig(capability + CAP.PCI_CFG_DATA, 4)).toBe(0xaaaa_aaaa)
    }
    expect(device.calls).toEqual(["activate"])
    expect(JSON.stringify(transport.state(), (_, v) => (typeof v === "bigint" ? `${v}` : v))).toBe(before)
  })

  it("bad-input #7: any accesses of any of its bytes neither throw nor reach beyond the register structures", async () => {
    const access = fc.record({
      at: fc.nat(19),
      size: fc.constantFrom<1 | 2 | 4>(1, 2, 4),
      value: fc.oneof(
        fc.constantFrom(0, 1, 2, 3, 4, 0x10, 0x14, 0x1000, 0x2000, 0x4000),
        fc.integer({ min: 0, max: 0xffff_ffff }),
      ),
      write: fc.boolean(),
    })
    await fc.assert(
      fc.asyncProperty(fc.array(access, { maxLength: 60 }), async (accesses) => {
        const { driver, slot, errors } = setup()
        await driver.start()
        const { capability } = driver.structures.get(CAP.PCI_CFG)!
        for (const { at, size, value, write } of accesses) {
          if (write) await slot.writeConfig(capability + at, size, value)
          const read = slot.readConfig(capability + at, size)
          expect(read >= 0 && read < 2 ** (8 * size)).toBe(true)
        }
        expect(errors).toEqual([])
        await driver.start()
        const chain = await driver.request(1, { readable: [Uint8Array.of(1)], writable: [1] })
        expect(chain.written).toBe(1)
      }),
      { numRuns: 150, seed: 1 },
    )
  })
})
