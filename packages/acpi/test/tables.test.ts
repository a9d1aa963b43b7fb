import { ACPI_AREA, type AcpiTables, acpiTable, aml, buildAcpiTables } from "@virtkit/acpi"
import { ConfigError } from "@virtkit/interface"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { fixedHardware, fullMachine, hex, text, viewOf } from "./machine.js"

function table(tables: AcpiTables, signature: string): Uint8Array {
  const found = tables.blobs.find((blob) => blob.signature === signature)
  if (!found) throw new Error(`no table ${signature}`)
  return found.bytes
}

function sum(bytes: Uint8Array): number {
  return bytes.reduce((total, byte) => (total + byte) & 0xff, 0)
}

describe("buildAcpiTables", () => {
  const tables = buildAcpiTables(fullMachine())

  it("links RSDP, XSDT, FADT, MADT and DSDT", () => {
    expect(tables.rsdpAddress).toBe(ACPI_AREA.start)
    const at = (address: number) => tables.blobs.find((blob) => blob.address === address)
    const rsdp = at(tables.rsdpAddress)?.bytes as Uint8Array
    const xsdt = at(viewOf(rsdp).getUint32(24, true))
    expect(xsdt?.signature).toBe("XSDT")
    const entries = viewOf(xsdt?.bytes as Uint8Array)
    const listed = [36, 44].map((offset) => at(Number(entries.getBigUint64(offset, true)))?.signature)
    expect(listed).toEqual(["FACP", "APIC"])
    const fadt = viewOf(table(tables, "FACP"))
    expect(at(fadt.getUint32(40, true))?.signature).toBe("DSDT")
    expect(at(Number(fadt.getBigUint64(140, true)))?.signature).toBe("DSDT")
  })

  it("gives the RSDP its two checksums (ACPI 5.2.5.3)", () => {
    const rsdp = table(tables, "RSD PTR ")
    expect(text(rsdp, 0, 8)).toBe("RSD PTR ")
    expect(rsdp[15]).toBe(2)
    expect(sum(rsdp.subarray(0, 20))).toBe(0)
    expect(sum(rsdp)).toBe(0)
  })

  it("describes a hardware-reduced machine in the FADT (ACPI 5.2.9)", () => {
    const bytes = table(tables, "FACP")
    const fadt = viewOf(bytes)
    expect(bytes.length).toBe(276)
    expect(bytes[8]).toBe(6)
    expect(bytes[131]).toBe(5)
    // HW_REDUCED_ACPI, RESET_REG_SUP, FIX_RTC, SLP_BUTTON, PWR_BUTTON, WBINVD.
    expect(fadt.getUint32(112, true)).toBe(0x100471)
    // No VGA; CMOS RTC there; no 8042 announced.
    expect(fadt.getUint16(109, true)).toBe(0x04)
    expect(bytes[108]).toBe(0x32)
    expect(bytes[128]).toBe(1)
    for (const [offset, port] of [
      [116, 0x602],
      [244, 0x600],
      [256, 0x601],
    ] as const) {
      expect([...bytes.subarray(offset, offset + 4)]).toEqual([1, 8, 0, 1])
      expect(Number(fadt.getBigUint64(offset + 4, true))).toBe(port)
    }
    // A hardware-reduced machine has none of the fixed registers.
    expect(bytes.subarray(48, 96).every((byte) => byte === 0)).toBe(true)
    expect(bytes.subarray(148, 244).every((byte) => byte === 0)).toBe(true)
  })

  it("describes fixed hardware in FADT, FACS and MADT where there is some (ACPI 4.8.3)", () => {
    const built = buildAcpiTables(fullMachine({ powerManagement: fixedHardware() }))
    const bytes = table(built, "FACP")
    const fadt = viewOf(bytes)
    // As above, but PROC_C1 in place of HW_REDUCED_ACPI.
    expect(fadt.getUint32(112, true)).toBe(0x475)
    const facs = built.blobs.find(({ address }) => address === fadt.getUint32(36, true))
    expect(facs?.signature).toBe("FACS")
    expect(facs?.bytes.length).toBe(64)
    expect((facs?.address ?? 1) % 64).toBe(0)
    expect(fadt.getUint16(46, true)).toBe(12)
    // No way to leave ACPI mode.
    expect(fadt.getUint32(48, true)).toBe(0)
    expect([fadt.getUint32(56, true), fadt.getUint32(64, true)]).toEqual([0x608, 0x60c])
    expect([fadt.getUint8(88), fadt.getUint8(89)]).toEqual([4, 2])
    expect([...bytes.subarray(148, 156)]).toEqual([1, 32, 0, 2, 0x08, 0x06, 0, 0])
    expect([...bytes.subarray(172, 180)]).toEqual([1, 16, 0, 2, 0x0c, 0x06, 0, 0])
    // No second block, no PM2, no timer, no general-purpose events.
    expect(bytes.subarray(68, 88).every((byte) => byte === 0)).toBe(true)
    expect(bytes.subarray(184, 244).every((byte) => byte === 0)).toBe(true)
    // PCAT_COMPAT.
    expect(viewOf(table(built, "APIC")).getUint32(40, true)).toBe(1)
    expect(viewOf(table(tables, "APIC")).getUint32(40, true)).toBe(0)
  })

  it("clears the power button's event before it tells of it", () => {
    const dsdt = Buffer.from(table(tables, "DSDT"))
    // Store (ESTS, Local0), Store (Local0, ESTS), If (And (Local0, One)) { Notify (PWRB, 0x80) }
    const body = "70 45 53 54 53 60  70 60 45 53 54 53  a0 0c 7b 60 01 00 86 50 57 52 42 0a 80"
    const method = Buffer.from(hex(`14 1f 5f 45 56 54 09 ${body}`))
    expect(dsdt.includes(method)).toBe(true)
  })

  it("leaves out what the machine has not", () => {
    const bare = buildAcpiTables({ cpus: [{ apicId: 0 }] })
    const fadt = viewOf(table(bare, "FACP"))
    expect(fadt.getUint32(112, true) & (1 << 10)).toBe(0)
    expect(fadt.getUint16(109, true)).toBe(0x24)
    const dsdt = Buffer.from(table(bare, "DSDT")).toString("latin1")
    for (const name of ["_S5_", "PWRB", "ACPI0013", "LNRO0005", "QEMU0001", "COM1"]) {
      expect(dsdt).not.toContain(name)
    }
  })

  it("lists processors and interrupt controllers in the MADT (ACPI 5.2.12)", () => {
    const machine = fullMachine({
      interruptOverrides: [
        { irq: 0, gsi: 2 },
        { irq: 9, gsi: 9, trigger: "level", polarity: "low" },
      ],
    })
    expect(madtEntries(table(buildAcpiTables(machine), "APIC"))).toEqual([
      [0, 8, 0, 0, 1, 0, 0, 0],
      [0, 8, 1, 2, 1, 0, 0, 0],
      [1, 12, 0, 0, 0x00, 0x00, 0xc0, 0xfe, 0, 0, 0, 0],
      [2, 10, 0, 0, 2, 0, 0, 0, 0x05, 0],
      [2, 10, 0, 9, 9, 0, 0, 0, 0x0f, 0],
      [4, 6, 0xff, 0, 0, 1],
    ])
  })

  it("lists processors as x2APICs from ID 255 on", () => {
    const entries = madtEntries(table(buildAcpiTables({ cpus: [{ apicId: 254 }, { apicId: 255 }] }), "APIC"))
    expect(entries[0]).toEqual([0, 8, 0, 254, 1, 0, 0, 0])
    expect(entries[1]).toEqual([9, 16, 0, 0, 255, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0])
    expect(entries.at(-1)).toEqual([10, 12, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0])
  })

  it("adds the tables and AML of others", () => {
    const extra = acpiTable("MCFG", 1, new Uint8Array(24))
    const machine = fullMachine({ extraTables: [extra], extraAml: [aml.name("\\EXTR", 0x1234)] })
    const built = buildAcpiTables(machine)
    expect(table(built, "MCFG")).toBe(extra)
    expect(viewOf(table(built, "XSDT")).byteLength).toBe(36 + 3 * 8)
    expect(Buffer.from(table(built, "DSDT")).toString("latin1")).toContain("EXTR\x0b\x34\x12")
  })

  it("keeps every checksum, length and place right for machines of any size", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 2000 }), fc.nat({ max: 256 }), (cpus, devices) => {
        const built = buildAcpiTables({
          ...fullMachine(),
          cpus: Array.from({ length: cpus }, (_, apicId) => ({ apicId })),
          virtioMmio: Array.from({ length: devices }, (_, n) => ({
            address: 0xd0000000 + n * 0x1000,
            gsi: n,
          })),
        })
        let end = ACPI_AREA.start
        for (const { signature, address, bytes } of built.blobs) {
          expect(address).toBeGreaterThanOrEqual(end)
          expect(address % 16).toBe(0)
          expect(sum(bytes)).toBe(0)
          if (signature !== "RSD PTR ") expect(viewOf(bytes).getUint32(4, true)).toBe(bytes.length)
          end = address + bytes.length
        }
        expect(end).toBeLessThanOrEqual(ACPI_AREA.end)
      }),
      { numRuns: 25 },
    )
  })

  it.each([
    ["no CPU", { cpus: [] }],
    ["two CPUs with one APIC ID", { cpus: [{ apicId: 3 }, { apicId: 3 }] }],
    ["a port that is none", { serialPorts: [{ port: 0x10000, gsi: 4 }] }],
    ["a device above 4 GiB", { virtioMmio: [{ address: 2 ** 32, gsi: 5 }] }],
    ["tables that do not fit", { extraTables: [acpiTable("BIGG", 1, new Uint8Array(0x20000))] }],
  ])("refuses %s", (_, overrides) => {
    expect(() => buildAcpiTables(fullMachine(overrides))).toThrow(ConfigError)
  })
})

function madtEntries(madt: Uint8Array): number[][] {
  expect(viewOf(madt).getUint32(36, true)).toBe(0xfee00000)
  const entries: number[][] = []
  for (let at = 44; at < madt.length; at += madt[at + 1] as number) {
    entries.push([...madt.subarray(at, at + (madt[at + 1] as number))])
  }
  return entries
}
