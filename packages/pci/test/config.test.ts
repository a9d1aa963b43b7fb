import { ConfigError } from "@virtkit/interface"
import { PCI, PCI_CAPABILITY, PCI_COMMAND, PCI_EXPRESS, PCI_STATUS } from "@virtkit/testkit"
import { describe, expect, it } from "vitest"
import { bar, ECAM, machine, msixOptions, TestFunction, VENDOR } from "./machine.js"

describe("configuration space", () => {
  it("says what the function is, by the ECAM and by the ports alike", () => {
    const { bus, driver, conf1 } = machine()
    const identity = {
      deviceId: 0xabcd,
      classCode: 0x01_0802,
      revisionId: 7,
      subsystemVendorId: 0x1af4,
      subsystemId: 0x1100,
    }
    bus.add(new TestFunction("one", { identity }), { device: 5 })
    const at = { bus: 0, device: 5 }
    for (const config of [driver, conf1]) {
      expect(config.readConfig(at, PCI.VENDOR_ID, 2)).toBe(VENDOR)
      expect(config.readConfig(at, PCI.DEVICE_ID, 2)).toBe(0xabcd)
      expect(config.readConfig(at, PCI.REVISION_ID, 4)).toBe(0x0108_0207)
      expect(config.readConfig(at, PCI.HEADER_TYPE, 1)).toBe(0)
      expect(config.readConfig(at, PCI.SUBSYSTEM_VENDOR_ID, 4)).toBe(0x1100_1af4)
      expect(config.readConfig(at, PCI.INTERRUPT_PIN, 1)).toBe(1)
      expect(config.scan()).toEqual([{ bus: 0, device: 0 }, at])
    }
  })

  it("has a host bridge at device 0, which legacy guests look for", () => {
    const { conf1 } = machine()
    expect(conf1.readConfig({ bus: 0, device: 0 }, PCI.CLASS_CODE + 1, 2)).toBe(0x0600)
  })

  it("is read without exits by the ECAM, written with one each", () => {
    const { bus, driver, host } = machine()
    bus.add(new TestFunction("one"))
    const at = driver.find(VENDOR, 0x5678)
    host.exits = 0
    for (let offset = 0; offset < 4096; offset += 4) driver.readConfig(at, offset, 4)
    expect(host.exits).toBe(0)
    void driver.writeConfig(at, PCI.INTERRUPT_LINE, 1, 11)
    expect(host.exits).toBe(1)
    expect(driver.readConfig(at, PCI.INTERRUPT_LINE, 1)).toBe(11)
  })

  it("reads as all ones where no function is", () => {
    const { driver, conf1 } = machine()
    for (const config of [driver, conf1]) {
      expect(config.readConfig({ bus: 0, device: 9 }, 0, 4)).toBe(0xffff_ffff)
      expect(config.readConfig({ bus: 3, device: 0 }, 0, 2)).toBe(0xffff)
    }
    // Function 1 of the host bridge.
    expect(driver.access.read("memory", ECAM + 0x1000, 4)).toBe(0xffff_ffff)
    driver.access.write("io", 0xcf8, 4, 0x8000_0100)
    expect(driver.access.read("io", 0xcfc, 4)).toBe(0xffff_ffff)
  })

  it("lists PCI Express, MSI-X and the function's own capabilities in this order", () => {
    const { bus, driver } = machine()
    const capabilities = [
      { id: PCI_CAPABILITY.VENDOR, body: Uint8Array.of(5, 1, 2) },
      { id: PCI_CAPABILITY.VENDOR, body: Uint8Array.of(4, 9) },
    ]
    bus.add(new TestFunction("one", { ...msixOptions(3), capabilities }))
    const at = driver.find(VENDOR, 0x5678)
    const list = driver.capabilities(at)
    expect(list.map(({ id }) => id)).toEqual([
      PCI_CAPABILITY.EXPRESS,
      PCI_CAPABILITY.MSIX,
      PCI_CAPABILITY.VENDOR,
      PCI_CAPABILITY.VENDOR,
    ])
    expect(list.every(({ offset }) => offset % 4 === 0)).toBe(true)
    expect(driver.readConfig(at, list[2]!.offset + 2, 4)).toBe(0x0002_0105)
    expect(driver.msixVectors(at)).toBe(3)
  })

  it("has PCI Express types that fit the place: integrated endpoint, root port, endpoint", () => {
    const { bus, driver } = machine()
    bus.add(new TestFunction("one"), { device: 1 })
    bus.addRootPort({ device: 2 }).plug(new TestFunction("two"))
    bus.assignResources()
    const types = [
      { bus: 0, device: 1 },
      { bus: 0, device: 2 },
      { bus: 1, device: 0 },
    ].map((at) => {
      const link = driver.readConfig(at, driver.capability(at, PCI_CAPABILITY.EXPRESS) + 0x0c, 4) & 0xff_ffff
      expect(link).toBe(at.bus === 0 && at.device === 1 ? 0 : 0x11)
      const flags = driver.readConfig(
        at,
        driver.capability(at, PCI_CAPABILITY.EXPRESS) + PCI_EXPRESS.FLAGS,
        2,
      )
      return [flags & 15, (flags >> 4) & 15, flags >> 8]
    })
    expect(types).toEqual([
      [2, 9, 0],
      [2, 4, 1],
      [2, 0, 0],
    ])
  })

  it("keeps read-only bits, and command bits of what the function does not have", () => {
    const { bus, driver } = machine()
    bus.add(new TestFunction("one", { bars: [bar(0, "io", 16)] }))
    const at = driver.find(VENDOR, 0x5678)
    void driver.writeConfig(at, PCI.VENDOR_ID, 4, 0)
    void driver.writeConfig(at, PCI.COMMAND, 2, 0xffff)
    void driver.writeConfig(at, PCI.CLASS_CODE, 1, 0x55)
    void driver.writeConfig(at, 0x0f, 1, 0xff)
    void driver.writeConfig(at, 0x30, 4, 0xffff_f801)
    expect(driver.readConfig(at, PCI.VENDOR_ID, 4)).toBe(0x5678_1234)
    expect(driver.readConfig(at, PCI.COMMAND, 2)).toBe(0x0545)
    expect(driver.readConfig(at, PCI.CLASS_CODE, 1)).toBe(0)
    expect(driver.readConfig(at, 0x0f, 1)).toBe(0)
    expect(driver.readConfig(at, 0x30, 4)).toBe(0)
    expect(driver.readConfig(at, PCI.STATUS, 2)).toBe(PCI_STATUS.CAPABILITIES)
  })

  it("bad-input #5: odd widths and straddling accesses of configuration space", () => {
    for (const pages of [true, false]) {
      const { bus, driver } = machine({ pages })
      bus.add(new TestFunction("one", { bars: [bar(0, "memory32", 0x1000)] }))
      const at = driver.find(VENDOR, 0x5678)
      void driver.writeConfig(at, PCI.INTERRUPT_LINE, 1, 0xa5)
      // Reads give the bytes, whatever their place; zeros follow the last register.
      expect(driver.readConfig(at, 1, 4)).toBe(0x0056_7812 + driver.readConfig(at, 4, 1) * 2 ** 24)
      expect(driver.readConfig(at, PCI.INTERRUPT_LINE, 4)).toBe(0x1a5)
      expect(driver.readConfig(at, 0xff, 4)).toBe(0)
      expect(driver.readConfig(at, 0xffe, 2)).toBe(0)
      // Writes across a 32-bit boundary change nothing.
      void driver.writeConfig(at, PCI.INTERRUPT_LINE - 1, 4, 0xffff_ffff)
      void driver.writeConfig(at, PCI.COMMAND - 1, 2, 0xffff)
      expect(driver.readConfig(at, PCI.INTERRUPT_LINE, 1)).toBe(0xa5)
      expect(driver.readConfig(at, PCI.COMMAND, 2)).toBe(0)
      void driver.writeConfig(at, PCI.BAR0 + 3, 2, 0xffff)
      expect(driver.readConfig(at, PCI.BAR0, 4)).toBe(0)
      // One byte of the command register changes that byte.
      void driver.writeConfig(at, PCI.COMMAND + 1, 1, 0xff)
      expect(driver.readConfig(at, PCI.COMMAND, 2)).toBe(0x0500)
      // Beyond the page there is nothing.
      expect(driver.access.read("memory", ECAM + 0x8000 + 0xffe, 4)).toBe(0xffff_0000)
      expect(() => driver.access.write("memory", ECAM + 0x8000 + 0xffe, 4, 0xffff_ffff)).not.toThrow()
    }
  })

  it("bad-input #35: registers of all ones are unsigned numbers", () => {
    const { bus, driver, conf1 } = machine({ pages: false })
    bus.add(new TestFunction("one", { identity: { deviceId: 0xffff }, bars: [bar(0, "memory64", 4096)] }))
    const at = { bus: 0, device: 1 }
    for (const config of [driver, conf1]) {
      expect(config.readConfig(at, 0, 4)).toBe(0xffff_1234)
      void config.writeConfig(at, PCI.BAR0, 4, 0xffff_ffff)
      expect(config.readConfig(at, PCI.BAR0, 4)).toBe(0xffff_f004)
      void config.writeConfig(at, PCI.BAR0 + 4, 4, 0xffff_ffff)
      expect(config.readConfig(at, PCI.BAR0 + 4, 4)).toBe(0xffff_ffff)
      expect(() => config.command(at, PCI_COMMAND.MEMORY)).not.toThrow()
    }
    expect(driver.access.read("io", 0xcf8, 4)).toBeGreaterThan(0)
  })
})

describe("a function's own capability", () => {
  it("tells it of writes to its body, by mask, and shows what it makes of them", () => {
    const { bus, driver } = machine()
    const log: string[] = []
    const body = Uint8Array.of(8, 0, 0, 0, 0, 0)
    const capability = {
      id: PCI_CAPABILITY.VENDOR,
      body,
      writable: Uint8Array.of(0, 0, 0x0f, 0xff, 0, 0),
      written: (offset: number, size: number) => {
        log.push(`${size}@${offset}: ${[...body].join(" ")}`)
        body[4] = body[2]! + 1
      },
    }
    bus.add(new TestFunction("one", { capabilities: [capability] }))
    const at = driver.find(VENDOR, 0x5678)
    const start = driver.capability(at, PCI_CAPABILITY.VENDOR)
    void driver.writeConfig(at, start + 4, 2, 0x12ff)
    // The ID and the pointer of the list are not part of the body.
    void driver.writeConfig(at, start, 4, 0xffff_ffff)
    expect(log).toEqual(["2@2: 8 0 15 18 0 0", "2@0: 8 0 15 18 16 0"])
    expect(driver.readConfig(at, start + 4, 4)).toBe(0x0010_120f)
    expect(driver.readConfig(at, start, 2)).toBe(PCI_CAPABILITY.VENDOR)
  })

  it("shows what it makes of a write once its promise has settled", async () => {
    const { bus, driver } = machine()
    const body = Uint8Array.of(4, 0)
    const written = async () => {
      await Promise.resolve()
      body[1] = 0x99
    }
    bus.add(new TestFunction("one", { capabilities: [{ id: 9, body, written }] }))
    const at = driver.find(VENDOR, 0x5678)
    const start = driver.capability(at, 9)
    await driver.writeConfig(at, start + 2, 2, 0xffff)
    expect(driver.readConfig(at, start + 2, 2)).toBe(0x9904)
  })

  it("is read without exits again when live reads end, wherever it was placed meanwhile", () => {
    const { bus, driver, host } = machine()
    const fn = new TestFunction("one")
    bus.addRootPort({ device: 2 }).plug(fn)
    fn.slot.setLiveReads(true)
    void driver.writeConfig({ bus: 0, device: 2 }, PCI.PRIMARY_BUS, 4, 0x0404_00)
    const at = { bus: 4, device: 0 }
    host.exits = 0
    expect(driver.exists(at)).toBe(true)
    expect(host.exits).toBe(1)
    fn.slot.setLiveReads(false)
    expect(driver.exists(at)).toBe(true)
    expect(host.exits).toBe(1)
  })

  it("is asked before a read while reads are live, and by the ports always", () => {
    const { bus, driver, conf1, host } = machine()
    const body = Uint8Array.of(4, 0)
    const asked: string[] = []
    const beforeRead = (offset: number, size: number) => {
      asked.push(`${size}@${offset}`)
      body[1] = asked.length
    }
    const fn = new TestFunction("one", { capabilities: [{ id: 9, body, beforeRead }] })
    bus.add(fn)
    const at = driver.find(VENDOR, 0x5678)
    const start = driver.capability(at, 9)
    asked.length = 0
    expect(driver.readConfig(at, start, 4)).toBe(0x0004_0009)
    expect(asked).toEqual([])
    fn.slot.setLiveReads(true)
    host.exits = 0
    expect(driver.readConfig(at, start, 4)).toBe(0x0104_0009)
    expect(host.exits).toBe(1)
    expect(asked).toEqual(["2@0"])
    fn.slot.setLiveReads(false)
    expect(driver.readConfig(at, start + 2, 2)).toBe(0x0104)
    expect(conf1.readConfig(at, start + 2, 2)).toBe(0x0204)
  })
})

describe("function-level reset", () => {
  it("puts everything back and tells the function; the vCPU waits for it", async () => {
    const { bus, driver, host } = machine()
    const target = bar(0, "memory32", 4096)
    const body = Uint8Array.of(4, 0)
    const capabilities = [{ id: 9, body, writable: Uint8Array.of(0, 0xff), written: () => undefined }]
    const fn = new TestFunction("one", { bars: [target], capabilities })
    bus.add(fn)
    const at = driver.find(VENDOR, 0x5678)
    driver.setBar(at, driver.bars(at)[0]!, 0xd000_0000)
    void driver.command(at, PCI_COMMAND.MEMORY | PCI_COMMAND.BUS_MASTER)
    void driver.writeConfig(at, driver.capability(at, 9) + 3, 1, 0x77)
    fn.slot.setLiveReads(true)
    fn.slot.setIntx(true)
    expect(body[1]).toBe(0x77)
    let finish = () => {}
    fn.resetting = new Promise((resolve) => {
      finish = resolve
    })
    const control = driver.capability(at, PCI_CAPABILITY.EXPRESS) + PCI_EXPRESS.DEVICE_CONTROL
    const capable = driver.readConfig(at, control - 4, 4) & PCI_EXPRESS.DEVICE_CAPABILITIES_FLR
    expect(capable).not.toBe(0)
    const stopped = driver.writeConfig(at, control, 2, PCI_EXPRESS.DEVICE_CONTROL_FLR)
    expect(stopped).toBeInstanceOf(Promise)
    expect(fn.log.filter((entry) => entry === "reset")).toHaveLength(1)
    expect([driver.readConfig(at, PCI.COMMAND, 2), driver.barAddress(at, 0), body[1]]).toEqual([0, 0, 0])
    expect(host.lines[1]).toBe(false)
    expect(host.mappings.some(({ device }) => device === target.registers)).toBe(false)
    // Meanwhile nothing that another vCPU writes is heard (bad-input #34).
    void driver.command(at, PCI_COMMAND.MEMORY)
    void driver.writeConfig(at, control, 2, PCI_EXPRESS.DEVICE_CONTROL_FLR)
    expect(driver.readConfig(at, PCI.COMMAND, 2)).toBe(0)
    expect(fn.log.filter((entry) => entry === "reset")).toHaveLength(1)
    finish()
    await stopped
    void driver.command(at, PCI_COMMAND.MEMORY)
    expect(driver.readConfig(at, PCI.COMMAND, 2)).toBe(PCI_COMMAND.MEMORY)
    host.exits = 0
    driver.readConfig(at, 0, 4)
    expect(host.exits).toBe(0)
  })

  it("bad-input #34: a storm of resets does not pile up", async () => {
    const { bus, driver } = machine()
    const fn = new TestFunction("one")
    bus.add(fn)
    const at = driver.find(VENDOR, 0x5678)
    let finish = () => {}
    fn.resetting = new Promise((resolve) => {
      finish = resolve
    })
    const control = driver.capability(at, PCI_CAPABILITY.EXPRESS) + PCI_EXPRESS.DEVICE_CONTROL
    const first = driver.writeConfig(at, control, 2, PCI_EXPRESS.DEVICE_CONTROL_FLR)
    for (let i = 0; i < 1000; i++) void driver.writeConfig(at, control, 2, PCI_EXPRESS.DEVICE_CONTROL_FLR)
    expect(fn.log).toEqual(["attach", "reset"])
    finish()
    await first
    fn.resetting = undefined
    for (let i = 0; i < 10; i++) void driver.writeConfig(at, control, 2, PCI_EXPRESS.DEVICE_CONTROL_FLR)
    expect(fn.log).toHaveLength(12)
  })
})

describe("descriptions that are wrong", () => {
  const wrong: [string, ConstructorParameters<typeof TestFunction>[1]][] = [
    ["BAR 2 is not free", { bars: [bar(1, "memory64", 4096), bar(2, "memory32", 4096)] }],
    ["BAR 6 is not free", { bars: [bar(5, "memory64", 4096)] }],
    ["there is no BAR 6", { bars: [bar(6, "memory32", 4096)] }],
    ["not a power of two from 16", { bars: [bar(0, "memory32", 5000, 16)] }],
    ["not a power of two from 4 to 256", { bars: [bar(0, "io", 512)] }],
    ["reaches past the end of BAR 0", { bars: [bar(0, "memory32", 4096, 4097)] }],
    ["MSI-X needs a memory BAR", { msix: { vectors: 1, bar: 0, tableOffset: 0, pbaOffset: 16 } }],
    [
      "the MSI-X pending bits of BAR 0 overlaps another",
      {
        bars: [bar(0, "memory32", 4096, 1024)],
        msix: { vectors: 2, bar: 0, tableOffset: 2048, pbaOffset: 2056 },
      },
    ],
    ["bytes too many", { capabilities: [{ id: 9, body: new Uint8Array(200) }] }],
    ["out of range", { identity: { vendorId: 0xffff } }],
  ]
  it.each(wrong)("%s", (message, options) => {
    const { bus } = machine()
    expect(() => bus.add(new TestFunction("wrong", options))).toThrow(ConfigError)
    expect(() => bus.add(new TestFunction("wrong", options))).toThrow(message)
    expect(bus.functions).toEqual([])
  })

  it("a device number that is taken or does not exist", () => {
    const { bus } = machine()
    bus.add(new TestFunction("one"), { device: 3 })
    for (const device of [0, 3, 32, -1, 1.5]) {
      expect(() => bus.add(new TestFunction("two"), { device })).toThrow(ConfigError)
    }
    for (let i = 0; i < 30; i++) bus.add(new TestFunction(`fn${i}`))
    expect(() => bus.add(new TestFunction("last"))).toThrow("no free PCI device number for last")
  })
})
