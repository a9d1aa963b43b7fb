// The fixed places of the machine: docs/architecture.md has the same as a table.

interface Range {
  readonly address: number
  readonly size: number
}

/** Guest physical addresses. */
export const VIRTIO_MMIO_BASE = 0xd000_0000
export const VIRTIO_MMIO_STRIDE = 0x1000
/** Pages that KVM uses itself on Intel. Below the 16 MiB that firmware may take. */
export const IDENTITY_MAP_ADDRESS = 0xfeff_c000
export const TSS_ADDRESS = 0xfeff_d000

/** Configuration space of PCI bus 0; those of further buses follow. */
export const PCI_ECAM_ADDRESS = 0xe000_0000
/** Bytes of configuration space of one bus. */
export const PCI_ECAM_BUS_BYTES = 0x10_0000
/** The same of one device, eight functions. */
export const PCI_ECAM_DEVICE_BYTES = 0x8000
/** Where the guest may place BARs: in the hole of RAM below 4 GiB ... */
export const PCI_MEMORY32: Range = { address: 0xc000_0000, size: 0x2000_0000 }
/** ... of which firmware knows its own part: it starts at the bottom or at the top, below the IOAPIC ... */
export const PCI_FIRMWARE_MEMORY32: Range = { address: 0xc000_0000, size: 0x3ec0_0000 }
/** ... so many bytes above all RAM ... */
export const PCI_MEMORY64_SIZE: number = 2 ** 35
/** ... and in the ports above those of the platform. */
export const PCI_IO: Range = { address: 0x1000, size: 0xf000 }

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
/** Address and data of PCI configuration mechanism 1. */
export const PCI_CONF1_PORT = 0xcf8
export const PCI_HOT_PLUG_PORT = 0x610
/** Written by kernels as a delay and by firmware as a progress code: never means anything. */
export const DELAY_PORTS: readonly number[] = [0x80, 0xed]

/** Global system interrupts. */
export const SERIAL_GSI = 4
export const RTC_GSI = 8
export const ACPI_GSI = 9
/** The system control interrupt, which never comes: the events of this machine have ACPI_GSI. */
export const SCI_GSI = 3

/** GSIs of the interrupt lines INTA to INTD of the root bus. */
export const PCI_GSIS = [16, 17, 18, 19] as const
/** The same lines for a guest that does not use the IOAPIC or ACPI: ISA interrupts of the 8259s. */
export const PCI_ISA_IRQS = [10, 11, 5, 7] as const
/** Hot-plug slots that bus 0 has room for, beside the host bridge and one device. */
export const MAX_HOT_PLUG_SLOTS = 30

/** GSIs of virtio-mmio devices in the order in which they are given out: IOAPIC pins that nothing else owns. */
export const VIRTIO_GSIS: readonly number[] = [
  16, 17, 18, 19, 20, 21, 22, 23, 5, 6, 7, 10, 11, 12, 13, 14, 15,
]
