import { spawnSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { acpiTable, aml, buildAcpiTables, type MachineDescription } from "@virtkit/acpi"
import { afterAll, describe, expect, it } from "vitest"
import { fixedHardware, fullMachine, fullPci } from "./machine.js"

const hasIasl = spawnSync("iasl", ["-v"]).status === 0
const skipped = hasIasl ? "" : " (skipped: iasl is not installed, Debian's package is acpica-tools)"

const directory = mkdtempSync(join(tmpdir(), "virtkit-acpi-"))
afterAll(() => rmSync(directory, { recursive: true }))

/** Everything the AML builder can express. */
const everyTerm: aml.Aml[] = [
  aml.scope(
    "\\_SB",
    aml.device(
      "PCI0",
      aml.name("_HID", aml.eisaId("PNP0A08")),
      aml.name("_CID", aml.eisaId("PNP0A03")),
      aml.name("_UID", 0),
      aml.name("SUPP", 0),
      aml.name(
        "_CRS",
        aml.resourceTemplate(
          aml.wordSpace({ type: "bus", min: 0, max: 255 }),
          aml.io(0xcf8, 8),
          aml.wordSpace({ type: "io", min: 0, max: 0xcf7 }),
          aml.dwordSpace({ type: "memory", min: 0xc0000000, max: 0xcfffffff }),
          aml.qwordSpace({ type: "memory", min: 2 ** 40, max: 2 ** 41 - 1, prefetchable: true }),
        ),
      ),
      aml.name("_PRT", aml.pack(aml.pack(0xffff, 0, 0, 16), aml.pack(0x1ffff, 0, "LNKA", 0))),
      aml.device(
        "LNKA",
        aml.name("_HID", aml.eisaId("PNP0C0F")),
        aml.name("_UID", 1),
        aml.name("_PRS", aml.resourceTemplate(aml.interrupt([5, 10], { trigger: "level", shared: true }))),
        aml.name("_CRS", aml.resourceTemplate(aml.interrupt(5, { trigger: "level", shared: true }))),
        aml.method("_SRS", { args: 1 }),
      ),
      aml.method(
        "_OSC",
        { args: 4, serialized: true },
        aml.createDWordField(aml.arg(3), 0, "CDW1"),
        aml.ifThen(
          aml.equal(aml.arg(0), aml.uuid("33db4d5b-1ff7-401c-9657-7441c03dd766")),
          aml.createDWordField(aml.arg(3), 4, "CDW2"),
          aml.store("CDW2", "SUPP"),
        ),
        aml.otherwise(aml.or("CDW1", 4, "CDW1")),
        aml.returnValue(aml.arg(3)),
      ),
      aml.method(
        "LOOP",
        { args: 2 },
        aml.store(0, aml.local(0)),
        aml.whileDo(
          aml.logicalAnd(aml.less(aml.local(0), 4), aml.logicalNot(aml.greater(aml.arg(1), 8))),
          aml.add(aml.local(0), 1, aml.local(0)),
          aml.shiftLeft(aml.arg(0), aml.local(0), aml.local(1)),
          aml.subtract(aml.local(1), aml.and(aml.arg(1), 3), aml.local(1)),
        ),
        aml.returnValue(aml.shiftRight(aml.local(1), 2)),
      ),
      aml.method("RUNS", { args: 0 }, aml.returnValue(aml.call("LOOP", 1, 2))),
    ),
  ),
]

const machines: Record<string, MachineDescription> = {
  full: fullMachine(),
  bare: { cpus: [{ apicId: 0 }] },
  large: fullMachine({
    cpus: Array.from({ length: 300 }, (_, apicId) => ({ apicId })),
    virtioMmio: Array.from({ length: 64 }, (_, n) => ({
      address: 0xd0000000 + n * 0x1000,
      gsi: 16 + (n % 8),
    })),
    interruptOverrides: [{ irq: 0, gsi: 2 }],
  }),
  pci: fullMachine({ pci: fullPci() }),
  "pci-bare": {
    cpus: [{ apicId: 0 }],
    pci: { ecam: { address: 0xe0000000, buses: 1 }, windows: {}, interruptGsis: [5, 5, 5, 5] },
  },
  fixed: fullMachine({ pci: fullPci(), powerManagement: fixedHardware() }),
  "pci-ports": fullMachine({
    pci: fullPci({ rootPorts: Array.from({ length: 31 }, (_, n) => ({ device: n + 1, slot: n })) }),
  }),
  extended: fullMachine({
    extraAml: everyTerm,
    extraTables: [acpiTable("SLIT", 1, Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0, 10))],
  }),
}

describe.skipIf(!hasIasl)(`tables in the eyes of ACPICA's compiler${skipped}`, () => {
  const cases = Object.entries(machines).flatMap(([name, machine]) =>
    buildAcpiTables(machine).blobs.map((blob) => ({
      name,
      signature: blob.signature.trim(),
      bytes: blob.bytes,
    })),
  )

  // The RSDP has no table header, so iasl does not take it by itself.
  it.each(cases.filter(({ signature }) => signature !== "RSD PTR"))(
    "$name: $signature comes apart and back together",
    ({ name, signature, bytes }) => {
      const path = join(directory, `${name}-${signature.toLowerCase()}`)
      writeFileSync(`${path}.aml`, bytes)
      const said = iasl("-p", path, "-d", `${path}.aml`)
      // A wrong checksum or length is a warning of the disassembler.
      expect(said).not.toMatch(/warning|error|invalid|incorrect|unknown/i)
      // -oa: no optimisation, so that the very same bytes must come out.
      const compiled = iasl("-oa", "-p", `${path}-again`, "-tc", `${path}.dsl`)
      expect(compiled).toMatch(/0 Errors, 0 Warnings, 0 Remarks/)
      const again = readFileSync(`${path}-again.aml`)
      // iasl writes its own name into the header, from 28 on, which changes the checksum at 9.
      expect(again.subarray(36)).toEqual(Buffer.from(bytes.subarray(36)))
      expect(again.subarray(10, 28)).toEqual(Buffer.from(bytes.subarray(10, 28)))
    },
  )

  it("complains about a table that is wrong, so that silence means something", () => {
    const bytes = Uint8Array.from(acpiTable("DSDT", 2, aml.scope("\\_SB", aml.name("_HID", 1))))
    bytes[9] = ((bytes[9] as number) + 1) & 0xff
    const path = join(directory, "wrong")
    writeFileSync(`${path}.aml`, bytes)
    expect(iasl("-p", path, "-d", `${path}.aml`)).toMatch(/checksum/i)
  })
})

function iasl(...args: string[]): string {
  const { stdout, stderr } = spawnSync("iasl", args, { encoding: "utf8", cwd: directory })
  return stdout + stderr
}
