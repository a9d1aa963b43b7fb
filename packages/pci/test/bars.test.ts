import { ConfigError } from "@virtkit/interface"
import { PCI_COMMAND } from "@virtkit/testkit"
import { describe, expect, it } from "vitest"
import { bar, machine, place, type Registers, TestFunction, VENDOR, WINDOWS } from "./machine.js"

type Machine = ReturnType<typeof machine>

/** Where `registers` answer, in order. */
function placesOf({ host }: Machine, registers: Registers): number[] {
  return host.mappings.filter(({ device }) => device === registers).map(({ address }) => address)
}

function withBars(...bars: ReturnType<typeof bar>[]) {
  const pc = machine()
  const fn = new TestFunction("one", { bars })
  pc.bus.add(fn)
  return { pc, fn, at: pc.driver.find(VENDOR, 0x5678) }
}

const { IO, MEMORY } = PCI_COMMAND

describe("BARs", () => {
  it("are sized by writing all ones: kinds, sizes, 64-bit pairs, prefetchable", () => {
    const { pc, at } = withBars(
      bar(0, "io", 4),
      bar(1, "memory32", 16),
      bar(2, "memory64", 2 ** 33, 4096, true),
      bar(4, "memory32", 2 ** 31, 4096, true),
      bar(5, "io", 256),
    )
    const shown = pc.driver
      .bars(at)
      .map(({ index, kind, size, prefetchable }) => [index, kind, size, prefetchable])
    expect(shown).toEqual([
      [0, "io", 4, false],
      [1, "memory32", 16, false],
      [2, "memory64", 2 ** 33, true],
      [4, "memory32", 2 ** 31, true],
      [5, "io", 256, false],
    ])
  })

  it.each([2 ** 31, 2 ** 32, 2 ** 40])("64-bit ones of %d bytes", (size) => {
    const { pc, at } = withBars(bar(0, "memory64", size, 4096))
    expect(pc.driver.bars(at)[0]?.size).toBe(size)
  })

  it("answer where the guest puts them while decoding is on", () => {
    const target = bar(0, "memory64", 0x4000)
    const ports = bar(2, "io", 16)
    const { pc, at } = withBars(target, ports)
    const [memory, io] = pc.driver.bars(at)
    pc.driver.setBar(at, memory!, 0x40_0000_4000)
    pc.driver.setBar(at, io!, 0x2010)
    expect(placesOf(pc, target.registers)).toEqual([])
    void pc.driver.command(at, MEMORY)
    expect([placesOf(pc, target.registers), placesOf(pc, ports.registers)]).toEqual([[0x40_0000_4000], []])
    void pc.driver.command(at, IO, MEMORY)
    expect([placesOf(pc, target.registers), placesOf(pc, ports.registers)]).toEqual([[], [0x2010]])
    pc.host.write("io", 0x2014, 2, 0xbeef)
    expect(ports.registers.writes).toEqual(["2@4=beef"])
    void pc.driver.command(at, 0, IO)
    expect(pc.host.read("io", 0x2014, 2)).toBe(0xffff)
  })

  it("move with decoding on", () => {
    const target = bar(0, "memory32", 0x1000)
    const { pc, at } = withBars(target)
    const [memory] = pc.driver.bars(at)
    place(pc.driver, at, memory!, 0xd000_0000)
    target.registers.bytes[8] = 0x42
    pc.driver.setBar(at, memory!, 0xd012_3000)
    expect(placesOf(pc, target.registers)).toEqual([0xd012_3000])
    pc.host.write("memory", 0xd012_3004, 4, 1)
    pc.host.exits = 0
    expect(pc.host.read("memory", 0xd012_3004, 1)).toBe(1)
    expect(pc.host.exits).toBe(0)
    expect(pc.host.read("memory", 0xd000_0004, 1)).toBe(0xff)
  })

  it("read as 0 between their windows, and lose writes there", () => {
    const first = bar(0, "memory32", 0x4000, 8)
    const second = bar(1, "memory32", 16, 8)
    const windows = [{ offset: 0x3000, size: 16, device: second.registers }, ...first.windows]
    const pc = machine()
    pc.bus.add(new TestFunction("one", { bars: [{ ...first, windows }] }))
    const at = pc.driver.find(VENDOR, 0x5678)
    place(pc.driver, at, pc.driver.bars(at)[0]!, 0xd000_0000)
    first.registers.bytes.fill(1)
    second.registers.bytes.fill(2)
    expect(pc.host.read("memory", 0xd000_0006, 4)).toBe(0x0101)
    expect(pc.host.read("memory", 0xd000_2ffe, 4)).toBe(0x0202_0000)
    expect(pc.host.read("memory", 0xd000_3fff, 1)).toBe(0)
    expect(pc.host.read("memory", 0xd000_4000, 1)).toBe(0xff)
    expect(() => pc.host.write("memory", 0xd000_1000, 4, 1)).not.toThrow()
  })

  it("answer only whole within a window of the host bridge, and never at 0", () => {
    const target = bar(0, "memory32", 0x1000)
    const wide = bar(2, "memory64", 0x1000)
    const ports = bar(1, "io", 32)
    const { pc, at } = withBars(target, ports, wide)
    const [memory, io, memory64] = pc.driver.bars(at)
    void pc.driver.command(at, MEMORY | IO)
    const { memory32, io: ioWindow } = WINDOWS
    const end = memory32.address + memory32.size
    for (const address of [0, 0x1000, memory32.address - 0x1000, end, 0xe000_0000, 0xffff_f000]) {
      pc.driver.setBar(at, memory!, address)
      expect(placesOf(pc, target.registers)).toEqual([])
    }
    for (const address of [0, 0xfe0, ioWindow.address - 32, 0x1_0000, 0xffff_ffe0]) {
      pc.driver.setBar(at, io!, address)
      expect(placesOf(pc, ports.registers)).toEqual([])
    }
    // Beyond 2^53 too (bad-input #35).
    for (const address of [0, 0x1_0000_0000, 0x80_0000_0000, 2 ** 53, 2 ** 64 - 4096]) {
      pc.driver.setBar(at, memory64!, address)
      expect(placesOf(pc, wide.registers)).toEqual([])
    }
    pc.driver.setBar(at, memory!, end - 0x1000)
    pc.driver.setBar(at, io!, 0xffe0)
    pc.driver.setBar(at, memory64!, end - 0x2000)
    expect(placesOf(pc, target.registers)).toEqual([end - 0x1000])
    expect(placesOf(pc, ports.registers)).toEqual([0xffe0])
    expect(placesOf(pc, wide.registers)).toEqual([end - 0x2000])
  })

  it("that overlap: who came first stays, the other answers when there is room", () => {
    const one = bar(0, "memory32", 0x2000, 0x2000)
    const two = bar(1, "memory32", 0x1000)
    const { pc, at } = withBars(one, two)
    const [first, second] = pc.driver.bars(at)
    place(pc.driver, at, first!, 0xd000_0000)
    pc.driver.setBar(at, second!, 0xd000_1000)
    expect(placesOf(pc, two.registers)).toEqual([])
    pc.driver.setBar(at, first!, 0xd010_0000)
    expect(placesOf(pc, one.registers)).toEqual([0xd010_0000])
    expect(placesOf(pc, two.registers)).toEqual([0xd000_1000])
    // Swapped in two writes.
    pc.driver.setBar(at, second!, 0xd010_0000)
    pc.driver.setBar(at, first!, 0xd000_0000)
    expect(placesOf(pc, one.registers)).toEqual([0xd000_0000])
    expect(placesOf(pc, two.registers)).toEqual([0xd010_0000])
  })

  it("where something else of the machine is answer nowhere, not in part", () => {
    const target = bar(0, "memory32", 0x4000, 0x1000)
    const { pc, at } = withBars(target)
    const taken = pc.host.map("memory", 0xd000_3000, 16, { name: "taken", read: () => 7, write: () => {} })
    const before = pc.host.mappings.length
    place(pc.driver, at, pc.driver.bars(at)[0]!, 0xd000_0000)
    expect(pc.host.mappings).toHaveLength(before)
    expect(pc.host.read("memory", 0xd000_3000, 1)).toBe(7)
    taken?.remove()
    void pc.driver.command(at, 0, MEMORY)
    void pc.driver.command(at, MEMORY)
    expect(placesOf(pc, target.registers)).toEqual([0xd000_0000])
  })
})

describe("assignResources", () => {
  it("gives all BARs a place of their own and enables decoding, which a guest can keep", () => {
    const { bus, driver, host } = machine({}, { interruptLines: [10, 11, 12, 13] })
    const bars = [bar(0, "memory32", 0x1000), bar(1, "memory64", 0x10_0000, 4096, true), bar(3, "io", 64)]
    for (let i = 0; i < 4; i++) bus.add(new TestFunction(`fn${i}`, { bars: bars.map((b) => ({ ...b })) }))
    bus.assignResources()
    const ranges: [string, number, number][] = []
    for (const at of driver.scan().slice(1)) {
      expect(driver.readConfig(at, 4, 2)).toBe(IO | MEMORY)
      expect(driver.readConfig(at, 0x3c, 1)).toBe(10 + (at.device & 3))
      for (const { kind, size, address } of driver.bars(at)) {
        const window = WINDOWS[kind]
        expect(address % size).toBe(0)
        expect(address).toBeGreaterThanOrEqual(window.address)
        expect(address + size).toBeLessThanOrEqual(window.address + window.size)
        expect(ranges.every(([k, a, s]) => k !== kind || a + s <= address || address + size <= a)).toBe(true)
        ranges.push([kind, address, size])
      }
    }
    expect(ranges).toHaveLength(12)
    // 4 functions of 3 BARs: the two memory BARs are a window and a gap or the window alone.
    expect(host.mappings.filter(({ device }) => device.name.startsWith("bar"))).toHaveLength(12)
  })

  it("puts 64-bit BARs below 4 GiB when there is no window above", () => {
    const windows = { ...WINDOWS, memory64: { address: 0, size: 0 } }
    const { bus, driver } = machine({}, { windows })
    bus.add(new TestFunction("one", { bars: [bar(0, "memory64", 0x4000, 4096, true)] }))
    bus.addRootPort().plug(new TestFunction("two", { bars: [bar(0, "memory64", 0x4000, 4096, true)] }))
    bus.assignResources()
    for (const at of [
      { bus: 0, device: 1 },
      { bus: 1, device: 0 },
    ]) {
      expect(driver.barAddress(at, 0)).toBeGreaterThanOrEqual(WINDOWS.memory32.address)
      expect(driver.barAddress(at, 0)).toBeLessThan(2 ** 32)
    }
  })

  it("leaves out address 0, which says that a BAR has none", () => {
    const windows = { ...WINDOWS, io: { address: 0, size: 0x100 } }
    const { bus, driver, host } = machine({}, { windows })
    const ports = bar(0, "io", 16)
    bus.add(new TestFunction("one", { bars: [ports] }))
    const at = { bus: 0, device: 1 }
    void driver.command(at, IO)
    expect(host.mappings.some(({ device }) => device === ports.registers)).toBe(false)
    bus.assignResources()
    expect(driver.barAddress(at, 0)).toBe(16)
  })

  it("says which window is too small for what", () => {
    const windows = { ...WINDOWS, memory32: { address: 0xd000_0000, size: 0x1000 } }
    const { bus } = machine({}, { windows })
    bus.add(new TestFunction("one", { bars: [bar(0, "memory32", 0x1000), bar(1, "memory32", 16)] }))
    expect(() => bus.assignResources()).toThrow(
      new ConfigError("the memory32 window of the PCI bus is too small for the BAR 1 of one"),
    )
  })

  it("refuses windows and ECAMs that cannot be", () => {
    for (const windows of [
      { ...WINDOWS, io: { address: 0x8000, size: 0x8001 } },
      { ...WINDOWS, memory32: { address: 0xf000_0000, size: 0x1000_0001 } },
      { ...WINDOWS, memory64: { address: 2 ** 52, size: 4096 } },
    ]) {
      expect(() => machine({}, { windows })).toThrow(ConfigError)
    }
    for (const ecam of [
      { address: 0xe000_1000, buses: 1 },
      { address: 0xe000_0000, buses: 0 },
      { address: 0xe000_0000, buses: 257 },
    ]) {
      expect(() => machine({}, { ecam })).toThrow(ConfigError)
    }
  })
})
