import { promisify } from "node:util"
import { constants, inflateRaw } from "node:zlib"
import { decompress } from "fzstd"
import { ImageError } from "./errors.js"
import type { ImageFile } from "./image-file.js"

const inflate = promisify(inflateRaw)

/** Decompressed clusters in memory: bytes. */
const CACHE_BYTES = 4 * 1024 * 1024

/** The compressed clusters of an image. */
export class CompressedClusters {
  readonly #file: ImageFile
  readonly #clusterSize: number
  readonly #zstd: boolean
  /** By offset in the file; the one that was used last is the last. Compressed clusters are never written. */
  readonly #cache = new Map<number, Promise<Buffer>>()

  constructor(file: ImageFile, clusterSize: number, compression: "zlib" | "zstd") {
    this.#file = file
    this.#clusterSize = clusterSize
    this.#zstd = compression === "zstd"
  }

  /** Where the compressed bytes are: they end somewhere in the last sector. */
  place(high: number, low: number): { offset: number; length: number } {
    // From bit 62 - (cluster_bits - 8) up: how many further sectors of 512 bytes they touch.
    const offsetBits = 62 - (Math.log2(this.#clusterSize) - 8)
    const highBits = offsetBits - 32
    const offset = (high & (2 ** highBits - 1)) * 2 ** 32 + low
    const sectors = ((high & 0x3fffffff) >>> highBits) + 1
    return { offset, length: sectors * 512 - (offset % 512) }
  }

  /** The cluster's bytes, which the caller leaves as they are. Rejects with ImageError when they cannot be. */
  read(high: number, low: number): Promise<Buffer> {
    const { offset, length } = this.place(high, low)
    const cached = this.#cache.get(offset)
    const cluster = cached ?? this.#decompress(offset, length)
    this.#cache.delete(offset)
    this.#cache.set(offset, cluster)
    if (cached === undefined) {
      cluster.catch(() => this.#cache.delete(offset))
      const most = Math.max(2, CACHE_BYTES / this.#clusterSize)
      if (this.#cache.size > most) this.#cache.delete(this.#cache.keys().next().value!)
    }
    return cluster
  }

  async #decompress(offset: number, length: number): Promise<Buffer> {
    if (offset >= this.#file.length)
      throw new ImageError(
        this.#file.path,
        `a compressed cluster is at ${offset}, behind the end of the file`,
      )
    const bytes = await this.#file.read(offset, length)
    let cluster: Buffer
    try {
      cluster = this.#zstd ? unzstd(bytes, this.#clusterSize) : await this.#inflate(bytes)
    } catch (error) {
      throw this.#damaged(offset, error)
    }
    if (cluster.length !== this.#clusterSize) throw this.#damaged(offset, undefined)
    return cluster
  }

  #inflate(bytes: Buffer): Promise<Buffer> {
    // What follows the stream in its last sector is another's.
    return inflate(bytes, {
      finishFlush: constants.Z_SYNC_FLUSH,
      maxOutputLength: this.#clusterSize,
      chunkSize: Math.max(this.#clusterSize, constants.Z_MIN_CHUNK),
    })
  }

  #damaged(offset: number, cause: unknown): ImageError {
    return new ImageError(this.#file.path, `the compressed cluster at ${offset} is damaged`, { cause })
  }
}

const ZSTD_MAGIC = 0xfd2fb528

/**
 * Decompresses the first frame of `bytes` (RFC 8878), at most `most` bytes. The frame's end must be found before: what
 * follows it belongs to others. Its window is not allocated, since the output serves as one.
 */
function unzstd(bytes: Buffer, most: number): Buffer {
  const end = zstdFrameEnd(bytes)
  const output = Buffer.alloc(most)
  const result = decompress(bytes.subarray(0, end), output)
  return output.subarray(0, result.length)
}

function zstdFrameEnd(bytes: Buffer): number {
  if (bytes.readUInt32LE(0) !== ZSTD_MAGIC) throw new RangeError("no zstd frame")
  const descriptor = bytes.readUInt8(4)
  const single = (descriptor & 0x20) !== 0
  const contentSize = [single ? 1 : 0, 2, 4, 8][descriptor >> 6]!
  const dictionary = [0, 1, 2, 4][descriptor & 3]!
  let at = 5 + (single ? 0 : 1) + dictionary + contentSize
  for (let last = false; !last; ) {
    const header = bytes.readUIntLE(at, 3)
    last = (header & 1) !== 0
    const isRun = ((header >> 1) & 3) === 1
    at += 3 + (isRun ? 1 : header >> 3)
  }
  at += (descriptor & 4) !== 0 ? 4 : 0
  if (at > bytes.length) throw new RangeError("zstd frame is cut off")
  return at
}
