/** Constants of PCI 3.0 and the PCI Express base specification, typed from the specifications for the driver side. */
export const PCI = {
  VENDOR_ID: 0x00,
  DEVICE_ID: 0x02,
  COMMAND: 0x04,
  STATUS: 0x06,
  REVISION_ID: 0x08,
  CLASS_CODE: 0x09,
  HEADER_TYPE: 0x0e,
  BAR0: 0x10,
  SUBSYSTEM_VENDOR_ID: 0x2c,
  SUBSYSTEM_ID: 0x2e,
  CAPABILITIES_POINTER: 0x34,
  INTERRUPT_LINE: 0x3c,
  INTERRUPT_PIN: 0x3d,
  PRIMARY_BUS: 0x18,
  SECONDARY_BUS: 0x19,
  SUBORDINATE_BUS: 0x1a,
  IO_BASE: 0x1c,
  IO_LIMIT: 0x1d,
  MEMORY_BASE: 0x20,
  MEMORY_LIMIT: 0x22,
  PREFETCHABLE_BASE: 0x24,
  PREFETCHABLE_LIMIT: 0x26,
  PREFETCHABLE_BASE_UPPER: 0x28,
  PREFETCHABLE_LIMIT_UPPER: 0x2c,
  BRIDGE_CONTROL: 0x3e,
} as const

/** Bits of the command register. */
export const PCI_COMMAND = { IO: 1, MEMORY: 2, BUS_MASTER: 4, INTX_DISABLE: 0x400 } as const

/** Bits of the status register. */
export const PCI_STATUS = { INTERRUPT: 0x08, CAPABILITIES: 0x10 } as const

/** Capability IDs. */
export const PCI_CAPABILITY = { VENDOR: 0x09, EXPRESS: 0x10, MSIX: 0x11 } as const

/** Offsets and bits of the MSI-X capability and of a table entry. */
export const PCI_MSIX = {
  CONTROL: 2,
  CONTROL_ENABLE: 0x8000,
  CONTROL_MASK: 0x4000,
  TABLE: 4,
  PBA: 8,
  ENTRY_BYTES: 16,
  ENTRY_ADDRESS: 0,
  ENTRY_ADDRESS_UPPER: 4,
  ENTRY_DATA: 8,
  ENTRY_CONTROL: 12,
} as const

/** Offsets and bits of the PCI Express capability. */
export const PCI_EXPRESS = {
  FLAGS: 0x02,
  DEVICE_CAPABILITIES: 0x04,
  DEVICE_CAPABILITIES_FLR: 0x1000_0000,
  DEVICE_CONTROL: 0x08,
  DEVICE_CONTROL_FLR: 0x8000,
  SLOT_CAPABILITIES: 0x14,
  SLOT_STATUS: 0x1a,
  SLOT_STATUS_PRESENT: 0x40,
} as const
