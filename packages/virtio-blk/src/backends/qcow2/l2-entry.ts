import { ENTRY_COMPRESSED_HIGH, ENTRY_COPIED_HIGH, ENTRY_ZERO_LOW } from "./constants.js"
import { COMPRESSED, CORRUPT, DATA, type Extent, UNALLOCATED, ZERO } from "./extent.js"

/** What decoding an L2 table needs to know of its image. */
export interface L2Format {
  readonly version: 2 | 3
  readonly clusterSize: number
  /** Entries of 16 bytes, each with a bitmap of 32 subclusters. */
  readonly extended: boolean
}

/** Host offset in a standard entry: bits 9 to 55. */
export function entryOffset(high: number, low: number): number {
  return (high & 0x00ffffff) * 2 ** 32 + ((low & 0xfffffe00) >>> 0)
}

/**
 * Describes what begins `skip` bytes into the cluster of entry `index`, at most `length` bytes of it, and as much of the
 * clusters behind it as is one piece.
 */
export function decode(
  view: DataView,
  format: L2Format,
  index: number,
  skip: number,
  length: number,
  into: Extent,
): void {
  if (format.extended) decodeSubclusters(view, format, index, skip, length, into)
  else decodeClusters(view, format, index, skip, length, into)
}

function decodeClusters(
  view: DataView,
  format: L2Format,
  index: number,
  skip: number,
  length: number,
  into: Extent,
): void {
  const { clusterSize } = format
  const high = view.getUint32(index * 8)
  const low = view.getUint32(index * 8 + 4)
  const kind = kindOf(high, low, format)
  const host = kind === COMPRESSED ? 0 : entryOffset(high, low)
  into.kind = kind
  into.high = high
  into.low = low
  into.host = host === 0 ? 0 : host + skip
  into.copied = high >= ENTRY_COPIED_HIGH
  let end = clusterSize - skip
  if (kind !== COMPRESSED && kind !== CORRUPT) {
    const limit = view.byteLength
    for (let at = (index + 1) * 8, next = host; end < length && at < limit; at += 8) {
      const nextHigh = view.getUint32(at)
      const nextLow = view.getUint32(at + 4)
      if (host !== 0) next += clusterSize
      if (
        kindOf(nextHigh, nextLow, format) !== kind ||
        entryOffset(nextHigh, nextLow) !== next ||
        nextHigh >= ENTRY_COPIED_HIGH !== into.copied
      ) {
        break
      }
      end += clusterSize
    }
  }
  into.length = Math.min(end, length)
}

function kindOf(high: number, low: number, { version, clusterSize }: L2Format): number {
  if ((high & ENTRY_COMPRESSED_HIGH) !== 0) return COMPRESSED
  const zero = (low & ENTRY_ZERO_LOW) !== 0
  const offset = entryOffset(high, low)
  // Version 2 has no zero clusters.
  if ((zero && version === 2) || offset % clusterSize !== 0) return CORRUPT
  if (zero) return ZERO
  return offset === 0 ? UNALLOCATED : DATA
}

/** One subcluster after the other: bit x of the bitmap's lower half says that x is allocated, of the upper that it is zero. */
function decodeSubclusters(
  view: DataView,
  { clusterSize }: L2Format,
  index: number,
  skip: number,
  length: number,
  into: Extent,
): void {
  const high = view.getUint32(index * 16)
  const low = view.getUint32(index * 16 + 4)
  const zeros = view.getUint32(index * 16 + 8)
  const allocated = view.getUint32(index * 16 + 12)
  const host = entryOffset(high, low)
  into.high = high
  into.low = low
  into.copied = false
  into.length = Math.min(length, clusterSize - skip)
  if ((high & ENTRY_COMPRESSED_HIGH) !== 0) {
    into.kind = COMPRESSED
    into.host = 0
    return
  }
  const size = clusterSize / 32
  const first = Math.floor(skip / size)
  const kindAt = (bit: number) => {
    const isZero = ((zeros >>> bit) & 1) === 1
    if (((allocated >>> bit) & 1) === 0) return isZero ? ZERO : UNALLOCATED
    return isZero || host === 0 ? CORRUPT : DATA
  }
  let last = first + 1
  into.kind = host % clusterSize === 0 ? kindAt(first) : CORRUPT
  while (last < 32 && kindAt(last) === into.kind) last++
  into.host = host === 0 ? 0 : host + skip
  into.length = Math.min(length, last * size - skip)
}
