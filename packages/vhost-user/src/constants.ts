/** Names and numbers of the vhost-user protocol, as QEMU's docs/interop/vhost-user.rst gives them. */

/** "Header": bytes, and the bits of its flags. */
export const HEADER_BYTES = 12
export const VHOST_USER_VERSION = 1
export const VERSION_MASK = 3
export const FLAG_REPLY = 4
export const FLAG_NEED_REPLY = 8

/** Largest payload of a request that there is a use for: SET_CONFIG or GET_CONFIG with a full configuration space. */
export const MAX_PAYLOAD_BYTES = 512

/** "Front-end message types". */
export const VHOST_USER_GET_FEATURES = 1
export const VHOST_USER_SET_FEATURES = 2
export const VHOST_USER_SET_OWNER = 3
export const VHOST_USER_RESET_OWNER = 4
export const VHOST_USER_SET_MEM_TABLE = 5
export const VHOST_USER_SET_LOG_BASE = 6
export const VHOST_USER_SET_LOG_FD = 7
export const VHOST_USER_SET_VRING_NUM = 8
export const VHOST_USER_SET_VRING_ADDR = 9
export const VHOST_USER_SET_VRING_BASE = 10
export const VHOST_USER_GET_VRING_BASE = 11
export const VHOST_USER_SET_VRING_KICK = 12
export const VHOST_USER_SET_VRING_CALL = 13
export const VHOST_USER_SET_VRING_ERR = 14
export const VHOST_USER_GET_PROTOCOL_FEATURES = 15
export const VHOST_USER_SET_PROTOCOL_FEATURES = 16
export const VHOST_USER_GET_QUEUE_NUM = 17
export const VHOST_USER_SET_VRING_ENABLE = 18
export const VHOST_USER_SET_BACKEND_REQ_FD = 21
export const VHOST_USER_GET_CONFIG = 24
export const VHOST_USER_SET_CONFIG = 25
export const VHOST_USER_GET_INFLIGHT_FD = 31
export const VHOST_USER_SET_INFLIGHT_FD = 32
export const VHOST_USER_RESET_DEVICE = 34
export const VHOST_USER_GET_MAX_MEM_SLOTS = 36
export const VHOST_USER_ADD_MEM_REG = 37
export const VHOST_USER_REM_MEM_REG = 38
export const VHOST_USER_SET_STATUS = 39
export const VHOST_USER_GET_STATUS = 40

/** "Back-end message types". */
export const VHOST_USER_BACKEND_CONFIG_CHANGE_MSG = 2

/** Feature bits beside the device's, as masks: all writes are to be logged; there are protocol features. */
export const VHOST_F_LOG_ALL: bigint = 1n << 26n
export const VHOST_USER_F_PROTOCOL_FEATURES: bigint = 1n << 30n

/** "Protocol features", as masks. */
export const VHOST_USER_PROTOCOL_F_MQ: bigint = 1n << 0n
export const VHOST_USER_PROTOCOL_F_LOG_SHMFD: bigint = 1n << 1n
export const VHOST_USER_PROTOCOL_F_REPLY_ACK: bigint = 1n << 3n
export const VHOST_USER_PROTOCOL_F_BACKEND_REQ: bigint = 1n << 5n
export const VHOST_USER_PROTOCOL_F_CONFIG: bigint = 1n << 9n
export const VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD: bigint = 1n << 12n
export const VHOST_USER_PROTOCOL_F_RESET_DEVICE: bigint = 1n << 13n
export const VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS: bigint = 1n << 15n
export const VHOST_USER_PROTOCOL_F_STATUS: bigint = 1n << 16n

/**
 * All that is offered. HOST_NOTIFIER is not: it hands the front end a page of the device whose writes ring its doorbell,
 * and a device in software has none; its doorbells are eventfds, which cost the guest as little. Nor are RARP and NET_MTU
 * (the driver does the one by GUEST_ANNOUNCE, the device sets the other), crypto sessions, postcopy and in-band
 * notifications.
 */
export const PROTOCOL_FEATURES: bigint =
  VHOST_USER_PROTOCOL_F_MQ |
  VHOST_USER_PROTOCOL_F_LOG_SHMFD |
  VHOST_USER_PROTOCOL_F_REPLY_ACK |
  VHOST_USER_PROTOCOL_F_BACKEND_REQ |
  VHOST_USER_PROTOCOL_F_CONFIG |
  VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD |
  VHOST_USER_PROTOCOL_F_RESET_DEVICE |
  VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS |
  VHOST_USER_PROTOCOL_F_STATUS

/** "Memory regions description": most regions of a SET_MEM_TABLE. */
export const VHOST_MEMORY_BASELINE_NREGIONS = 8
/** Answer to GET_MAX_MEM_SLOTS. */
export const MAX_MEM_SLOTS = 32

/** "Virtio device config space": most bytes that a request may be about. */
export const VHOST_USER_MAX_CONFIG_SIZE = 256

/** Of the 64-bit payload of SET_VRING_KICK, CALL and ERR: the queue's index, and that no descriptor comes with it. */
export const VRING_INDEX_MASK = 0xff
export const VRING_NOFD_MASK = 0x100

/** Flag of SET_VRING_ADDR: writes to the used ring are to be logged. */
export const VHOST_VRING_F_LOG = 1

/** Device IDs whose GET_QUEUE_NUM front ends take for a number of pairs. */
export const VIRTIO_ID_NET = 1

/** Bytes of guest memory that a bit of the dirty log stands for. */
export const LOG_PAGE_BYTES = 4096
