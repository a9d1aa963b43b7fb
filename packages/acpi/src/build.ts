import { ConfigError } from "@virtkit/interface"
import { ascii, concat, littleEndian } from "./aml/encoding.js"
import type { MachineDescription } from "./description.js"
import { dsdt } from "./dsdt.js"
import { facs, fadt } from "./fadt.js"
import { madt } from "./madt.js"
import { checkPci, mcfg } from "./pci.js"
import { acpiTable, checksum } from "./table.js"

/** A range of guest physical addresses, [start, end). */
export interface AcpiArea {
  readonly start: number
  readonly end: number
}

/** Where the tables lie; the RSDP at its start, where Linux looks for it even when nobody tells it. */
export const ACPI_AREA: AcpiArea = { start: 0xe0000, end: 0x100000 }

const ALIGNMENT = 64

/** Bytes to be written to guest memory before the guest starts. */
export interface AcpiBlob {
  /** Signature of the table, for listings. */
  readonly signature: string
  readonly address: number
  readonly bytes: Uint8Array
}

export interface AcpiTables {
  /** Guest physical address of the root pointer, for boot_params and hvm_start_info. */
  readonly rsdpAddress: number
  readonly blobs: readonly AcpiBlob[]
}

/**
 * The ACPI tables of a machine (RSDP, XSDT, FADT, MADT, MCFG, DSDT and `extraTables`), placed in `area`, which the guest's
 * memory map must reserve.
 * Throws {@link ConfigError} when the description contradicts itself or the tables do not fit.
 */
export function buildAcpiTables(machine: MachineDescription, area: AcpiArea = ACPI_AREA): AcpiTables {
  check(machine)
  const blobs: AcpiBlob[] = []
  let next = area.start + ALIGNMENT
  const place = (bytes: Uint8Array): number => {
    const address = next
    next = Math.ceil((address + bytes.length) / ALIGNMENT) * ALIGNMENT
    blobs.push({ signature: String.fromCharCode(...bytes.subarray(0, 4)), address, bytes })
    return address
  }
  const dsdtAddress = place(dsdt(machine))
  const facsAddress = machine.powerManagement?.fixedHardware ? place(facs()) : undefined
  const tables = [fadt(machine, { dsdt: dsdtAddress, facs: facsAddress }), madt(machine)]
  if (machine.pci) tables.push(mcfg(machine.pci))
  const listed = [...tables, ...(machine.extraTables ?? [])].map(place)
  const xsdtAddress = place(acpiTable("XSDT", 1, concat(listed.map((address) => littleEndian(address, 8)))))
  if (next > area.end) {
    const [used, room] = [next - area.start, area.end - area.start]
    throw new ConfigError(
      `the ACPI tables take ${used} bytes, the area for them has ${room}: describe fewer devices`,
    )
  }
  blobs.unshift({ signature: "RSD PTR ", address: area.start, bytes: rsdp(xsdtAddress) })
  return { rsdpAddress: area.start, blobs }
}

/** The root system description pointer, revision 2 (ACPI 5.2.5.3). There is no 32-bit RSDT. */
function rsdp(xsdtAddress: number): Uint8Array {
  const bytes = new Uint8Array(36)
  bytes.set(ascii("RSD PTR "), 0)
  bytes.set(ascii("VRTKIT"), 9)
  bytes[15] = 2
  bytes.set(littleEndian(bytes.length, 4), 20)
  bytes.set(littleEndian(xsdtAddress, 8), 24)
  // The first checksum covers the 20 bytes of ACPI 1.0, the second one all.
  bytes[8] = checksum(bytes.subarray(0, 20))
  bytes[32] = checksum(bytes)
  return bytes
}

function check(machine: MachineDescription): void {
  const { cpus, virtioMmio = [], serialPorts = [], pci, powerManagement } = machine
  if (cpus.length < 1 || cpus.length > 4096)
    throw new ConfigError(`a machine has 1 to 4096 CPUs, not ${cpus.length}`)
  if (new Set(cpus.map(({ apicId }) => apicId)).size !== cpus.length) {
    throw new ConfigError("two CPUs have the same APIC ID")
  }
  if (virtioMmio.length > 256)
    throw new ConfigError(`at most 256 virtio-mmio devices, not ${virtioMmio.length}`)
  if (serialPorts.length > 15) throw new ConfigError(`at most 15 serial ports, not ${serialPorts.length}`)
  if (pci) checkPci(pci, powerManagement?.powerButton !== undefined)
}
