import {
  COMPAT_LAZY_REFCOUNTS,
  EXTENSION_BACKING_FORMAT,
  EXTENSION_END,
  HEADER,
  INCOMPAT_COMPRESSION,
  INCOMPAT_CORRUPT,
  INCOMPAT_DATA_FILE,
  INCOMPAT_DIRTY,
  INCOMPAT_EXTENDED_L2,
  MAGIC,
  MAX_BACKING_NAME,
  MAX_CLUSTER_BITS,
  MAX_SNAPSHOTS,
  MAX_TABLE_BYTES,
  MIN_CLUSTER_BITS,
} from "./constants.js"
import { ImageError, unsupported } from "./errors.js"

/** What the header of an image says, checked against itself and the length of the file. Offsets and sizes are in bytes. */
export interface Qcow2Header {
  readonly version: 2 | 3
  readonly clusterSize: number
  /** Of the disk. */
  readonly size: number
  readonly backingFile: string | undefined
  readonly backingFormat: string | undefined
  /** Entries. */
  readonly l1Size: number
  readonly l1Offset: number
  readonly refcountTableOffset: number
  readonly refcountTableClusters: number
  /** A reference count has 2 to this power bits. */
  readonly refcountOrder: number
  readonly snapshotCount: number
  readonly snapshotsOffset: number
  readonly incompatible: number
  /** Its reference counts may be wrong while its dirty bit is set. */
  readonly lazyRefcounts: boolean
  /** A program that changes the image without knowing these features must clear them. */
  readonly autoclear: boolean
  readonly compression: "zlib" | "zstd"
  readonly extendedL2: boolean
}

const KNOWN =
  INCOMPAT_DIRTY | INCOMPAT_CORRUPT | INCOMPAT_DATA_FILE | INCOMPAT_COMPRESSION | INCOMPAT_EXTENDED_L2

/**
 * Parses the first cluster of an image, or what the file has of it. Nothing is allocated or read because of it that does
 * not lie in the file and below the limits in constants.ts. Throws ImageError for what cannot be, ConfigError for what
 * virtkit has not.
 */
export function parseHeader(path: string, bytes: Uint8Array, fileLength: number): Qcow2Header {
  const fail = (message: string): never => {
    throw new ImageError(path, message)
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const u32 = (at: number) => view.getUint32(at)
  const u64 = (at: number) => u32(at) * 2 ** 32 + u32(at + 4)
  if (bytes.length < HEADER.bytesV2 || u32(0) !== MAGIC) fail("it is not a qcow2 image")
  const version = u32(4)
  if (version !== 2 && version !== 3) throw unsupported(path, `qcow2 version ${version} is not supported`)
  if (version === 3 && bytes.length < HEADER.bytesV3) fail("its header is cut off")
  const clusterBits = u32(20)
  if (clusterBits < MIN_CLUSTER_BITS || clusterBits > MAX_CLUSTER_BITS)
    fail(`clusters of 2^${clusterBits} bytes are not possible`)
  const clusterSize = 2 ** clusterBits
  if (u32(32) !== 0) throw unsupported(path, "encrypted images are not supported")

  const features = version === 3 ? parseFeatures(path, view) : NO_FEATURES
  const size = u64(HEADER.size)
  if (size === 0 || size % 512 !== 0 || size > Number.MAX_SAFE_INTEGER)
    fail(`a disk of ${size} bytes is not possible`)

  const within = (what: string, offset: number, length: number) => {
    if (offset === 0 || offset % clusterSize !== 0 || offset + length > fileLength)
      fail(`${what} is at ${offset}, ${length} bytes, which is not in the file`)
  }
  const l1Size = u32(HEADER.l1Size)
  const l1Offset = u64(HEADER.l1Offset)
  const entriesOfL2 = clusterSize / (features.extendedL2 ? 16 : 8)
  const needed = Math.ceil(size / clusterSize / entriesOfL2)
  if (l1Size < needed) fail(`its L1 table has ${l1Size} entries and needs ${needed}`)
  if (l1Size * 8 > MAX_TABLE_BYTES) fail(`its L1 table has ${l1Size} entries, which is too many`)
  within("its L1 table", l1Offset, l1Size * 8)
  const refcountTableClusters = u32(HEADER.refcountTableClusters)
  const refcountTableOffset = u64(HEADER.refcountTableOffset)
  if (refcountTableClusters === 0) fail("it has no refcount table")
  if (refcountTableClusters * clusterSize > MAX_TABLE_BYTES)
    fail(`its refcount table has ${refcountTableClusters} clusters, which is too many`)
  within("its refcount table", refcountTableOffset, refcountTableClusters * clusterSize)
  const snapshotCount = u32(60)
  const snapshotsOffset = u64(64)
  if (snapshotCount > MAX_SNAPSHOTS) fail(`it has ${snapshotCount} snapshots, which is too many`)
  if (snapshotCount > 0) within("its snapshot table", snapshotsOffset, snapshotCount * 40)

  return {
    version,
    clusterSize,
    size,
    ...parseBacking(path, bytes, view, features.headerLength, clusterSize),
    l1Size,
    l1Offset,
    refcountTableOffset,
    refcountTableClusters,
    refcountOrder: features.refcountOrder,
    snapshotCount,
    snapshotsOffset,
    incompatible: features.incompatible,
    lazyRefcounts: features.lazyRefcounts,
    autoclear: features.autoclear,
    compression: features.compression,
    extendedL2: features.extendedL2,
  }
}

const NO_FEATURES = {
  incompatible: 0,
  lazyRefcounts: false,
  autoclear: false,
  refcountOrder: 4,
  headerLength: HEADER.bytesV2 as number,
  compression: "zlib" as "zlib" | "zstd",
  extendedL2: false,
}

/** The fields that version 3 has more. */
function parseFeatures(path: string, view: DataView): typeof NO_FEATURES {
  const headerLength = view.getUint32(100)
  if (headerLength < HEADER.bytesV3 || headerLength % 8 !== 0 || headerLength > view.byteLength)
    throw new ImageError(path, `a header of ${headerLength} bytes is not possible`)
  const incompatible = view.getUint32(HEADER.incompatible + 4)
  const unknown = (incompatible & ~KNOWN) >>> 0
  const unknownHigh = view.getUint32(HEADER.incompatible)
  if (unknown !== 0 || unknownHigh !== 0) {
    const bits = (unknownHigh * 2 ** 32 + unknown).toString(16)
    throw unsupported(path, `it has features that are not known here: 0x${bits}`)
  }
  if ((incompatible & INCOMPAT_DATA_FILE) !== 0)
    throw unsupported(path, "its data is in another file, which is not supported")
  const refcountOrder = view.getUint32(96)
  if (refcountOrder > 6)
    throw new ImageError(path, `reference counts of 2^${refcountOrder} bits are not possible`)
  const type = (incompatible & INCOMPAT_COMPRESSION) !== 0 && headerLength > 104 ? view.getUint8(104) : 0
  if (type > 1) throw unsupported(path, `compression ${type} is not known here`)
  const extendedL2 = (incompatible & INCOMPAT_EXTENDED_L2) !== 0
  if (extendedL2 && view.getUint32(20) < 14)
    throw new ImageError(path, "extended L2 entries need clusters of at least 16 KiB")
  return {
    incompatible,
    lazyRefcounts: (view.getUint32(HEADER.compatible + 4) & COMPAT_LAZY_REFCOUNTS) !== 0,
    autoclear: view.getUint32(HEADER.autoclear) !== 0 || view.getUint32(HEADER.autoclear + 4) !== 0,
    refcountOrder,
    headerLength,
    compression: type === 1 ? "zstd" : "zlib",
    extendedL2,
  }
}

function parseBacking(
  path: string,
  bytes: Uint8Array,
  view: DataView,
  headerLength: number,
  clusterSize: number,
): Pick<Qcow2Header, "backingFile" | "backingFormat"> {
  const offset = view.getUint32(8) * 2 ** 32 + view.getUint32(12)
  const length = view.getUint32(16)
  if (offset === 0 || length === 0) return { backingFile: undefined, backingFormat: undefined }
  const first = Math.min(bytes.length, clusterSize)
  if (length > MAX_BACKING_NAME || offset < headerLength || offset + length > first)
    throw new ImageError(path, "the name of its backing file is not within the first cluster")
  const backingFile = text(bytes.subarray(offset, offset + length))
  if (backingFile.includes("\0")) throw new ImageError(path, "the name of its backing file has a zero byte")
  const end = Math.min(first, offset)
  let at = headerLength
  while (at + 8 <= end) {
    const type = view.getUint32(at)
    const size = view.getUint32(at + 4)
    if (type === EXTENSION_END) break
    if (size > end - at - 8) throw new ImageError(path, "a header extension is longer than its room")
    if (type === EXTENSION_BACKING_FORMAT)
      return { backingFile, backingFormat: text(bytes.subarray(at + 8, at + 8 + size)) }
    at += 8 + Math.ceil(size / 8) * 8
  }
  return { backingFile, backingFormat: undefined }
}

function text(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes)
}
