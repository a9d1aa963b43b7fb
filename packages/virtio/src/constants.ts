/** Names and numbers of virtio 1.3: device status (2.1), features (6), virtio over MMIO (4.2). */

/** 2.1 Device status field. */
export const VIRTIO_CONFIG_S_ACKNOWLEDGE = 1
export const VIRTIO_CONFIG_S_DRIVER = 2
export const VIRTIO_CONFIG_S_DRIVER_OK = 4
export const VIRTIO_CONFIG_S_FEATURES_OK = 8
export const VIRTIO_CONFIG_S_NEEDS_RESET = 0x40
export const VIRTIO_CONFIG_S_FAILED = 0x80

/** Feature bit 32, as a mask: the device follows version 1 of the specification. */
export const VIRTIO_F_VERSION_1: bigint = 0x1_0000_0000n

/** Feature bit 38: notifications may say how far the driver got. */
export const VIRTIO_F_NOTIFICATION_DATA: bigint = 0x40_0000_0000n
/** Feature bit 39: notifications name the queue by a number that the device chose; virtio-pci only. */
export const VIRTIO_F_NOTIF_CONFIG_DATA: bigint = 0x80_0000_0000n
/** Feature bit 40: queues can be reset one by one (2.6.1). */
export const VIRTIO_F_RING_RESET: bigint = 0x100_0000_0000n

/** Interrupt causes: the bits of InterruptStatus (4.2.2) and of the PCI ISR status (4.1.4.5). */
export const VIRTIO_INTERRUPT_QUEUE = 1
export const VIRTIO_INTERRUPT_CONFIG = 2

/** "virt", little-endian. */
export const VIRTIO_MMIO_MAGIC = 0x7472_6976
/** "VKIT", little-endian: nothing depends on it. */
export const VIRTIO_MMIO_VENDOR = 0x5449_4b56

/** 4.2.2 register offsets. */
export const VIRTIO_MMIO_MAGIC_VALUE = 0x000
export const VIRTIO_MMIO_VERSION = 0x004
export const VIRTIO_MMIO_DEVICE_ID = 0x008
export const VIRTIO_MMIO_VENDOR_ID = 0x00c
export const VIRTIO_MMIO_DEVICE_FEATURES = 0x010
export const VIRTIO_MMIO_DEVICE_FEATURES_SEL = 0x014
export const VIRTIO_MMIO_DRIVER_FEATURES = 0x020
export const VIRTIO_MMIO_DRIVER_FEATURES_SEL = 0x024
export const VIRTIO_MMIO_QUEUE_SEL = 0x030
export const VIRTIO_MMIO_QUEUE_SIZE_MAX = 0x034
export const VIRTIO_MMIO_QUEUE_SIZE = 0x038
export const VIRTIO_MMIO_QUEUE_READY = 0x044
export const VIRTIO_MMIO_QUEUE_NOTIFY = 0x050
export const VIRTIO_MMIO_INTERRUPT_STATUS = 0x060
export const VIRTIO_MMIO_INTERRUPT_ACK = 0x064
export const VIRTIO_MMIO_STATUS = 0x070
export const VIRTIO_MMIO_QUEUE_DESC_LOW = 0x080
export const VIRTIO_MMIO_QUEUE_DESC_HIGH = 0x084
export const VIRTIO_MMIO_QUEUE_DRIVER_LOW = 0x090
export const VIRTIO_MMIO_QUEUE_DRIVER_HIGH = 0x094
export const VIRTIO_MMIO_QUEUE_DEVICE_LOW = 0x0a0
export const VIRTIO_MMIO_QUEUE_DEVICE_HIGH = 0x0a4
export const VIRTIO_MMIO_SHM_LEN_LOW = 0x0b0
export const VIRTIO_MMIO_SHM_LEN_HIGH = 0x0b4
export const VIRTIO_MMIO_SHM_BASE_LOW = 0x0b8
export const VIRTIO_MMIO_SHM_BASE_HIGH = 0x0bc
export const VIRTIO_MMIO_QUEUE_RESET = 0x0c0
export const VIRTIO_MMIO_CONFIG_GENERATION = 0x0fc
export const VIRTIO_MMIO_CONFIG = 0x100

/** 4.2.2: with VIRTIO_F_NOTIFICATION_DATA the lower half of QueueNotify is the queue, the rest where the driver got to. */
export const VIRTIO_MMIO_NOTIFY_QUEUE = 0xffff

/** Bytes of the register window: one page, device configuration space to its end. */
export const VIRTIO_MMIO_BYTES = 0x1000

/** Bytes of the device configuration space that fit into a register page, behind the registers of the transport. */
export const MAX_CONFIG_BYTES: number = VIRTIO_MMIO_BYTES - VIRTIO_MMIO_CONFIG
