import { RestoreError } from "@virtkit/interface"
import { ACPI_EVENT_PCI_HOT_PLUG, ACPI_PM_REGISTERS, AcpiPm, DebugExit, PvPanic } from "@virtkit/legacy"
import { describe, expect, it } from "vitest"

function pm() {
  const seen = { off: 0, resets: 0, signals: 0 }
  const device = new AcpiPm({
    interrupt: { signal: () => seen.signals++ },
    onPowerOff: () => seen.off++,
    onReset: () => seen.resets++,
  })
  return { device, seen }
}

describe("AcpiPm", () => {
  it("powers off when S5 is entered, and only then", () => {
    const { device, seen } = pm()
    device.write(0, 1, 5 << 2)
    for (const type of [0, 1, 2, 3, 4, 6, 7]) device.write(0, 1, 0x20 | (type << 2))
    expect(seen.off).toBe(0)
    device.write(1, 1, 0x80)
    device.write(0, 1, 0x20 | (5 << 2))
    expect(seen).toEqual({ off: 1, resets: 0, signals: 0 })
    expect(device.read(0, 1)).toBe(5 << 2)
    expect(device.read(1, 1)).toBe(0)
  })

  it("resets when 1 is written to the reset register", () => {
    const { device, seen } = pm()
    device.write(ACPI_PM_REGISTERS.reset, 1, 0)
    device.write(ACPI_PM_REGISTERS.reset, 1, 6)
    expect(seen.resets).toBe(0)
    device.write(ACPI_PM_REGISTERS.reset, 1, 1)
    expect(seen.resets).toBe(1)
    expect(device.read(ACPI_PM_REGISTERS.reset, 1)).toBe(0)
  })

  it("shows the power button until its bit is written as 1", () => {
    const { device, seen } = pm()
    expect(device.read(4, 1)).toBe(0)
    device.pressPowerButton()
    expect(seen.signals).toBe(1)
    expect([device.read(4, 1), device.read(4, 1)]).toEqual([1, 1])
    device.write(4, 1, 0xfe)
    expect(device.read(4, 4)).toBe(1)
    device.write(4, 4, 1)
    expect(device.read(4, 1)).toBe(0)
    device.pressPowerButton()
    expect(seen.signals).toBe(2)
    expect(seen.off).toBe(0)
  })

  it("keeps several events apart, each until its bit is written as 1", () => {
    const { device, seen } = pm()
    device.raiseEvent(ACPI_EVENT_PCI_HOT_PLUG)
    device.pressPowerButton()
    expect(seen.signals).toBe(2)
    expect(device.read(4, 1)).toBe(3)
    device.write(4, 1, 1)
    expect(device.read(4, 1)).toBe(ACPI_EVENT_PCI_HOT_PLUG)
    device.write(4, 1, 2)
    expect(device.read(4, 1)).toBe(0)
    // The register has 8 bits: no more get into it, nor into the saved state.
    device.raiseEvent(0x180)
    expect(device.read(4, 1)).toBe(0x80)
  })

  it("has the PM1 registers of an ordinary machine, without events", () => {
    const { device, seen } = pm()
    const { pm1Event, pm1Control } = ACPI_PM_REGISTERS
    // Always in ACPI mode; what is enabled reads back, where an event exists.
    expect(device.read(pm1Control, 2)).toBe(1)
    device.write(pm1Event + 2, 2, 0xffff)
    expect(device.read(pm1Event, 4)).toBe(0x0720_0000)
    device.write(pm1Event, 2, 0xffff)
    expect(device.read(pm1Event, 2)).toBe(0)
    device.write(pm1Control, 2, (5 << 10) | 1)
    expect(seen.off).toBe(0)
    expect(device.read(pm1Control, 2)).toBe((5 << 10) | 1)
    device.write(pm1Control, 2, (1 << 13) | (5 << 10))
    expect(seen).toEqual({ off: 1, resets: 0, signals: 0 })
  })

  it("hands its state to a new one", () => {
    const { device } = pm()
    device.pressPowerButton()
    device.write(0, 1, 0x08)
    device.write(10, 2, 0x0120)
    const other = pm().device
    other.restore(structuredClone(device.state()))
    expect([other.read(0, 1), other.read(4, 1)]).toEqual([0x08, 1])
    expect(other.read(10, 2)).toBe(0x0120)
    expect(() => other.restore({ version: 2, sleepControl: 0, events: 0x100, pm1Enable: 0 })).toThrow(
      RestoreError,
    )
    expect(other.read(4, 1)).toBe(1)
  })
})

it("DebugExit hands on the value with its width", () => {
  const values: [number, number][] = []
  const device = new DebugExit({ onExit: (value, size) => values.push([value, size]) })
  device.write(0, 1, 0x11)
  device.write(0, 4, 0xfedcba98)
  expect(values).toEqual([
    [0x11, 1],
    [0xfedcba98, 4],
  ])
  expect(device.read(0, 4)).toBe(0)
})

it("PvPanic says what it understands and reports that alone", () => {
  const events: number[] = []
  const device = new PvPanic({ onPanic: (event) => events.push(event) })
  expect(device.read(0, 1)).toBe(3)
  for (const value of [0, 0xfc, 1, 2, 0xff]) device.write(0, 1, value)
  expect(events).toEqual([1, 2, 3])
})
