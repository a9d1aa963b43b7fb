import { ascii, littleEndian } from "./aml/encoding.js"
import type { FixedHardware, MachineDescription } from "./description.js"
import { acpiTable, HEADER_SIZE, ioPortAddress } from "./table.js"

/** Bytes of a revision 6 FADT (ACPI 5.2.9). */
const FADT_SIZE = 276

/** Fixed feature flags (ACPI 5.2.9, table 5.10). */
const WBINVD = 1 << 0
const PROC_C1 = 1 << 2
const PWR_BUTTON = 1 << 4
const SLP_BUTTON = 1 << 5
const FIX_RTC = 1 << 6
const RESET_REG_SUP = 1 << 10
const HW_REDUCED_ACPI = 1 << 20

/** IA-PC boot architecture flags (ACPI 5.2.9.3). The 8042 is not announced: there is no keyboard behind it. */
const VGA_NOT_PRESENT = 1 << 2
const CMOS_RTC_NOT_PRESENT = 1 << 5

/** Where the MC146818 clock keeps the century; 0 when there is no clock. */
const RTC_CENTURY = 0x32

/** Bytes of the PM1 event and control blocks (ACPI 4.8.3.1, 4.8.3.2). */
const PM1_EVT_LEN = 4
const PM1_CNT_LEN = 2
/** Latencies above 100 and 1000 us say that there is neither C2 nor C3. */
const NO_C2_LATENCY = 101
const NO_C3_LATENCY = 1001

/** Where the tables are that the FADT refers to. `facs` is of no use to a hardware-reduced machine. */
export interface FadtReferences {
  readonly dsdt: number
  readonly facs: number | undefined
}

/** The fixed ACPI description table. */
export function fadt(machine: MachineDescription, { dsdt, facs }: FadtReferences): Uint8Array {
  const table = new Uint8Array(FADT_SIZE)
  const put = (offset: number, value: number, size: number): void =>
    table.set(littleEndian(value, size), offset)
  const { powerManagement: pm, rtc } = machine
  put(40, dsdt, 4)
  put(108, rtc ? RTC_CENTURY : 0, 1)
  put(109, VGA_NOT_PRESENT | (rtc ? 0 : CMOS_RTC_NOT_PRESENT), 2)
  // Power and sleep buttons are control method devices or absent; no wake-up from the clock.
  const flags = WBINVD | PWR_BUTTON | SLP_BUTTON | FIX_RTC | (pm ? RESET_REG_SUP : 0)
  put(112, flags | (pm?.fixedHardware ? PROC_C1 : HW_REDUCED_ACPI), 4)
  put(131, 5, 1)
  put(140, dsdt, 8)
  if (pm) {
    table.set(ioPortAddress(pm.reset.port), 116)
    put(128, pm.reset.value, 1)
    table.set(ioPortAddress(pm.sleepControlPort), 244)
    table.set(ioPortAddress(pm.sleepStatusPort), 256)
  }
  if (pm?.fixedHardware) putFixedHardware(table, pm.fixedHardware, facs ?? 0)
  return acpiTable("FACP", 6, table.subarray(HEADER_SIZE))
}

/** What only a machine has that is not hardware-reduced. No SMI_CMD: it is always in ACPI mode. */
function putFixedHardware(table: Uint8Array, hardware: FixedHardware, facs: number): void {
  const { eventPort, controlPort, gsi } = hardware
  const view = new DataView(table.buffer)
  view.setUint32(36, facs, true)
  view.setUint16(46, gsi, true)
  view.setUint32(56, eventPort, true)
  view.setUint32(64, controlPort, true)
  view.setUint8(88, PM1_EVT_LEN)
  view.setUint8(89, PM1_CNT_LEN)
  view.setUint16(96, NO_C2_LATENCY, true)
  view.setUint16(98, NO_C3_LATENCY, true)
  table.set(ioPortAddress(eventPort, PM1_EVT_LEN), 148)
  table.set(ioPortAddress(controlPort, PM1_CNT_LEN), 172)
}

/** The firmware ACPI control structure (ACPI 5.2.10): the global lock, which nobody else takes, and no waking vector. */
export function facs(): Uint8Array {
  const table = new Uint8Array(64)
  table.set(ascii("FACS"), 0)
  table[4] = table.length
  table[32] = 2
  return table
}
