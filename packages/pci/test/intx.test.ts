import { PCI, PCI_COMMAND, PCI_STATUS } from "@virtkit/testkit"
import { describe, expect, it } from "vitest"
import { machine, msixOptions, TestFunction } from "./machine.js"

function added(pc: ReturnType<typeof machine>, device: number): TestFunction {
  const fn = new TestFunction(`fn${device}`, msixOptions(1))
  pc.bus.add(fn, { device })
  return fn
}

describe("INTx", () => {
  it("goes to the line that its device number gives", () => {
    const pc = machine()
    for (const device of [4, 5, 6, 7]) {
      added(pc, device).slot.setIntx(true)
      expect(pc.host.lines).toEqual([0, 1, 2, 3].map((line) => line + 4 <= device))
    }
  })

  it("is joined for those who share a line: it falls when the last lets go", () => {
    const pc = machine()
    const [a, b] = [added(pc, 1), added(pc, 5)]
    a.slot.setIntx(true)
    b.slot.setIntx(true)
    b.slot.setIntx(true)
    a.slot.setIntx(false)
    a.slot.setIntx(false)
    expect(pc.host.lineLog).toEqual([{ line: 1, asserted: true }])
    b.slot.setIntx(false)
    expect(pc.host.lineLog).toHaveLength(2)
    expect(pc.host.lines).toEqual([false, false, false, false])
  })

  it("shows in Interrupt Status; Interrupt Disable keeps it from the line alone", () => {
    const pc = machine()
    const at = { bus: 0, device: 4 }
    const fn = added(pc, 4)
    const status = () => pc.driver.readConfig(at, PCI.STATUS, 2) & PCI_STATUS.INTERRUPT
    expect(status()).toBe(0)
    fn.slot.setIntx(true)
    expect([status(), pc.host.lines[0]]).toEqual([PCI_STATUS.INTERRUPT, true])
    void pc.driver.command(at, PCI_COMMAND.INTX_DISABLE)
    expect([status(), pc.host.lines[0]]).toEqual([PCI_STATUS.INTERRUPT, false])
    void pc.driver.command(at, 0, PCI_COMMAND.INTX_DISABLE)
    expect(pc.host.lines[0]).toBe(true)
    fn.slot.setIntx(false)
    expect([status(), pc.host.lines[0]]).toEqual([0, false])
  })

  it("is silent while MSI-X is on", () => {
    const pc = machine()
    const at = { bus: 0, device: 4 }
    const fn = added(pc, 4)
    fn.slot.setIntx(true)
    pc.driver.setMsix(at, { enabled: true })
    expect(pc.host.lines[0]).toBe(false)
    fn.slot.setIntx(false)
    fn.slot.setIntx(true)
    expect(pc.driver.readConfig(at, PCI.STATUS, 2) & PCI_STATUS.INTERRUPT).toBe(0)
    pc.driver.setMsix(at, { enabled: false })
    expect(pc.host.lines[0]).toBe(true)
  })

  it("is swizzled over a root port", () => {
    const pc = machine()
    const port = pc.bus.addRootPort({ device: 7 })
    const fn = new TestFunction("one")
    port.plug(fn)
    fn.slot.setIntx(true)
    expect(pc.host.lines).toEqual([false, false, false, true])
  })

  it("does not exist for functions that say so", () => {
    const pc = machine()
    const fn = new TestFunction("one", { hasIntx: false })
    pc.bus.add(fn, { device: 4 })
    fn.slot.setIntx(true)
    expect(pc.host.lineLog).toEqual([])
    expect(pc.driver.readConfig({ bus: 0, device: 4 }, PCI.INTERRUPT_PIN, 1)).toBe(0)
  })
})
