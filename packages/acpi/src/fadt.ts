import { littleEndian } from "./aml/encoding.js"
import type { MachineDescription } from "./description.js"
import { acpiTable, HEADER_SIZE, ioPortAddress } from "./table.js"

/** Bytes of a revision 6 FADT (ACPI 5.2.9). */
const FADT_SIZE = 276

/** Fixed feature flags (ACPI 5.2.9, table 5.10). */
const WBINVD = 1 << 0
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

/** The fixed ACPI description table of a hardware-reduced machine, whose DSDT lies at `dsdtAddress`. */
export function fadt(machine: MachineDescription, dsdtAddress: number): Uint8Array {
  const table = new Uint8Array(FADT_SIZE)
  const put = (offset: number, value: number, size: number): void =>
    table.set(littleEndian(value, size), offset)
  const { powerManagement: pm, rtc } = machine
  put(40, dsdtAddress, 4)
  put(108, rtc ? RTC_CENTURY : 0, 1)
  put(109, VGA_NOT_PRESENT | (rtc ? 0 : CMOS_RTC_NOT_PRESENT), 2)
  // Power and sleep buttons are control method devices or absent; no wake-up from the clock.
  const flags = WBINVD | PWR_BUTTON | SLP_BUTTON | FIX_RTC | HW_REDUCED_ACPI
  put(112, flags | (pm ? RESET_REG_SUP : 0), 4)
  put(131, 5, 1)
  put(140, dsdtAddress, 8)
  if (pm) {
    table.set(ioPortAddress(pm.reset.port), 116)
    put(128, pm.reset.value, 1)
    table.set(ioPortAddress(pm.sleepControlPort), 244)
    table.set(ioPortAddress(pm.sleepStatusPort), 256)
  }
  return acpiTable("FACP", 6, table.subarray(HEADER_SIZE))
}
