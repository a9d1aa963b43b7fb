import { ConfigError, StateError } from "@virtkit/interface"
import { PCI, PCI_CAPABILITY, PCI_COMMAND, PCI_EXPRESS } from "@virtkit/testkit"
import { describe, expect, it } from "vitest"
import { bar, ECAM, machine, msixOptions, TestFunction, VENDOR } from "./machine.js"

const PORT = { bus: 0, device: 2 }

/** A root port at device 2 with a function behind it. */
function withPort(
  bars = [bar(0, "memory32", 0x1000), bar(2, "memory64", 0x1000, 0x1000, true), bar(4, "io", 16)],
) {
  const pc = machine()
  const port = pc.bus.addRootPort({ device: 2 })
  const fn = new TestFunction("one", { bars })
  port.plug(fn)
  return { ...pc, port, fn, bars }
}

function where({ host, bars }: Pick<ReturnType<typeof withPort>, "host" | "bars">): (number | undefined)[] {
  return bars.map((b) => host.mappings.find(({ device }) => device === b.registers)?.address)
}

describe("root ports", () => {
  it("are bridges whose bus the guest numbers; the function is found behind", () => {
    const { driver, conf1, fn } = withPort()
    expect(driver.isBridge(PORT)).toBe(true)
    expect(driver.scan()).toEqual([{ bus: 0, device: 0 }, PORT])
    for (const bus of [1, 0x80, 7]) {
      void driver.writeConfig(PORT, PCI.PRIMARY_BUS, 4, bus * 0x1_0100)
      for (const config of [driver, conf1]) {
        expect(config.scan()).toEqual([{ bus: 0, device: 0 }, PORT, { bus, device: 0 }])
        expect(config.readConfig({ bus, device: 0 }, 0, 2)).toBe(VENDOR)
        expect(config.readConfig({ bus, device: 1 }, 0, 2)).toBe(0xffff)
      }
      expect(fn.slot.address).toBe(`${bus.toString(16).padStart(2, "0")}:00.0`)
    }
    // A subordinate number below the secondary one: no bus.
    void driver.writeConfig(PORT, PCI.SUBORDINATE_BUS, 1, 6)
    expect(conf1.exists({ bus: 7, device: 0 })).toBe(false)
    expect(driver.exists({ bus: 7, device: 0 })).toBe(false)
  })

  it("two with the same number: one answers, the other when there is room", () => {
    const { driver, bus, host } = withPort()
    const other = new TestFunction("two", { identity: { deviceId: 2 } })
    bus.addRootPort({ device: 3 }).plug(other)
    void driver.writeConfig(PORT, PCI.PRIMARY_BUS, 4, 0x0505_00)
    void driver.writeConfig({ bus: 0, device: 3 }, PCI.PRIMARY_BUS, 4, 0x0505_00)
    expect(driver.readConfig({ bus: 5, device: 0 }, PCI.DEVICE_ID, 2)).toBe(0x5678)
    void driver.writeConfig(PORT, PCI.PRIMARY_BUS, 4, 0x0606_00)
    expect(driver.readConfig({ bus: 5, device: 0 }, PCI.DEVICE_ID, 2)).toBe(2)
    expect(driver.readConfig({ bus: 6, device: 0 }, PCI.DEVICE_ID, 2)).toBe(0x5678)
    expect(host.mappings.filter(({ address }) => address === ECAM + 5 * 0x10_0000)).toHaveLength(1)
  })

  it("buses beyond the ECAM are there by the ports only", () => {
    const pc = machine({}, { ecam: { address: ECAM, buses: 2 } })
    pc.bus.addRootPort({ device: 2 }).plug(new TestFunction("one"))
    void pc.driver.writeConfig(PORT, PCI.PRIMARY_BUS, 4, 0x0202_00)
    expect(pc.conf1.exists({ bus: 2, device: 0 })).toBe(true)
    expect(pc.host.mappings.some(({ address }) => address >= ECAM + 0x20_0000)).toBe(false)
  })

  it("forward what lies whole in their windows, and as the command register lets them", () => {
    const pc = withPort()
    const { driver, bus } = pc
    bus.assignResources()
    const at = { bus: 1, device: 0 }
    const [memory, wide, io] = where(pc)
    expect([memory, wide, io]).toEqual([0, 2, 4].map((index) => driver.barAddress(at, index)))
    const window = driver.readConfig(PORT, PCI.MEMORY_BASE, 2) * 0x1_0000
    expect(memory).toBe(window)
    // One MiB is all that remains of the two.
    const limit = driver.readConfig(PORT, PCI.MEMORY_LIMIT, 2)
    expect(limit * 0x1_0000 - window).toBe(0x10_0000)
    void driver.writeConfig(PORT, PCI.MEMORY_LIMIT, 2, limit - 0x10)
    const target = driver.bars(at)[0]!
    driver.setBar(at, target, window + 0xf_f000)
    expect(where(pc)[0]).toBe(window + 0xf_f000)
    driver.setBar(at, target, window + 0x10_0000)
    expect(where(pc)[0]).toBeUndefined()
    void driver.writeConfig(PORT, PCI.MEMORY_LIMIT, 2, limit)
    expect(where(pc)[0]).toBe(window + 0x10_0000)
    void driver.command(PORT, 0, PCI_COMMAND.MEMORY)
    expect(where(pc)).toEqual([undefined, undefined, io])
    void driver.command(PORT, PCI_COMMAND.MEMORY, PCI_COMMAND.IO)
    expect(where(pc)).toEqual([window + 0x10_0000, wide, undefined])
    void driver.writeConfig(PORT, PCI.PREFETCHABLE_BASE_UPPER, 4, 0xffff_ffff)
    expect(where(pc)[1]).toBeUndefined()
  })

  it("forward nothing before anyone gave them windows", () => {
    const pc = withPort()
    const at = { bus: 1, device: 0 }
    void pc.driver.writeConfig(PORT, PCI.PRIMARY_BUS, 4, 0x0101_00)
    void pc.driver.command(PORT, PCI_COMMAND.IO | PCI_COMMAND.MEMORY)
    void pc.driver.command(at, PCI_COMMAND.IO | PCI_COMMAND.MEMORY)
    for (const [index, target] of pc.driver.bars(at).entries()) {
      pc.driver.setBar(at, target, [0xd000_0000, 0x40_0000_0000, 0x2000][index]!)
    }
    expect(where(pc)).toEqual([undefined, undefined, undefined])
  })

  it("let DMA and messages through while they are bus masters", () => {
    const pc = machine()
    const fn = new TestFunction("one", msixOptions(1))
    pc.bus.addRootPort({ device: 2 }).plug(fn)
    pc.bus.assignResources()
    const at = { bus: 1, device: 0 }
    void pc.driver.command(at, PCI_COMMAND.BUS_MASTER)
    pc.driver.setMsix(at, { enabled: true })
    pc.driver.setMsixEntry(at, 0, { address: 0xfee0_0000, data: 1 })
    fn.slot.msix(0)?.signal()
    expect([fn.slot.busMaster, pc.host.msis[0]?.count]).toEqual([true, 1])
    fn.log.length = 0
    void pc.driver.command(PORT, 0, PCI_COMMAND.BUS_MASTER)
    fn.slot.msix(0)?.signal()
    expect([fn.slot.busMaster, pc.host.msis[0]?.count]).toEqual([false, 1])
    void pc.driver.command(PORT, 0, PCI_COMMAND.MEMORY)
    expect(fn.log).toEqual(["commandChanged busMaster=false"])
  })

  it("reset what is behind them by Secondary Bus Reset, once for each time that it is set", async () => {
    const { driver, bus, fn } = withPort()
    bus.assignResources()
    fn.resetting = Promise.resolve()
    const stopped = driver.writeConfig(PORT, PCI.BRIDGE_CONTROL, 2, 0x40)
    expect(stopped).toBeInstanceOf(Promise)
    void driver.writeConfig(PORT, PCI.BRIDGE_CONTROL, 2, 0x43)
    await stopped
    void driver.writeConfig(PORT, PCI.BRIDGE_CONTROL, 2, 0x41)
    void driver.writeConfig(PORT, PCI.BRIDGE_CONTROL, 2, 0)
    expect(fn.log).toEqual(["attach", "reset"])
    expect(driver.readConfig({ bus: 1, device: 0 }, PCI.COMMAND, 2)).toBe(0)
    await driver.writeConfig(PORT, PCI.BRIDGE_CONTROL, 2, 0x40)
    expect(fn.log).toEqual(["attach", "reset", "reset"])
  })

  it("do not reset a second time what is being reset", async () => {
    const { driver, bus, fn } = withPort()
    bus.assignResources()
    const at = { bus: 1, device: 0 }
    let finish = () => {}
    fn.resetting = new Promise((resolve) => {
      finish = resolve
    })
    const control = driver.capability(at, PCI_CAPABILITY.EXPRESS) + PCI_EXPRESS.DEVICE_CONTROL
    const first = driver.writeConfig(at, control, 2, PCI_EXPRESS.DEVICE_CONTROL_FLR)
    const second = driver.writeConfig(PORT, PCI.BRIDGE_CONTROL, 2, 0x40)
    expect(second).toBeInstanceOf(Promise)
    finish()
    await Promise.all([first, second])
    expect(fn.log).toEqual(["attach", "reset"])
  })

  it("what leaves by one write makes room for all who wait, whatever their order", () => {
    const pc = machine()
    const [waiting, behind] = [bar(0, "memory32", 0x1000), bar(0, "memory32", 0x1000)]
    pc.bus.add(new TestFunction("waiting", { bars: [waiting] }), { device: 1 })
    pc.bus.addRootPort({ device: 2 }).plug(new TestFunction("behind", { bars: [behind] }))
    pc.bus.assignResources()
    const at = { bus: 0, device: 1 }
    const address = pc.driver.barAddress({ bus: 1, device: 0 }, 0)
    pc.driver.setBar(at, pc.driver.bars(at)[0]!, address)
    const holder = () => pc.host.mappings.find((mapping) => mapping.address === address)?.device
    expect(holder()).toBe(behind.registers)
    void pc.driver.command(PORT, 0, PCI_COMMAND.MEMORY)
    expect(holder()).toBe(waiting.registers)
  })

  it("a BAR that reaches out of their window is not forwarded in part", () => {
    const target = bar(0, "memory32", 0x20_0000)
    const pc = withPort([target])
    pc.bus.assignResources()
    expect(where(pc)[0]).toBeDefined()
    const limit = pc.driver.readConfig(PORT, PCI.MEMORY_LIMIT, 2)
    void pc.driver.writeConfig(PORT, PCI.MEMORY_LIMIT, 2, limit - 0x10)
    expect(where(pc)[0]).toBeUndefined()
  })

  it("refuse a second function, and more ports than buses", () => {
    const { port, bus } = withPort()
    expect(() => port.plug(new TestFunction("two"))).toThrow(new StateError("root port 2 has one already"))
    expect(() => bus.add(new TestFunction("two"), { port })).toThrow(StateError)
    const small = machine({}, { ecam: { address: ECAM, buses: 2 } })
    small.bus.addRootPort()
    small.bus.addRootPort()
    expect(() => small.bus.assignResources()).toThrow(ConfigError)
  })
})

describe("plugging at run time", () => {
  const slotStatus = ({ driver }: Pick<ReturnType<typeof machine>, "driver">) => {
    const express = driver.capability(PORT, PCI_CAPABILITY.EXPRESS)
    return driver.readConfig(PORT, express + PCI_EXPRESS.SLOT_STATUS, 2)
  }

  it("an empty port has windows, so that a function that comes has room", () => {
    const pc = machine()
    const port = pc.bus.addRootPort({ device: 2 })
    pc.bus.assignResources()
    expect([pc.driver.exists({ bus: 1, device: 0 }), slotStatus(pc)]).toEqual([false, 0])
    const target = bar(0, "memory64", 0x10_0000, 4096, true)
    port.plug(new TestFunction("late", { bars: [target] }))
    expect(slotStatus(pc)).toBe(PCI_EXPRESS.SLOT_STATUS_PRESENT)
    const at = { bus: 1, device: 0 }
    const base =
      pc.driver.readConfig(PORT, PCI.PREFETCHABLE_BASE_UPPER, 4) * 2 ** 32 +
      (pc.driver.readConfig(PORT, PCI.PREFETCHABLE_BASE, 2) & 0xfff0) * 0x1_0000
    expect(base).toBe(0x40_0000_0000)
    pc.driver.setBar(at, pc.driver.bars(at)[0]!, base)
    void pc.driver.command(at, PCI_COMMAND.MEMORY)
    expect(pc.host.mappings.find(({ device }) => device === target.registers)?.address).toBe(base)
  })

  it("unplugging takes everything back at once: pages, BARs, interrupts; then it closes the function", async () => {
    const pc = machine()
    const port = pc.bus.addRootPort({ device: 2 })
    pc.bus.assignResources()
    const before = pc.host.mappings.length
    for (let round = 0; round < 3; round++) {
      const fn = new TestFunction("one", msixOptions(2))
      port.plug(fn)
      const at = { bus: 1, device: 0 }
      pc.driver.setBar(at, pc.driver.bars(at)[0]!, 0xd000_0000)
      void pc.driver.command(at, PCI_COMMAND.MEMORY | PCI_COMMAND.BUS_MASTER)
      fn.slot.setIntx(true)
      expect(pc.host.lines[2]).toBe(true)
      pc.driver.setMsix(at, { enabled: true })
      pc.driver.setMsixEntry(at, 0, { address: 0xfee0_0000, data: 1 })
      const vector = fn.slot.msix(0)
      expect(pc.host.openMsis).toHaveLength(1)
      const gone = port.unplug()
      expect(pc.host.openMsis).toHaveLength(0)
      expect(pc.host.mappings).toHaveLength(before)
      expect([port.function, pc.driver.exists(at), slotStatus(pc)]).toEqual([undefined, false, 0])
      await gone
      expect(fn.log.at(-1)).toBe("close")
      // A function that is late finds nobody.
      vector?.signal()
      fn.slot.setIntx(true)
      fn.slot.setLiveReads(true)
      expect([fn.slot.busMaster, pc.host.lines[2]]).toEqual([false, false])
      await port.unplug()
    }
  })

  it("a reset that is in progress ends before the function is closed", async () => {
    const { port, fn, driver, bus } = withPort()
    bus.assignResources()
    let finish = () => {}
    fn.resetting = new Promise((resolve) => {
      finish = resolve
    })
    const stopped = driver.writeConfig(PORT, PCI.BRIDGE_CONTROL, 2, 0x40)
    const gone = port.unplug()
    await Promise.resolve()
    expect(fn.log).toEqual(["attach", "reset"])
    finish()
    await Promise.all([stopped, gone])
    expect(fn.log).toEqual(["attach", "reset", "close"])
  })

  it("closing the bus closes all, and leaves nothing behind", async () => {
    const pc = machine()
    const [a, b] = [new TestFunction("a", msixOptions(1)), new TestFunction("b")]
    pc.bus.add(a)
    pc.bus.addRootPort().plug(b)
    pc.bus.assignResources()
    await pc.bus.close()
    await pc.bus.close()
    expect([a.log.at(-1), b.log.at(-1)]).toEqual(["close", "close"])
    expect(pc.host.mappings.map(({ device }) => device.name)).toEqual(["PCI configuration ports"])
  })
})
