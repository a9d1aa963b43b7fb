/** Names and values of the kernel's `linux/pci_regs.h`; the registers are those of PCI 3.0 and PCI Express 5.0. */

/** Bytes of configuration space that anything is in: the extended part, up to 4096, reads as 0. */
export const PCI_CFG_SPACE_SIZE = 256
export const PCI_CFG_SPACE_EXP_SIZE = 4096

// The head that all functions have (PCI 3.0, 6.1).
export const PCI_VENDOR_ID = 0x00
export const PCI_DEVICE_ID = 0x02
export const PCI_COMMAND = 0x04
export const PCI_COMMAND_IO = 0x1
export const PCI_COMMAND_MEMORY = 0x2
export const PCI_COMMAND_MASTER = 0x4
export const PCI_COMMAND_PARITY = 0x40
export const PCI_COMMAND_SERR = 0x100
export const PCI_COMMAND_INTX_DISABLE = 0x400
export const PCI_STATUS = 0x06
export const PCI_STATUS_INTERRUPT = 0x08
export const PCI_STATUS_CAP_LIST = 0x10
/** Errors and aborts, cleared by writing 1. */
export const PCI_STATUS_ERRORS = 0xf900
export const PCI_REVISION_ID = 0x08
export const PCI_CLASS_PROG = 0x09
export const PCI_CACHE_LINE_SIZE = 0x0c
export const PCI_HEADER_TYPE = 0x0e
export const PCI_HEADER_TYPE_BRIDGE = 1
export const PCI_CAPABILITY_LIST = 0x34
export const PCI_INTERRUPT_LINE = 0x3c
export const PCI_INTERRUPT_PIN = 0x3d

// Type 0 header.
export const PCI_BASE_ADDRESS_0 = 0x10
export const PCI_BASE_ADDRESS_SPACE_IO = 0x01
export const PCI_BASE_ADDRESS_MEM_TYPE_64 = 0x04
export const PCI_BASE_ADDRESS_MEM_PREFETCH = 0x08
export const PCI_SUBSYSTEM_VENDOR_ID = 0x2c
export const PCI_SUBSYSTEM_ID = 0x2e

// Type 1 header (PCI-to-PCI bridge 1.2, 3.2).
export const PCI_PRIMARY_BUS = 0x18
export const PCI_SECONDARY_BUS = 0x19
export const PCI_SUBORDINATE_BUS = 0x1a
export const PCI_IO_BASE = 0x1c
export const PCI_IO_LIMIT = 0x1d
export const PCI_SEC_STATUS = 0x1e
export const PCI_MEMORY_BASE = 0x20
export const PCI_MEMORY_LIMIT = 0x22
export const PCI_PREF_MEMORY_BASE = 0x24
export const PCI_PREF_MEMORY_LIMIT = 0x26
export const PCI_PREF_RANGE_TYPE_64 = 0x01
export const PCI_PREF_BASE_UPPER32 = 0x28
export const PCI_PREF_LIMIT_UPPER32 = 0x2c
export const PCI_BRIDGE_CONTROL = 0x3e
export const PCI_BRIDGE_CTL_PARITY = 0x01
export const PCI_BRIDGE_CTL_SERR = 0x02
export const PCI_BRIDGE_CTL_BUS_RESET = 0x40

// Capabilities.
export const PCI_STD_HEADER_SIZEOF = 0x40
export const PCI_CAP_ID_EXP = 0x10
export const PCI_CAP_ID_MSIX = 0x11

// MSI-X (PCI 3.0, 6.8.2), from the start of the capability.
export const PCI_MSIX_FLAGS = 2
export const PCI_MSIX_FLAGS_MASKALL = 0x4000
export const PCI_MSIX_FLAGS_ENABLE = 0x8000
export const PCI_MSIX_TABLE = 4
export const PCI_MSIX_PBA = 8
export const PCI_CAP_MSIX_SIZEOF = 12
export const PCI_MSIX_ENTRY_SIZE = 16
export const PCI_MSIX_ENTRY_CTRL_MASKBIT = 1

// PCI Express (PCI Express 5.0, 7.5.3), from the start of the capability.
export const PCI_EXP_FLAGS = 0x02
export const PCI_EXP_FLAGS_VERS_2 = 0x0002
export const PCI_EXP_FLAGS_SLOT = 0x0100
export const PCI_EXP_TYPE_ENDPOINT = 0x0
export const PCI_EXP_TYPE_ROOT_PORT = 0x4
export const PCI_EXP_TYPE_RC_END = 0x9
export const PCI_EXP_DEVCAP = 0x04
export const PCI_EXP_DEVCAP_RBER = 0x0000_8000
export const PCI_EXP_DEVCAP_FLR = 0x1000_0000
export const PCI_EXP_DEVCTL = 0x08
/** Error reporting enables, Relaxed Ordering, No Snoop, Max_Read_Request_Size. */
export const PCI_EXP_DEVCTL_WRITABLE = 0x781f
/** After a reset: Relaxed Ordering, No Snoop, requests of 512 bytes. */
export const PCI_EXP_DEVCTL_DEFAULT = 0x2810
export const PCI_EXP_DEVCTL_BCR_FLR = 0x8000
export const PCI_EXP_DEVSTA = 0x0a
export const PCI_EXP_DEVSTA_ERRORS = 0x000f
export const PCI_EXP_LNKCAP = 0x0c
export const PCI_EXP_LNKCTL = 0x10
/** ASPM Control, Read Completion Boundary, Common Clock, Extended Synch. */
export const PCI_EXP_LNKCTL_WRITABLE = 0x00cb
export const PCI_EXP_LNKSTA = 0x12
/** 2.5 GT/s, one lane: in link capabilities and link status. */
export const PCI_EXP_LNK_2_5GB_X1 = 0x0011
export const PCI_EXP_SLTCAP = 0x14
/** Shift of the physical slot number. */
export const PCI_EXP_SLTCAP_PSN = 19
export const PCI_EXP_SLTSTA = 0x1a
export const PCI_EXP_SLTSTA_PDS = 0x0040
export const PCI_EXP_RTCTL = 0x1c
export const PCI_EXP_RTCTL_WRITABLE = 0x000f
export const PCI_EXP_LNKCAP2 = 0x2c
export const PCI_EXP_LNKCAP2_SLS_2_5GB = 0x2
export const PCI_EXP_LNKCTL2 = 0x30
export const PCI_EXP_LNKCTL2_TLS_2_5GT = 0x1
export const PCI_CAP_EXP_SIZEOF = 60
