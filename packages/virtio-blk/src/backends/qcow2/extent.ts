import type { ImageFile } from "./image-file.js"

/** What is behind a range of the disk. */
export const UNALLOCATED = 0
/** Bytes of the file. */
export const DATA = 1
export const ZERO = 2
export const COMPRESSED = 3
/** Not known before a table is loaded. */
export const MISSING = 4
/** The table entry is damaged. */
export const CORRUPT = 5

/** One piece of a disk; filled in by `map`, and reused: mapping allocates nothing. */
export interface Extent {
  /** One of the above. */
  kind: number
  /** Bytes from where it was asked for. */
  length: number
  /** Where its first byte is in the file; of DATA, and of ZERO when space is kept for it (else 0). */
  host: number
  /** The cluster has no other use: it may be written in place. */
  copied: boolean
  /** Of COMPRESSED: the halves of the table entry. */
  high: number
  low: number
  /** The layer that it is in, of DATA, COMPRESSED, MISSING and CORRUPT. */
  layer: Layer | undefined
}

export function newExtent(): Extent {
  return { kind: UNALLOCATED, length: 0, host: 0, copied: false, high: 0, low: 0, layer: undefined }
}

/** An image of a backing chain: the disk itself, or what it is laid over. */
export interface Layer {
  readonly file: ImageFile
  /** Bytes of the disk. */
  readonly size: number
  /**
   * Describes the first piece of `[offset, offset + length)`, which is on this disk. Never throws; MISSING until `load`
   * has resolved.
   */
  map(offset: number, length: number, into: Extent): void
  /** Brings what `map` needs at `offset`. Rejects with ImageError or an error of the system. */
  load(offset: number): Promise<void>
  /** The cluster of a COMPRESSED extent. */
  decompress(high: number, low: number): Promise<Buffer>
  /** A CORRUPT extent was met. Gives what to fail with. */
  corrupt(offset: number): Error
  close(): Promise<void>
}

/** Maps a disk that is a chain of layers, the topmost first. What no layer has is ZERO. */
export function mapChain(layers: readonly Layer[], offset: number, length: number, into: Extent): void {
  let left = length
  for (let i = 0; i < layers.length; i++) {
    const layer = layers[i]!
    if (offset >= layer.size) break
    layer.map(offset, Math.min(left, layer.size - offset), into)
    into.layer = layer
    if (into.kind !== UNALLOCATED) return
    left = into.length
  }
  into.kind = ZERO
  into.length = left
  into.host = 0
  into.copied = false
}

/** Reads a range of the disk into a buffer, whatever it takes. */
export async function readChain(layers: readonly Layer[], offset: number, length: number): Promise<Buffer> {
  const bytes = Buffer.alloc(length)
  const extent = newExtent()
  for (let done = 0; done < length; ) {
    mapChain(layers, offset + done, length - done, extent)
    const { kind, layer } = extent
    const size = extent.length
    if (kind === MISSING) {
      await layer!.load(offset + done)
      continue
    }
    if (kind === CORRUPT) throw layer!.corrupt(offset + done)
    if (kind === DATA) bytes.set(await layer!.file.read(extent.host, size), done)
    else if (kind === COMPRESSED) {
      const cluster = await layer!.decompress(extent.high, extent.low)
      const from = (offset + done) % cluster.length
      bytes.set(cluster.subarray(from, from + size), done)
    }
    done += size
  }
  return bytes
}
