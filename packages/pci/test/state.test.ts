import { RestoreError } from "@virtkit/interface"
import type { PciBusState } from "@virtkit/pci"
import { PCI, PCI_COMMAND } from "@virtkit/testkit"
import { describe, expect, it } from "vitest"
import { bar, machine, msixOptions, TestFunction } from "./machine.js"

const ROOT = { bus: 0, device: 1 }

function twoFunctions() {
  const pc = machine()
  const options = msixOptions(65)
  const body = Uint8Array.of(6, 0, 0, 0)
  const capability = { id: 9, body, writable: Uint8Array.of(0, 0xff, 0, 0), written: () => undefined }
  const one = new TestFunction("one", { ...options, capabilities: [capability] })
  const two = new TestFunction("two", { bars: [bar(0, "memory64", 0x2000)] })
  pc.bus.add(one)
  const port = pc.bus.addRootPort()
  port.plug(two)
  return { ...pc, one, two, port, body }
}

/** As a guest leaves it that has set everything up. */
function inUse() {
  const pc = twoFunctions()
  const { driver, bus, one, two } = pc
  bus.assignResources()
  void driver.command(ROOT, PCI_COMMAND.BUS_MASTER)
  driver.setMsix(ROOT, { enabled: true })
  driver.setMsixEntry(ROOT, 0, { address: 0xfee0_0000, data: 0x41 })
  driver.setMsixEntry(ROOT, 64, { address: 0xfee0_1000, data: 0x42, masked: true })
  one.slot.msix(64)?.signal()
  void driver.writeConfig(ROOT, driver.capability(ROOT, 9) + 3, 1, 0x33)
  two.slot.setIntx(true)
  one.saved = { one: 1 }
  two.saved = { two: 2 }
  driver.access.write("io", 0xcf8, 4, 0x8000_0810)
  return pc
}

const mapped = ({ host }: ReturnType<typeof machine>) =>
  host.mappings.map(({ space, address, size, device }) => `${space} ${address}+${size} ${device.name}`).sort()

describe("state", () => {
  it("comes back: configuration, places, MSI-X, interrupts, functions", () => {
    const from = inUse()
    const state = structuredClone(from.bus.state())
    const to = twoFunctions()
    to.bus.restore(state)
    expect(to.bus.state()).toEqual(state)
    expect(mapped(to)).toEqual(mapped(from))
    expect([to.one.saved, to.two.saved, to.body[1]]).toEqual([{ one: 1 }, { two: 2 }, 0x33])
    expect(to.host.lines).toEqual(from.host.lines)
    expect(to.one.slot.busMaster).toBe(true)
    expect(to.driver.access.read("io", 0xcf8, 4)).toBe(0x8000_0810)
    expect(to.host.msis.map(({ address, data, count }) => [address, data, count])).toEqual([
      [0xfee0_0000, 0x41, 0],
    ])
    to.driver.maskMsix(ROOT, 64, false)
    expect(to.host.msis[1]?.count).toBe(1)
    to.two.slot.setIntx(false)
    expect(to.host.lines.some((level) => level)).toBe(false)
    // What has not changed since is not told as a change.
    to.one.log.length = 0
    void to.driver.command(ROOT, PCI_COMMAND.BUS_MASTER)
    expect(to.one.log).toEqual([])
  })

  it("bad-input #31: states that do not fit change nothing", () => {
    const good = structuredClone(inUse().bus.state())
    const [fn] = good.functions
    const [port] = good.rootPorts
    const { msix } = fn!
    const otherIds = fn!.config.slice()
    otherIds[PCI.DEVICE_ID]! ^= 1
    const otherHeader = port!.config.slice()
    otherHeader[PCI.HEADER_TYPE] = 0
    const otherBar = fn!.config.slice()
    otherBar[PCI.BAR0 + 4]! |= 0x10
    const withFunction = (change: object): unknown => ({ ...good, functions: [{ ...fn, ...change }] })
    const withPort = (change: object): unknown => ({ ...good, rootPorts: [{ ...port, ...change }] })
    const wrong: unknown[] = [
      null,
      "state",
      {},
      { ...good, version: 2 },
      { ...good, kind: "mmio" },
      { ...good, configAddress: "0" },
      { ...good, hostBridge: undefined },
      { ...good, hostBridge: { config: good.hostBridge.config.slice(0, 255) } },
      { ...good, functions: [] },
      { ...good, functions: [fn, fn] },
      { ...good, functions: { length: 1 } },
      { ...good, functions: [null] },
      { ...good, rootPorts: [] },
      withFunction({ device: 2 }),
      withFunction({ config: [...fn!.config] }),
      withFunction({ config: Uint8Array.of(...fn!.config, 0) }),
      withFunction({ config: otherIds }),
      withFunction({ config: otherBar }),
      withFunction({ intx: 1 }),
      withFunction({ msix: null }),
      withFunction({ msix: { ...msix, table: new Uint8Array(64 * 16) } }),
      withFunction({ msix: { ...msix, pending: new Uint8Array(8) } }),
      withFunction({ msix: { ...msix, pending: { length: 16 } } }),
      withPort({ device: 1 }),
      withPort({ config: otherHeader }),
      withPort({ child: null }),
      withPort({ child: { ...port!.child, msix } }),
    ]
    const pc = twoFunctions()
    const before = structuredClone(pc.bus.state())
    for (const state of wrong) {
      expect(() => pc.bus.restore(state)).toThrow(RestoreError)
      expect(pc.bus.state()).toEqual(before)
    }
    expect(pc.host.msis).toEqual([])
    expect([pc.one.log, pc.two.log]).toEqual([["attach"], ["attach"]])
    pc.bus.restore(good)
  })

  it("errors in the status register come back, and go when the guest writes 1", () => {
    const state = structuredClone(inUse().bus.state())
    state.functions[0]!.config[PCI.STATUS + 1] = 0xf9
    const pc = twoFunctions()
    pc.bus.restore(state)
    void pc.driver.writeConfig(ROOT, PCI.STATUS, 2, 0x8110)
    expect(pc.driver.readConfig(ROOT, PCI.STATUS, 2)).toBe(0x7810)
  })

  it("a state with a function behind an empty port is refused", () => {
    const good = structuredClone(inUse().bus.state()) as PciBusState
    const pc = machine()
    pc.bus.add(new TestFunction("one", msixOptions(65)))
    pc.bus.addRootPort()
    const functions = structuredClone(pc.bus.state().functions)
    expect(() => pc.bus.restore({ ...good, functions })).toThrow("the state has a function")
  })
})

it("describes itself for ACPI tables", () => {
  const { bus } = twoFunctions()
  expect(bus.description.rootPorts).toEqual([{ device: 2 }])
  expect(bus.description.ecam.buses).toBe(256)
  expect(bus.functions.map(({ address, function: { name } }) => `${address} ${name}`)).toEqual([
    "00:01.0 one",
    "00:00.0 two",
  ])
})
