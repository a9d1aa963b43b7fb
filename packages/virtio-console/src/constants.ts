/** Virtio console, virtio 1.3, section 5.3. */

/** Section 5.3.1. */
export const VIRTIO_ID_CONSOLE = 3

/** Section 5.3.2, of port 0. */
export const RECEIVEQ = 0
export const TRANSMITQ = 1

/** Section 5.3.3. */
export const VIRTIO_CONSOLE_F_SIZE: bigint = 1n << 0n
export const VIRTIO_CONSOLE_F_EMERG_WRITE: bigint = 1n << 2n

/** Section 5.3.4, struct virtio_console_config: le16 cols, le16 rows, le32 max_nr_ports, le32 emerg_wr. */
export const CONFIG_COLS = 0
export const CONFIG_ROWS = 2
export const CONFIG_MAX_NR_PORTS = 4
export const CONFIG_EMERG_WR = 8
export const CONFIG_LENGTH = 12
