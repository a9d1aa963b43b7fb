// The fixed places of the machine: docs/architecture.md has the same as a table.

/** Guest physical addresses. */
export const VIRTIO_MMIO_BASE = 0xd000_0000
export const VIRTIO_MMIO_STRIDE = 0x1000
/** Pages that KVM uses itself on Intel. Below the 16 MiB that firmware may take. */
export const IDENTITY_MAP_ADDRESS = 0xfeff_c000
export const TSS_ADDRESS = 0xfeff_d000

/** Ports. */
export const SERIAL_PORT = 0x3f8
export const I8042_PORT = 0x60
export const RTC_PORT = 0x70
export const PVPANIC_PORT = 0x505
export const ACPI_PM_PORT = 0x600
/** Where firmware asks about the machine. */
export const FW_CFG_PORT = 0x510
/** Gate of the address line 20, which is always open here. */
export const A20_PORT = 0x92
/** Written by kernels as a delay and by firmware as a progress code: never means anything. */
export const DELAY_PORTS: readonly number[] = [0x80, 0xed]

/** Global system interrupts. */
export const SERIAL_GSI = 4
export const RTC_GSI = 8
export const ACPI_GSI = 9
/** The system control interrupt, which never comes: the events of this machine have ACPI_GSI. */
export const SCI_GSI = 3

/** GSIs of virtio-mmio devices in the order in which they are given out: IOAPIC pins that nothing else owns. */
export const VIRTIO_GSIS: readonly number[] = [
  16, 17, 18, 19, 20, 21, 22, 23, 5, 6, 7, 10, 11, 12, 13, 14, 15,
]
