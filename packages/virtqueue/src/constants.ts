/** Names and numbers of virtio 1.3, sections 2.7 (split virtqueues), 2.8 (packed virtqueues) and 6 (feature bits). */

/** VIRTIO_F_RING_INDIRECT_DESC as a mask. */
export const VIRTIO_F_RING_INDIRECT_DESC: bigint = 0x1000_0000n
/** VIRTIO_F_RING_EVENT_IDX as a mask. */
export const VIRTIO_F_RING_EVENT_IDX: bigint = 0x2000_0000n
/** VIRTIO_F_RING_PACKED as a mask. */
export const VIRTIO_F_RING_PACKED: bigint = 0x4_0000_0000n
/** VIRTIO_F_IN_ORDER as a mask. */
export const VIRTIO_F_IN_ORDER: bigint = 0x8_0000_0000n

/** Largest queue (2.7, 2.8.10.1). */
export const MAX_QUEUE_SIZE = 32768

/** 2.7.5 and 2.8.13: bytes of one descriptor and the flags that both kinds of ring have. */
export const DESC_BYTES = 16
export const VIRTQ_DESC_F_NEXT = 1
export const VIRTQ_DESC_F_WRITE = 2
export const VIRTQ_DESC_F_INDIRECT = 4

/** 2.8.1: the bits that say whose a descriptor of a packed ring is, bits 7 and 15 of its flags. */
export const VIRTQ_DESC_F_AVAIL: number = 1 << 7
export const VIRTQ_DESC_F_USED: number = 1 << 15

/** 2.7.6: the driver does not want used buffer notifications. */
export const VIRTQ_AVAIL_F_NO_INTERRUPT = 1
/** 2.7.8: the device does not want available buffer notifications. */
export const VIRTQ_USED_F_NO_NOTIFY = 1

/** 2.8.14: bytes of an event suppression structure and the values of its flags. */
export const EVENT_SUPPRESS_BYTES = 4
export const RING_EVENT_FLAGS_ENABLE = 0
export const RING_EVENT_FLAGS_DISABLE = 1
export const RING_EVENT_FLAGS_DESC = 2
