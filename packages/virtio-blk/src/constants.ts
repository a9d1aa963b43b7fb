/** Names and numbers of virtio 1.3, section 5.2 (block device). */

/** 5.2.1 */
export const VIRTIO_ID_BLOCK = 2

/** 5.2.3: feature bits, as masks. */
export const VIRTIO_BLK_F_SIZE_MAX: bigint = 1n << 1n
export const VIRTIO_BLK_F_SEG_MAX: bigint = 1n << 2n
export const VIRTIO_BLK_F_RO: bigint = 1n << 5n
export const VIRTIO_BLK_F_BLK_SIZE: bigint = 1n << 6n
export const VIRTIO_BLK_F_FLUSH: bigint = 1n << 9n
export const VIRTIO_BLK_F_TOPOLOGY: bigint = 1n << 10n
export const VIRTIO_BLK_F_CONFIG_WCE: bigint = 1n << 11n
export const VIRTIO_BLK_F_MQ: bigint = 1n << 12n
export const VIRTIO_BLK_F_DISCARD: bigint = 1n << 13n
export const VIRTIO_BLK_F_WRITE_ZEROES: bigint = 1n << 14n

/** 5.2.6: request types. */
export const VIRTIO_BLK_T_IN = 0
export const VIRTIO_BLK_T_OUT = 1
export const VIRTIO_BLK_T_FLUSH = 4
export const VIRTIO_BLK_T_GET_ID = 8
export const VIRTIO_BLK_T_DISCARD = 11
export const VIRTIO_BLK_T_WRITE_ZEROES = 13

/** 5.2.6: status byte. */
export const VIRTIO_BLK_S_OK = 0
export const VIRTIO_BLK_S_IOERR = 1
export const VIRTIO_BLK_S_UNSUPP = 2

/** 5.2.6: bytes of the header (type, reserved, sector), of the device ID, of one discard or write zeroes segment. */
export const HEADER_BYTES = 16
export const ID_BYTES = 20
export const SEGMENT_BYTES = 16

/** 5.2.6: flag of a write zeroes segment. */
export const VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP = 1

/** 5.2.4: all sectors are of 512 bytes, whatever blk_size says. */
export const SECTOR_BYTES = 512

/** 5.2.4: offsets in the device configuration space, and its size up to the fields that this device has. */
export const CONFIG = {
  capacity: 0,
  sizeMax: 8,
  segMax: 12,
  blkSize: 20,
  physicalBlockExp: 24,
  alignmentOffset: 25,
  minIoSize: 26,
  optIoSize: 28,
  writeback: 32,
  numQueues: 34,
  maxDiscardSectors: 36,
  maxDiscardSeg: 40,
  discardSectorAlignment: 44,
  maxWriteZeroesSectors: 48,
  maxWriteZeroesSeg: 52,
  writeZeroesMayUnmap: 56,
  bytes: 60,
} as const

/** Segments of one discard or write zeroes request. */
export const MAX_RANGES = 16

/** size_max: bytes of one data segment. With 254 segments a request moves at most 64 MiB (bad-input #12). */
export const SIZE_MAX: number = 256 * 1024

/** Most bytes of data in a request, whatever their framing. */
export const MAX_DATA_BYTES: number = 64 * 1024 * 1024
