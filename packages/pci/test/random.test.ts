import type { AccessSize } from "@virtkit/interface"
import { PCI, PCI_COMMAND, PCI_EXPRESS, type PciAddress } from "@virtkit/testkit"
import fc from "fast-check"
import { expect, it } from "vitest"
import { bar, ECAM, machine, msixOptions, TestFunction, WINDOWS } from "./machine.js"

/** Two functions on the root bus and one behind a port, of all kinds of BARs. */
function crowd() {
  const pc = machine()
  const one = new TestFunction("one", {
    bars: [bar(0, "io", 64), bar(2, "memory64", 0x1_0000, 0x2000, true), ...msixOptions(300).bars],
    msix: msixOptions(300).msix,
  })
  const vendor = { id: 9, body: new Uint8Array(14).fill(3), writable: new Uint8Array(14).fill(0x5a) }
  const two = new TestFunction("two", {
    bars: [bar(0, "memory32", 0x1000, 0x400), bar(4, "memory64", 2 ** 30, 16)],
    msix: { vectors: 5, bar: 0, tableOffset: 0x400, pbaOffset: 0x800 },
    capabilities: [vendor],
  })
  const three = new TestFunction("three", {
    bars: [bar(0, "io", 4), bar(1, "memory32", 0x1000), bar(2, "memory64", 0x4000, 4096, true)],
  })
  pc.bus.add(one)
  pc.bus.add(two)
  const port = pc.bus.addRootPort()
  port.plug(three)
  pc.bus.assignResources()
  return { ...pc, functions: [one, two, three], port }
}

type Crowd = ReturnType<typeof crowd>

const size = fc.constantFrom<AccessSize>(1, 2, 4)
const value = fc.oneof(
  fc.nat({ max: 0xffff_ffff }),
  fc.constantFrom(0, 1, 7, 0x47, 0x8000, 0xc000, 0x407, 0xffff_ffff, 0xd000_0000, 0x40, 0x1_0100),
)
const offset = fc.oneof(
  fc.nat({ max: 4095 }),
  fc.nat({ max: 255 }),
  fc.constantFrom<number>(PCI.COMMAND, 0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x3e, 0x48, 0x7e),
)
/** Where in guest physical memory or among the ports: in the windows and around them. */
const place = fc.record({
  window: fc.constantFrom<keyof typeof WINDOWS>("io", "memory32", "memory64"),
  offset: fc.oneof(fc.integer({ min: -8, max: 0x4_0000 }), fc.nat({ max: 0x2_0000_0000 })),
})
const step = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({ kind: fc.constant("config" as const), fn: fc.nat(3), offset, size, value }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant("conf1" as const), fn: fc.nat(3), offset, size, value }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant("bar" as const), fn: fc.nat(2), offset, size, value }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("access" as const), place, size, value }) },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("port" as const),
      port: fc.integer({ min: 0xcf6, max: 0xd00 }),
      size,
      value,
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("device" as const),
      fn: fc.nat(2),
      what: fc.nat(4),
      vector: fc.nat(310),
    }),
  },
)
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never

/** Addresses of the functions and the port, as numbered now. */
function addresses({ driver }: Crowd): PciAddress[] {
  const secondary = driver.readConfig({ bus: 0, device: 3 }, PCI.SECONDARY_BUS, 1)
  return [
    { bus: 0, device: 1 },
    { bus: 0, device: 2 },
    { bus: secondary, device: 0 },
    { bus: 0, device: 3 },
  ]
}

function run(pc: Crowd, action: Step): void {
  const { host, driver, conf1, functions } = pc
  switch (action.kind) {
    case "config":
    case "conf1": {
      const at = addresses(pc)[action.fn]!
      const config = action.kind === "config" ? driver : conf1
      void config.writeConfig(at, action.offset, action.size, action.value)
      config.readConfig(at, action.offset, action.size)
      break
    }
    case "bar": {
      const ranges = host.mappings.filter(({ address }) => address < ECAM || address > ECAM + 0x1000_0000)
      const range = ranges[(action.fn * 7 + action.offset) % ranges.length]!
      const address = range.address + (action.offset % range.size)
      void host.write(range.space, address, action.size, action.value)
      host.read(range.space, address, action.size)
      break
    }
    case "access": {
      const space = action.place.window === "io" ? "io" : "memory"
      const address = WINDOWS[action.place.window].address + action.place.offset
      host.read(space, address, action.size)
      void host.write(space, address, action.size, action.value)
      break
    }
    case "port":
      void host.write("io", action.port, action.size, action.value)
      host.read("io", action.port, action.size)
      break
    case "device": {
      const { slot } = functions[action.fn]!
      if (action.what < 2) slot.setIntx(action.what === 1)
      else if (action.what < 4) slot.setLiveReads(action.what === 2)
      else slot.msix(action.vector)?.signal()
    }
  }
}

/** Bytes that never change: IDs, class, header type, capability headers, MSI-X layout. */
function fixedBytes({ conf1 }: Crowd, at: PciAddress): string {
  const offsets = [0, 1, 2, 3, 8, 9, 10, 11, 14, 0x34, 0x3d]
  for (const { offset } of conf1.capabilities(at)) offsets.push(offset, offset + 1)
  return offsets.map((offset) => conf1.readConfig(at, offset, 1)).join(" ")
}

/** Each mapping lies where its kind may: configuration in the ECAM, BARs in a window. */
function checkMappings({ host }: Crowd): void {
  for (const { space, address, size, device } of host.mappings) {
    if (device.name === "PCI configuration ports") continue
    const ranges = device.name.endsWith(" configuration")
      ? [{ address: ECAM, size: 0x1000_0000 }]
      : space === "io"
        ? [WINDOWS.io]
        : [WINDOWS.memory32, WINDOWS.memory64]
    const inside = ranges.some(
      (range) => address >= range.address && address + size <= range.address + range.size,
    )
    if (!inside) throw new Error(`${device.name} at ${space} ${address.toString(16)}+${size}`)
  }
}

/** Both ways into configuration space show the same. */
function checkViews(pc: Crowd, at: PciAddress): void {
  for (let offset = 0; offset < 256; offset += 4) {
    const [ecam, ports] = [pc.driver, pc.conf1].map((config) => config.readConfig(at, offset, 4))
    if (ecam !== ports) throw new Error(`offset ${offset}: ${ecam} by the ECAM, ${ports} by the ports`)
  }
}

function checkLines({ host, functions, conf1 }: Crowd, all: PciAddress[]): void {
  const lines = [false, false, false, false]
  for (const [index] of functions.entries()) {
    const at = all[index]!
    if (index === 2 && !conf1.exists(at)) return
    const asserted = (conf1.readConfig(at, PCI.STATUS, 2) & 8) !== 0
    const disabled = (conf1.readConfig(at, PCI.COMMAND, 2) & PCI_COMMAND.INTX_DISABLE) !== 0
    const line = index === 2 ? 3 : at.device & 3
    if (asserted && !disabled) lines[line] = true
  }
  expect(host.lines).toEqual(lines)
}

it("bad-input #35 and #5: random accesses of configuration space, BARs and MSI-X tables", () => {
  fc.assert(
    fc.property(fc.array(step, { minLength: 1, maxLength: 80 }), (steps) => {
      const pc = crowd()
      const before = addresses(pc).map((at) => fixedBytes(pc, at))
      for (const action of steps) {
        run(pc, action)
        checkMappings(pc)
      }
      // The ports' address register may point anywhere; the drivers set it.
      const port = { bus: 0, device: 3 }
      void pc.driver.writeConfig(port, PCI.PRIMARY_BUS, 4, 0x0909_00)
      const all = addresses(pc)
      expect(all.map((at) => fixedBytes(pc, at))).toEqual(before)
      checkLines(pc, all)
      for (const at of all) checkViews(pc, at)
      // Decoding off: every BAR is gone.
      for (const at of all) void pc.driver.writeConfig(at, PCI.COMMAND, 2, 0)
      expect(pc.host.mappings).toHaveLength(1 + 5)
      // Function-level reset: as new.
      for (const at of all.slice(0, 3)) {
        const control = pc.driver.capabilities(at)[0]!.offset + PCI_EXPRESS.DEVICE_CONTROL
        void pc.driver.writeConfig(at, control, 2, PCI_EXPRESS.DEVICE_CONTROL_FLR)
      }
      expect(pc.host.lines).toEqual([false, false, false, false])
      for (const msi of pc.host.openMsis) msi.close()
      expect(() => pc.functions[0]!.slot.msix(0)?.signal()).not.toThrow()
    }),
    { numRuns: 150, seed: 20_240_229 },
  )
})

it("after any accesses, a saved state makes the same machine", () => {
  fc.assert(
    fc.property(fc.array(step, { minLength: 1, maxLength: 40 }), (steps) => {
      const pc = crowd()
      for (const action of steps) run(pc, action)
      const state = structuredClone(pc.bus.state())
      const copy = crowd()
      copy.bus.restore(state)
      expect(copy.bus.state()).toEqual(state)
      expect(copy.host.lines).toEqual(pc.host.lines)
    }),
    { numRuns: 40, seed: 20_240_229 },
  )
})
