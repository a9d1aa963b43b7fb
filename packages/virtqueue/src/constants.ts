/** Names and numbers of virtio 1.3, section 2.7 (split virtqueues). */

/** VIRTIO_F_RING_INDIRECT_DESC as a mask. */
export const VIRTIO_F_RING_INDIRECT_DESC: bigint = 0x1000_0000n
/** VIRTIO_F_RING_EVENT_IDX as a mask. */
export const VIRTIO_F_RING_EVENT_IDX: bigint = 0x2000_0000n

/** Largest queue (2.7). */
export const MAX_QUEUE_SIZE = 32768

/** 2.7.5: bytes of one descriptor and its flags. */
export const DESC_BYTES = 16
export const VIRTQ_DESC_F_NEXT = 1
export const VIRTQ_DESC_F_WRITE = 2
export const VIRTQ_DESC_F_INDIRECT = 4

/** 2.7.6: the driver does not want used buffer notifications. */
export const VIRTQ_AVAIL_F_NO_INTERRUPT = 1
/** 2.7.8: the device does not want available buffer notifications. */
export const VIRTQ_USED_F_NO_NOTIFY = 1
