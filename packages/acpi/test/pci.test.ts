import { execFile, spawnSync } from "node:child_process"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { promisify } from "node:util"
import { aml, buildAcpiTables, type MachineDescription, type PciHostDescription } from "@virtkit/acpi"
import { ConfigError } from "@virtkit/interface"
import { afterAll, describe, expect, it } from "vitest"
import { fullMachine, fullPci, viewOf } from "./machine.js"

function table(machine: MachineDescription, signature: string): Buffer {
  const found = buildAcpiTables(machine).blobs.find((blob) => blob.signature === signature)
  if (!found) throw new Error(`no table ${signature}`)
  return Buffer.from(found.bytes)
}

function dsdtOf(pci: Partial<PciHostDescription>): Buffer {
  return table(fullMachine({ pci: fullPci(pci) }), "DSDT")
}

function has(bytes: Buffer, piece: aml.Aml): boolean {
  return bytes.includes(Buffer.from(piece))
}

describe("MCFG", () => {
  it("says where configuration space is (PCI Firmware 3.3, section 4.1.2)", () => {
    const ecam = { address: 0xb0000000, buses: 32 }
    const mcfg = viewOf(table(fullMachine({ pci: fullPci({ ecam }) }), "MCFG"))
    expect(mcfg.byteLength).toBe(60)
    expect(mcfg.getBigUint64(44, true)).toBe(0xb0000000n)
    expect([mcfg.getUint16(52, true), mcfg.getUint8(54), mcfg.getUint8(55)]).toEqual([0, 0, 31])
  })

  it("comes with a host bridge alone", () => {
    const signatures = buildAcpiTables(fullMachine()).blobs.map((blob) => blob.signature)
    expect(signatures).not.toContain("MCFG")
    expect(table(fullMachine(), "DSDT").includes("PCI0")).toBe(false)
  })
})

describe("the host bridge in the DSDT", () => {
  it("has buses, ports and memory as its resources", () => {
    const crs = aml.name(
      "_CRS",
      aml.resourceTemplate(
        aml.wordSpace({ type: "bus", min: 0, max: 255 }),
        aml.io(0xcf8, 8),
        aml.wordSpace({ type: "io", min: 0x1000, max: 0xffff }),
        aml.dwordSpace({ type: "memory", min: 0xc0000000, max: 0xcfffffff }),
        aml.qwordSpace({ type: "memory", min: 2 ** 40, max: 2 ** 40 + 2 ** 39 - 1 }),
      ),
    )
    expect(has(dsdtOf({}), crs)).toBe(true)
  })

  it("leaves out the windows and the access by ports that are not there", () => {
    const crs = aml.name("_CRS", aml.resourceTemplate(aml.wordSpace({ type: "bus", min: 0, max: 3 })))
    const ecam = { address: 0xe0000000, buses: 4 }
    expect(has(dsdtOf({ ecam, windows: {}, conf1: false }), crs)).toBe(true)
  })

  it("has two 32-bit windows where something lies between them", () => {
    const low = { address: 0xc0000000, size: 0x20000000 }
    const high = { address: 0xe0100000, size: 0x1eb00000 }
    const crs = aml.resourceTemplate(
      aml.wordSpace({ type: "bus", min: 0, max: 0 }),
      aml.dwordSpace({ type: "memory", min: 0xc0000000, max: 0xdfffffff }),
      aml.dwordSpace({ type: "memory", min: 0xe0100000, max: 0xfebfffff }),
    )
    const ecam = { address: 0xe0000000, buses: 1 }
    expect(
      has(dsdtOf({ ecam, windows: { memory32: [low, high] }, conf1: false }), aml.name("_CRS", crs)),
    ).toBe(true)
    const beyond = [low, { ...high, size: 0x20000000 }]
    expect(() => dsdtOf({ ecam, windows: { memory32: beyond } })).toThrow(ConfigError)
  })

  it("reserves ECAM and the ports of the hot-plug controller as motherboard resources", () => {
    const reserved = (...resources: aml.Aml[]): aml.Aml =>
      aml.concat([
        aml.name("_HID", aml.eisaId("PNP0C02")),
        aml.name("_UID", 0),
        aml.name("_CRS", aml.resourceTemplate(...resources)),
      ])
    const ecam = { address: 0xb0000000, buses: 16 }
    const memory = aml.memory32Fixed(0xb0000000, 16 << 20)
    expect(has(dsdtOf({ ecam }), reserved(memory, aml.io(0x620, 12)))).toBe(true)
    const cold: PciHostDescription = { ecam, windows: {}, interruptGsis: [5, 6, 7, 10] }
    expect(has(table(fullMachine({ pci: cold }), "DSDT"), reserved(memory))).toBe(true)
  })

  it("routes the four pins of 32 devices, swizzled (PCI Express base 2.2.8.1)", () => {
    const entries = Array.from({ length: 128 }, (_, index) => {
      const [device, pin] = [index >> 2, index & 3]
      const gsi = [20, 21, 22, 23][(device + pin) & 3] as number
      return aml.pack(device * 0x10000 + 0xffff, pin, 0, gsi)
    })
    const prt = aml.name("_PRT", aml.pack(...entries))
    expect(has(dsdtOf({ interruptGsis: [20, 21, 22, 23] }), prt)).toBe(true)
  })

  it("routes what is behind a root port as that port's own pins", () => {
    const port = aml.concat([
      aml.name("_ADR", 0x6_0000),
      aml.name(
        "_PRT",
        aml.pack(
          aml.pack(0xffff, 0, 0, 22),
          aml.pack(0xffff, 1, 0, 23),
          aml.pack(0xffff, 2, 0, 20),
          aml.pack(0xffff, 3, 0, 21),
        ),
      ),
    ])
    const rootPorts = [{ device: 6, slot: 3 }]
    expect(has(dsdtOf({ interruptGsis: [20, 21, 22, 23], rootPorts }), port)).toBe(true)
  })

  it("lets nothing be ejected where there is no hot plug", () => {
    const cold = table(
      fullMachine({
        pci: {
          ecam: { address: 0xe0000000, buses: 2 },
          windows: {},
          interruptGsis: [5, 6, 7, 10],
          rootPorts: [{ device: 1, slot: 0 }],
        },
      }),
      "DSDT",
    )
    expect(cold.includes("S01_")).toBe(true)
    for (const name of ["_EJ0", "HPEV", "HPRG"]) expect(cold.includes(name), name).toBe(false)
  })

  it.each<[string, Partial<PciHostDescription>]>([
    ["no bus", { ecam: { address: 0xe0000000, buses: 0 } }],
    ["more buses than there are numbers", { ecam: { address: 0, buses: 257 } }],
    ["ECAM between two buses", { ecam: { address: 0xe0080000, buses: 1 } }],
    ["ECAM that ends above 4 GiB", { ecam: { address: 0xfff00000, buses: 2 } }],
    ["ports above 64 Ki", { windows: { io: { address: 0xf000, size: 0x1001 } } }],
    ["a 32-bit window above 4 GiB", { windows: { memory32: { address: 0xf0000000, size: 0x10000001 } } }],
    ["an empty window", { windows: { memory64: { address: 2 ** 40, size: 0 } } }],
    ["two root ports in one place", { rootPorts: [1, 2].map((slot) => ({ device: 3, slot })) }],
    ["two root ports with one slot number", { rootPorts: [1, 2].map((device) => ({ device, slot: 0 })) }],
    ["a device that is none", { rootPorts: [{ device: 32, slot: 0 }] }],
    ["a slot without a bit", { rootPorts: [{ device: 1, slot: 32 }] }],
  ])("refuses %s", (_, overrides) => {
    expect(() => dsdtOf(overrides)).toThrow(ConfigError)
  })

  it("refuses hot plug without the event device", () => {
    expect(() => buildAcpiTables({ cpus: [{ apicId: 0 }], pci: fullPci() })).toThrow(/powerButton/)
  })
})

const hasAcpiexec = spawnSync("acpiexec", ["-?"]).error === undefined
const skipped = hasAcpiexec ? "" : " (skipped: acpiexec is not installed, Debian's package is acpica-tools)"

// Concurrent, because acpiexec waits a second before it ends.
describe.skipIf(!hasAcpiexec).concurrent(`its methods, run by ACPICA's interpreter${skipped}`, () => {
  const directory = mkdtempSync(join(tmpdir(), "virtkit-acpi-pci-"))
  afterAll(() => rmSync(directory, { recursive: true }))

  /** What ACPICA says to a command of its debugger. I/O regions are memory that starts as zeros. */
  async function interpret(machine: MachineDescription, command: string): Promise<string> {
    const path = join(mkdtempSync(join(directory, "run-")), "dsdt.aml")
    writeFileSync(path, table(machine, "DSDT"))
    const { stdout, stderr } = await promisify(execFile)("acpiexec", ["-b", command, path])
    expect(stdout + stderr).not.toMatch(/error|warning|excess|exception/i)
    return stdout
  }

  const hostBridge = "5b 4d db 33 f7 1f 1c 40 96 57 74 41 c0 3d d7 66"
  it.each<[string, string, number, string, string]>([
    [
      "masks all but the PCI Express capability",
      hostBridge,
      1,
      "1f 01 00 00",
      "10 00 00 00 1f 00 00 00 10 00 00 00",
    ],
    ["grants less without a word", hostBridge, 1, "10 00 00 00", "00 00 00 00 1f 00 00 00 10 00 00 00"],
    ["grants nothing unasked", hostBridge, 1, "00 00 00 00", "00 00 00 00 1f 00 00 00 00 00 00 00"],
    [
      "says that it knows revision 1 only",
      hostBridge,
      2,
      "10 00 00 00",
      "08 00 00 00 1f 00 00 00 10 00 00 00",
    ],
    [
      "says that it does not know another UUID",
      hostBridge.replace("5b", "5c"),
      1,
      "1f 00 00 00",
      "04 00 00 00 1f 00 00 00 1f 00 00 00",
    ],
  ])("_OSC %s", async (_, uuid, revision, control, expected) => {
    const said = await interpret(
      fullMachine({ pci: fullPci() }),
      `evaluate \\_SB.PCI0._OSC (${uuid}) ${revision} 3 (00 00 00 00 1f 00 00 00 ${control})`,
    )
    expect(said.toLowerCase()).toContain(`0000: ${expected} `)
  })

  /** A machine with a method \TEST that sets the registers of the hot-plug controller and the event status first. */
  function withEvents(inserted: number, leaving: number, events: number): MachineDescription {
    const test = aml.method(
      "\\TEST",
      { args: 0, serialized: true },
      aml.store(inserted, "\\_SB.PCI0.HPIN"),
      aml.store(leaving, "\\_SB.PCI0.HPRM"),
      aml.store(events, "\\_SB.GED.ESTS"),
      aml.call("\\_SB.GED._EVT", 9),
    )
    return fullMachine({ pci: fullPci(), extraAml: [test] })
  }

  /** Sorted: the interpreter delivers them by threads of their own. */
  function notifications(said: string): string[] {
    const found = said.matchAll(/Received a \w+ Notify on \[(\w+)\].* Value (0x\w+)/g)
    return Array.from(found, ([, object, value]) => `${object} ${value}`).sort()
  }

  it("the event method tells each slot what happened to it", async () => {
    expect(notifications(await interpret(withEvents(0x8000_0000, 0x1, 2), "execute \\TEST"))).toEqual([
      "P00_ 0x03",
      "P1F_ 0x01",
    ])
    expect(notifications(await interpret(withEvents(0x8000_0001, 0, 3), "execute \\TEST"))).toEqual([
      "P00_ 0x01",
      "P1F_ 0x01",
      "PWRB 0x80",
    ])
  })

  it("the event method looks at the controller only when the event is its own", async () => {
    expect(notifications(await interpret(withEvents(0x8000_0001, 0x1, 1), "execute \\TEST"))).toEqual([
      "PWRB 0x80",
    ])
    expect(notifications(await interpret(withEvents(0x8000_0001, 0x1, 0), "execute \\TEST"))).toEqual([])
  })

  it("the event method clears by writing back what it read", async () => {
    // In the interpreter's memory "write ones to clear" shows as: the register still has the bits.
    const machine = withEvents(0x5, 0x8000_0000, 2)
    const check = aml.method(
      "\\SEEN",
      { args: 0, serialized: true },
      aml.call("\\TEST"),
      aml.returnValue(aml.or(aml.shiftLeft("\\_SB.PCI0.HPRM", 32), "\\_SB.PCI0.HPIN")),
    )
    const said = await interpret(
      { ...machine, extraAml: [...(machine.extraAml ?? []), check] },
      "evaluate \\SEEN",
    )
    expect(said).toMatch(/\[Integer\] = 8000000000000005/)
  })

  it.each([
    ["S01.P00", 0x1],
    ["S1F.P1F", 0x8000_0000],
  ])("_EJ0 of %s writes the bit of its slot", async (port, bit) => {
    const test = aml.method(
      "\\TEST",
      { args: 0, serialized: true },
      aml.call(`\\_SB.PCI0.${port}._EJ0`, 1),
      aml.returnValue("\\_SB.PCI0.HPEJ"),
    )
    const said = await interpret(fullMachine({ pci: fullPci(), extraAml: [test] }), "evaluate \\TEST")
    expect(said).toContain(`[Integer] = ${bit.toString(16).toUpperCase().padStart(16, "0")}`)
  })
})
