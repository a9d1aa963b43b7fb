/** Names and numbers of QEMU's docs/interop/qcow2.txt. All numbers in an image are big-endian. */

/** "QFI\xfb" */
export const MAGIC = 0x514649fb

/** Incompatible feature bits. */
export const INCOMPAT_DIRTY = 1
export const INCOMPAT_CORRUPT = 2
export const INCOMPAT_DATA_FILE = 4
export const INCOMPAT_COMPRESSION = 8
export const INCOMPAT_EXTENDED_L2 = 16

/** Compatible feature bit. */
export const COMPAT_LAZY_REFCOUNTS = 1

/** Offsets of header fields that are changed in place. */
export const HEADER = {
  size: 24,
  l1Size: 36,
  l1Offset: 40,
  refcountTableOffset: 48,
  refcountTableClusters: 56,
  incompatible: 72,
  compatible: 80,
  autoclear: 88,
  bytesV2: 72,
  bytesV3: 104,
} as const

/** Types of header extensions. */
export const EXTENSION_END = 0
export const EXTENSION_BACKING_FORMAT = 0xe2792aca

/** Bits of the upper and lower half of a table entry. */
export const ENTRY_COPIED_HIGH = 0x80000000
export const ENTRY_COMPRESSED_HIGH = 0x40000000
export const ENTRY_ZERO_LOW = 1

export const MIN_CLUSTER_BITS = 9
export const MAX_CLUSTER_BITS = 21

/** Most bytes of the L1 table and of the refcount table: with clusters of 64 KiB, 512 TiB of disk and 32 PiB of file. */
export const MAX_TABLE_BYTES: number = 8 * 1024 * 1024
export const MAX_BACKING_NAME = 1023
/** More layers than that are a mistake, or meant to cost time. */
export const MAX_LAYERS = 32
export const MAX_SNAPSHOTS = 65536
export const MAX_SNAPSHOT_BYTES: number = 16 * 1024 * 1024
