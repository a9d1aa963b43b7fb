import {
  HEADER_BYTES,
  MAX_DATA_BYTES,
  MAX_RANGES,
  SECTOR_BYTES,
  SEGMENT_BYTES,
  VIRTIO_BLK_S_IOERR,
  VIRTIO_BLK_S_OK,
  VIRTIO_BLK_S_UNSUPP,
  VIRTIO_BLK_T_DISCARD,
  VIRTIO_BLK_T_FLUSH,
  VIRTIO_BLK_T_GET_ID,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT,
  VIRTIO_BLK_T_WRITE_ZEROES,
  VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
} from "./constants.js"

/** What the disk can do, for the checks of a request. */
export interface DiskLimits {
  /** In sectors of 512 bytes. */
  capacity: number
  readonly: boolean
  /** Most sectors of one discard or write zeroes segment; 0 when the request was not negotiated. */
  maxDiscardSectors: number
  maxWriteZeroesSectors: number
}

/** A request as far as its header and its framing tell. Reused from request to request. */
export interface ParsedRequest {
  /** Request type as the driver gave it. */
  type: number
  /** Bytes from the start of the disk, of reads and writes. */
  offset: number
  /** Bytes of data, the header and the status byte left out. */
  dataBytes: number
  /** VIRTIO_BLK_S_OK when it can be carried out, else the status to answer with. */
  status: number
}

/**
 * Parses a copied header (virtio 1.3, section 5.2.6). `readableBytes` and `writableBytes` are those of the whole chain:
 * the header is the first 16 readable bytes and the status the last writable one, however they are spread over buffers
 * (bad-input #21). The chain has room for both.
 */
export function parseRequest(
  header: DataView,
  readableBytes: number,
  writableBytes: number,
  limits: DiskLimits,
  into: ParsedRequest,
): void {
  const type = header.getUint32(0, true)
  // Exact up to 2^53; above that it is rounded, and beyond any disk.
  const sector = header.getUint32(12, true) * 2 ** 32 + header.getUint32(8, true)
  into.type = type
  into.offset = 0
  into.dataBytes = 0
  switch (type) {
    case VIRTIO_BLK_T_IN:
      transfer(sector, writableBytes - 1, limits.capacity, into)
      break
    case VIRTIO_BLK_T_OUT:
      transfer(sector, readableBytes - HEADER_BYTES, limits.capacity, into)
      // 5.2.6.2: a write to a read-only device fails with IOERR (bad-input #24).
      if (limits.readonly) into.status = VIRTIO_BLK_S_IOERR
      break
    case VIRTIO_BLK_T_FLUSH:
      into.status = VIRTIO_BLK_S_OK
      break
    case VIRTIO_BLK_T_GET_ID:
      into.dataBytes = writableBytes - 1
      into.status = VIRTIO_BLK_S_OK
      break
    case VIRTIO_BLK_T_DISCARD:
      ranges(readableBytes - HEADER_BYTES, limits.maxDiscardSectors, limits, into)
      break
    case VIRTIO_BLK_T_WRITE_ZEROES:
      ranges(readableBytes - HEADER_BYTES, limits.maxWriteZeroesSectors, limits, into)
      break
    default:
      into.status = VIRTIO_BLK_S_UNSUPP
  }
}

/** A discard or write zeroes segment. Reused. */
export interface ParsedRange {
  /** Bytes from the start of the disk. */
  offset: number
  /** Bytes. */
  length: number
  /** The range may lose its disk space. */
  unmap: boolean
  status: number
}

/** Parses the segment that starts at `at` of copied request data (5.2.6, struct virtio_blk_discard_write_zeroes). */
export function parseRange(
  data: DataView,
  at: number,
  type: number,
  limits: DiskLimits,
  into: ParsedRange,
): void {
  const sector = data.getUint32(at + 4, true) * 2 ** 32 + data.getUint32(at, true)
  const sectors = data.getUint32(at + 8, true)
  const flags = data.getUint32(at + 12, true)
  const discard = type === VIRTIO_BLK_T_DISCARD
  into.offset = 0
  into.length = 0
  into.unmap = flags === VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP
  // 5.2.6.2: flags that are not known, and unmap for a discard, are not supported.
  const allowed = discard ? 0 : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP
  if ((flags & ~allowed) !== 0) {
    into.status = VIRTIO_BLK_S_UNSUPP
    return
  }
  const most = discard ? limits.maxDiscardSectors : limits.maxWriteZeroesSectors
  if (sectors > most || !onDisk(sector, sectors, limits.capacity)) {
    into.status = VIRTIO_BLK_S_IOERR
    return
  }
  into.offset = sector * SECTOR_BYTES
  into.length = sectors * SECTOR_BYTES
  into.status = VIRTIO_BLK_S_OK
}

function transfer(sector: number, bytes: number, capacity: number, into: ParsedRequest): void {
  const whole = bytes % SECTOR_BYTES === 0 && bytes <= MAX_DATA_BYTES
  if (!whole || !onDisk(sector, bytes / SECTOR_BYTES, capacity)) {
    into.status = VIRTIO_BLK_S_IOERR
    return
  }
  into.offset = sector * SECTOR_BYTES
  into.dataBytes = bytes
  into.status = VIRTIO_BLK_S_OK
}

function ranges(bytes: number, most: number, limits: DiskLimits, into: ParsedRequest): void {
  into.dataBytes = bytes
  if (limits.readonly) into.status = VIRTIO_BLK_S_IOERR
  else if (most === 0) into.status = VIRTIO_BLK_S_UNSUPP
  else if (bytes === 0 || bytes % SEGMENT_BYTES !== 0 || bytes > MAX_RANGES * SEGMENT_BYTES) {
    into.status = VIRTIO_BLK_S_IOERR
  } else into.status = VIRTIO_BLK_S_OK
}

/** Compares sectors, not bytes, so that nothing is multiplied before it is known to be small (bad-input #23). */
function onDisk(sector: number, sectors: number, capacity: number): boolean {
  return sector <= capacity && sectors <= capacity - sector
}
