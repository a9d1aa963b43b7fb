/** Names and numbers of virtio over PCI (virtio 1.3, section 4.1), and where this transport puts things. */

/** 4.1.2: IDs of PCI functions that are virtio devices. */
export const PCI_VENDOR_ID_REDHAT_QUMRANET = 0x1af4
export const VIRTIO_PCI_DEVICE_ID_BASE = 0x1040
export const VIRTIO_PCI_REVISION = 1
/** What modern devices of QEMU have; 4.1.2.1 wants 0x40 or more. */
export const VIRTIO_PCI_SUBSYSTEM_ID = 0x1100

/** 4.1.4: structures that vendor-specific capabilities point to. */
export const PCI_CAP_ID_VNDR = 0x09
export const VIRTIO_PCI_CAP_COMMON_CFG = 1
export const VIRTIO_PCI_CAP_NOTIFY_CFG = 2
export const VIRTIO_PCI_CAP_ISR_CFG = 3
export const VIRTIO_PCI_CAP_DEVICE_CFG = 4
export const VIRTIO_PCI_CAP_PCI_CFG = 5

/** 4.1.4: offsets of struct virtio_pci_cap within the body of the capability, which begins behind ID and link. */
export const CAP_LEN = 0
export const CAP_CFG_TYPE = 1
export const CAP_BAR = 2
export const CAP_OFFSET = 6
export const CAP_LENGTH = 10
/** Behind struct virtio_pci_cap: notify_off_multiplier or pci_cfg_data. */
export const CAP_EXTRA = 14

/** 4.1.4.3: struct virtio_pci_common_cfg. */
export const DEVICE_FEATURE_SELECT = 0x00
export const DEVICE_FEATURE = 0x04
export const DRIVER_FEATURE_SELECT = 0x08
export const DRIVER_FEATURE = 0x0c
export const CONFIG_MSIX_VECTOR = 0x10
export const NUM_QUEUES = 0x12
export const DEVICE_STATUS = 0x14
export const CONFIG_GENERATION = 0x15
export const QUEUE_SELECT = 0x16
export const QUEUE_SIZE = 0x18
export const QUEUE_MSIX_VECTOR = 0x1a
export const QUEUE_ENABLE = 0x1c
export const QUEUE_NOTIFY_OFF = 0x1e
export const QUEUE_DESC = 0x20
export const QUEUE_DRIVER = 0x28
export const QUEUE_DEVICE = 0x30
export const QUEUE_NOTIF_CONFIG_DATA = 0x38
export const QUEUE_RESET = 0x3a
export const COMMON_CFG_BYTES = 0x40

/** 4.1.4.3: no interrupt. */
export const VIRTIO_MSI_NO_VECTOR = 0xffff

/** The BAR with the registers. */
export const REGISTERS_BAR = 4
/** Common and device configuration share a page: nothing in it changes by being read. */
export const COMMON_OFFSET = 0x0000
export const DEVICE_OFFSET = 0x0100
export const REGISTER_PAGE_BYTES = 0x1000
/** Reading the ISR status clears it: it is on a page of its own. */
export const ISR_OFFSET = 0x1000
export const ISR_BYTES = 4
/** From here on 4 bytes a queue. */
export const NOTIFY_OFFSET = 0x2000
export const NOTIFY_MULTIPLIER = 4

/** The BAR with MSI-X table and pending bits; the table has its pages for itself. */
export const MSIX_BAR = 1
/** PCI 3.0, section 6.8.2. */
export const MAX_MSIX_VECTORS = 2048

const CLASS_OTHER = 0x00ff00
/** Class code by virtio device ID: what drivers look at that know of no virtio. */
const CLASS_CODES: ReadonlyMap<number, number> = new Map([
  [1, 0x02_0000],
  [2, 0x01_8000],
  [3, 0x07_8000],
])

export function classCodeOf(deviceType: number): number {
  return CLASS_CODES.get(deviceType) ?? CLASS_OTHER
}
