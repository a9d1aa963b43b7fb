/**
 * The numbers of the virtio specification 1.3 that a driver uses. Typed in from the specification and shared with no
 * device-side package, so that a wrong number on either side shows as a failing test.
 */

/** 2.1 Device status field. */
export const STATUS = {
  ACKNOWLEDGE: 1,
  DRIVER: 2,
  DRIVER_OK: 4,
  FEATURES_OK: 8,
  DEVICE_NEEDS_RESET: 64,
  FAILED: 128,
} as const

/** 6 Reserved feature bits, as masks: bits 28, 29, 32, 34, 35 and 38 to 40. */
export const FEATURE = {
  RING_INDIRECT_DESC: 0x1000_0000n,
  RING_EVENT_IDX: 0x2000_0000n,
  VERSION_1: 0x1_0000_0000n,
  RING_PACKED: 0x4_0000_0000n,
  IN_ORDER: 0x8_0000_0000n,
  NOTIFICATION_DATA: 0x40_0000_0000n,
  NOTIF_CONFIG_DATA: 0x80_0000_0000n,
  RING_RESET: 0x100_0000_0000n,
} as const

/** 2.7.5 Descriptor flags. */
export const DESCRIPTOR = { NEXT: 1, WRITE: 2, INDIRECT: 4, BYTES: 16 } as const

/** 2.7.6 avail.flags, 2.7.8 used.flags. */
export const RING_FLAG = { AVAIL_NO_INTERRUPT: 1, USED_NO_NOTIFY: 1 } as const

/** 2.8.1 Bits 7 and 15 of the flags of a descriptor in a packed ring. */
export const PACKED_DESCRIPTOR = { AVAIL: 0x80, USED: 0x8000 } as const

/** 2.8.14 Flags of an event suppression structure of a packed ring. */
export const PACKED_EVENT = { ENABLE: 0, DISABLE: 1, DESC: 2 } as const

/** 4.2.2 MMIO device register layout. */
export const MMIO = {
  MAGIC_VALUE: 0x000,
  VERSION: 0x004,
  DEVICE_ID: 0x008,
  VENDOR_ID: 0x00c,
  DEVICE_FEATURES: 0x010,
  DEVICE_FEATURES_SEL: 0x014,
  DRIVER_FEATURES: 0x020,
  DRIVER_FEATURES_SEL: 0x024,
  QUEUE_SEL: 0x030,
  QUEUE_SIZE_MAX: 0x034,
  QUEUE_SIZE: 0x038,
  QUEUE_READY: 0x044,
  QUEUE_NOTIFY: 0x050,
  INTERRUPT_STATUS: 0x060,
  INTERRUPT_ACK: 0x064,
  STATUS: 0x070,
  QUEUE_DESC_LOW: 0x080,
  QUEUE_DESC_HIGH: 0x084,
  QUEUE_DRIVER_LOW: 0x090,
  QUEUE_DRIVER_HIGH: 0x094,
  QUEUE_DEVICE_LOW: 0x0a0,
  QUEUE_DEVICE_HIGH: 0x0a4,
  SHM_SEL: 0x0ac,
  SHM_LEN_LOW: 0x0b0,
  SHM_LEN_HIGH: 0x0b4,
  SHM_BASE_LOW: 0x0b8,
  SHM_BASE_HIGH: 0x0bc,
  QUEUE_RESET: 0x0c0,
  CONFIG_GENERATION: 0x0fc,
  CONFIG: 0x100,
} as const

/** "virt", little-endian. */
export const MMIO_MAGIC = 0x74726976

/** 4.2.2 InterruptStatus bits. */
export const INTERRUPT = { USED_BUFFER: 1, CONFIG_CHANGE: 2 } as const

/** 4.1.4 Virtio structure PCI capabilities: types, and offsets from the ID byte. */
export const VIRTIO_PCI_CAP = {
  COMMON_CFG: 1,
  NOTIFY_CFG: 2,
  ISR_CFG: 3,
  DEVICE_CFG: 4,
  PCI_CFG: 5,
  CFG_TYPE: 3,
  BAR: 4,
  OFFSET: 8,
  LENGTH: 12,
  NOTIFY_OFF_MULTIPLIER: 16,
  PCI_CFG_DATA: 16,
} as const

/** 4.1.4.3 Common configuration structure layout. */
export const VIRTIO_PCI_COMMON = {
  DEVICE_FEATURE_SELECT: 0,
  DEVICE_FEATURE: 4,
  DRIVER_FEATURE_SELECT: 8,
  DRIVER_FEATURE: 12,
  CONFIG_MSIX_VECTOR: 16,
  NUM_QUEUES: 18,
  DEVICE_STATUS: 20,
  CONFIG_GENERATION: 21,
  QUEUE_SELECT: 22,
  QUEUE_SIZE: 24,
  QUEUE_MSIX_VECTOR: 26,
  QUEUE_ENABLE: 28,
  QUEUE_NOTIFY_OFF: 30,
  QUEUE_DESC: 32,
  QUEUE_DRIVER: 40,
  QUEUE_DEVICE: 48,
  QUEUE_NOTIF_CONFIG_DATA: 56,
  QUEUE_RESET: 58,
} as const

/** 4.1.4.3 No vector. */
export const NO_VECTOR = 0xffff
