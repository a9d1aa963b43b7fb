import type { GuestMemory } from "@virtkit/interface"
import { ACPI_PM_REGISTERS, ACPI_RESET_VALUE } from "@virtkit/legacy"
import { ACPI_PM_PORT } from "./machine.js"

/** f000:fff0, where an x86 starts after a reset, and where software jumps to that wants the BIOS to reset the machine. */
const RESET_VECTOR = 0xf_fff0

/**
 * Puts the one thing that software expects of a BIOS long after boot in its place: Linux on a hardware-reduced ACPI
 * machine without EFI reboots by a jump there, however good the ACPI reset register is (its BOOT_EFI falls back to
 * BOOT_BIOS), and would run into zeros for ever.
 */
export function writeResetVector(memory: GuestMemory): void {
  const port = ACPI_PM_PORT + ACPI_PM_REGISTERS.reset
  memory.write(
    RESET_VECTOR,
    Uint8Array.of(
      ...[0xb0, ACPI_RESET_VALUE], //          mov al, ACPI_RESET_VALUE
      ...[0xba, port & 0xff, port >> 8], //    mov dx, port
      0xee, //                                 out dx, al
      ...[0xf4, 0xeb, 0xfd], //                hlt; jmp to the hlt
    ),
  )
}
