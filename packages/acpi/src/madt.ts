import { concat, littleEndian } from "./aml/encoding.js"
import type { CpuDescription, InterruptOverride, MachineDescription } from "./description.js"
import { acpiTable } from "./table.js"

/** Where every local APIC is after reset. */
const LOCAL_APIC_ADDRESS = 0xfee00000
/** IDs from here on do not fit into an xAPIC entry: 255 is its broadcast ID. */
const FIRST_X2APIC_ONLY_ID = 255
const ENABLED = 1
/** There are two 8259s beside the I/O APIC. */
const PCAT_COMPAT = 1

/** The multiple APIC description table: processors and interrupt controllers (ACPI 5.2.12). */
export function madt(machine: MachineDescription): Uint8Array {
  const { id, address, gsiBase } = machine.ioApic ?? { id: 0, address: 0xfec00000, gsiBase: 0 }
  const x2apic = machine.cpus.some(({ apicId }) => apicId >= FIRST_X2APIC_ONLY_ID)
  const entries = [
    ...machine.cpus.map(processor),
    entry(1, [id, 0], littleEndian(address, 4), littleEndian(gsiBase, 4)),
    ...(machine.interruptOverrides ?? []).map(override),
    // LINT1 of every processor is the non-maskable interrupt, as on PCs.
    entry(4, [0xff], littleEndian(0, 2), Uint8Array.of(1)),
    ...(x2apic
      ? [entry(10, [], littleEndian(0, 2), littleEndian(0xffff_ffff, 4), Uint8Array.of(1, 0, 0, 0))]
      : []),
  ]
  const flags = machine.powerManagement?.fixedHardware ? PCAT_COMPAT : 0
  const head = [littleEndian(LOCAL_APIC_ADDRESS, 4), littleEndian(flags, 4)]
  return acpiTable("APIC", 5, concat([...head, ...entries]))
}

function processor({ apicId }: CpuDescription, uid: number): Uint8Array {
  if (apicId < FIRST_X2APIC_ONLY_ID && uid < 255) return entry(0, [uid, apicId], littleEndian(ENABLED, 4))
  return entry(9, [0, 0], littleEndian(apicId, 4), littleEndian(ENABLED, 4), littleEndian(uid, 4))
}

function override({ irq, gsi, trigger, polarity }: InterruptOverride): Uint8Array {
  const flags = (polarity === "low" ? 3 : 1) | ((trigger === "level" ? 3 : 1) << 2)
  return entry(2, [0, irq], littleEndian(gsi, 4), littleEndian(flags, 2))
}

/** One interrupt controller structure: type, its length, content. */
function entry(type: number, bytes: readonly number[], ...rest: Uint8Array[]): Uint8Array {
  const content = concat([Uint8Array.from(bytes), ...rest])
  return concat([Uint8Array.of(type, content.length + 2), content])
}
