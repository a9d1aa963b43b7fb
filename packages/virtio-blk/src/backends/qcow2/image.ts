import { CompressedClusters } from "./compressed.js"
import { HEADER, INCOMPAT_CORRUPT, INCOMPAT_DIRTY } from "./constants.js"
import { ImageError, unsupported } from "./errors.js"
import { CORRUPT, type Extent, type Layer, MISSING, UNALLOCATED } from "./extent.js"
import { parseHeader, type Qcow2Header } from "./header.js"
import type { ImageFile } from "./image-file.js"
import { decode, type L2Format } from "./l2-entry.js"
import { readSnapshots, type SnapshotTable } from "./snapshots.js"
import { Table, TableCache } from "./table-cache.js"

/** Bytes of L2 tables, and as many of refcount blocks, in memory: enough for 128 GiB of disk with clusters of 64 KiB. */
const CACHE_BYTES = 16 * 1024 * 1024
const MIN_CACHED = 8
/** They are kept in a set: some 100 MiB of it. */
const MAX_METADATA_CLUSTERS = 4_000_000

/** How many tables of that size an image keeps in memory. */
export function cachedTables(clusterSize: number): number {
  return Math.max(MIN_CACHED, Math.min(4096, CACHE_BYTES / clusterSize))
}

/** A qcow2 image as it is read; `Qcow2Writer` adds the writing. */
export class Qcow2Image implements Layer {
  readonly file: ImageFile
  header: Qcow2Header
  readonly format: L2Format
  /** Guest bytes that an L2 table covers. */
  readonly bytesPerTable: number
  /** By L1 index: host offset of the L2 table, 0 for none. */
  l1: Float64Array
  /** By L1 index: 1 when the table has no other use. */
  l1Copied: Uint8Array
  readonly l2: TableCache
  readonly snapshots: SnapshotTable
  readonly compressed: CompressedClusters
  /** Why nothing is written any more. */
  broken: Error | undefined
  #size: number
  readonly #loading = new Map<number, Promise<void>>()

  private constructor(
    file: ImageFile,
    header: Qcow2Header,
    l1: { offsets: Float64Array; copied: Uint8Array },
    snapshots: SnapshotTable,
  ) {
    const { version, clusterSize, extendedL2 } = header
    this.file = file
    this.header = header
    this.format = { version, clusterSize, extended: extendedL2 }
    this.bytesPerTable = (clusterSize / (extendedL2 ? 16 : 8)) * clusterSize
    this.l1 = l1.offsets
    this.l1Copied = l1.copied
    this.l2 = new TableCache(cachedTables(clusterSize))
    this.snapshots = snapshots
    this.compressed = new CompressedClusters(file, clusterSize, header.compression)
    this.#size = header.size
  }

  /**
   * Reads header, L1 table and snapshot table. Throws ImageError when the image is damaged, ConfigError when it cannot be
   * used (in this way). Leaves the file open.
   */
  static async open(file: ImageFile): Promise<Qcow2Image> {
    const header = await readHeader(file)
    if (!file.readonly) checkWritable(file.path, header)
    const l1 = decodeL1(await file.read(header.l1Offset, header.l1Size * 8))
    return new Qcow2Image(file, header, l1, await readSnapshots(file, header))
  }

  get size(): number {
    return this.#size
  }

  set size(bytes: number) {
    this.#size = bytes
  }

  map(offset: number, length: number, into: Extent): void {
    const { bytesPerTable } = this
    const index = Math.floor(offset / bytesPerTable)
    const within = offset - index * bytesPerTable
    const most = Math.min(length, bytesPerTable - within)
    into.host = 0
    into.copied = false
    if (this.l1[index] === 0) {
      into.kind = UNALLOCATED
      into.length = most
      return
    }
    const table = this.l2.get(index)
    if (table === undefined) {
      into.kind = MISSING
      into.length = most
      return
    }
    const { clusterSize } = this.format
    const cluster = Math.floor(within / clusterSize)
    decode(table.view, this.format, cluster, within - cluster * clusterSize, most, into)
    // No file is as long: the sum must stay exact.
    if (into.host > Number.MAX_SAFE_INTEGER - length) into.kind = CORRUPT
  }

  load(offset: number): Promise<void> {
    const index = Math.floor(offset / this.bytesPerTable)
    if (this.l1[index] === 0 || this.l2.get(index) !== undefined) return Promise.resolve()
    const before = this.#loading.get(index)
    if (before !== undefined) return before
    const loading = this.#loadTable(index).finally(() => this.#loading.delete(index))
    this.#loading.set(index, loading)
    return loading
  }

  decompress(high: number, low: number): Promise<Buffer> {
    return this.compressed.read(high, low)
  }

  corrupt(offset: number): Error {
    return this.damaged(`the table entry for offset ${offset} of the disk is damaged`)
  }

  /** Gives the error, and ends all writing to the image (bad-input #26). */
  damaged(message: string): ImageError {
    const error = new ImageError(this.file.path, message)
    if (this.broken !== undefined || this.file.readonly) return error
    this.broken = error
    if (this.header.version === 3) {
      this.header = { ...this.header, incompatible: this.header.incompatible | INCOMPAT_CORRUPT }
      // Best effort: what is damaged will be found again.
      this.writeIncompatible().catch(() => undefined)
    }
    return error
  }

  /** Sets the dirty bit, or takes it off: not durable before the next sync. */
  async setDirty(dirty: boolean): Promise<void> {
    if (isDirty(this.header) === dirty) return
    const flip = () => {
      this.header = { ...this.header, incompatible: this.header.incompatible ^ INCOMPAT_DIRTY }
    }
    flip()
    try {
      await this.writeIncompatible()
    } catch (error) {
      flip()
      throw error
    }
  }

  /** Writes the incompatible feature bits of the header. */
  async writeIncompatible(): Promise<void> {
    const bytes = Buffer.alloc(4)
    bytes.writeUInt32BE(this.header.incompatible >>> 0)
    await this.file.write(HEADER.incompatible + 4, bytes)
  }

  close(): Promise<void> {
    return this.file.close()
  }

  async #loadTable(index: number): Promise<void> {
    const offset = this.l1[index]!
    if (offset % this.format.clusterSize !== 0 || offset >= this.file.length)
      throw this.damaged(`L2 table ${index} is at ${offset}, which is not in the file`)
    const bytes = await this.file.read(offset, this.format.clusterSize)
    // Meanwhile it may have got a table, in memory.
    if (this.l2.get(index) === undefined && this.l1[index] === offset)
      this.l2.add(new Table(index, offset, bytes))
  }
}

async function readHeader(file: ImageFile): Promise<Qcow2Header> {
  // The first cluster, whose size is not known yet.
  const bytes = await file.read(0, Math.min(file.length, 2 ** 21))
  return parseHeader(file.path, bytes, file.length)
}

function checkWritable(path: string, { incompatible, extendedL2 }: Qcow2Header): void {
  if ((incompatible & INCOMPAT_CORRUPT) !== 0)
    throw unsupported(path, `it is marked corrupt; repair it with: qemu-img check -r all ${path}`)
  if (extendedL2) throw unsupported(path, "extended L2 entries can only be read; open it readonly")
}

export function isDirty({ incompatible }: Qcow2Header): boolean {
  return (incompatible & INCOMPAT_DIRTY) !== 0
}

/** Bits 9 to 55 are an offset, bit 63 says that there is no other use. */
export function decodeL1(bytes: Buffer): { offsets: Float64Array; copied: Uint8Array } {
  const entries = bytes.length / 8
  const offsets = new Float64Array(entries)
  const copied = new Uint8Array(entries)
  for (let i = 0; i < entries; i++) {
    const high = bytes.readUInt32BE(i * 8)
    offsets[i] = (high & 0x00ffffff) * 2 ** 32 + ((bytes.readUInt32BE(i * 8 + 4) & 0xfffffe00) >>> 0)
    copied[i] = high >>> 31
  }
  return { offsets, copied }
}

/** Clusters that hold metadata other than refcount blocks, which are in `blocks`. Throws ImageError when they overlap. */
export function metadataClusters(image: Qcow2Image, blocks: Float64Array): Set<number> {
  const { header, file, snapshots } = image
  const { clusterSize } = header
  const clusters = new Set<number>([0])
  const add = (what: string, offset: number, length: number) => {
    const first = Math.floor(offset / clusterSize)
    for (let cluster = first; cluster < Math.ceil((offset + length) / clusterSize); cluster++) {
      if (clusters.size > MAX_METADATA_CLUSTERS) throw new ImageError(file.path, "it has too much metadata")
      if (clusters.has(cluster))
        throw new ImageError(file.path, `${what} overlaps other metadata at ${offset}`)
      clusters.add(cluster)
    }
  }
  add("its L1 table", header.l1Offset, header.l1Size * 8)
  add("its refcount table", header.refcountTableOffset, header.refcountTableClusters * clusterSize)
  add("its snapshot table", header.snapshotsOffset, snapshots.length)
  for (const { l1Offset, l1Size } of snapshots.entries) add("a snapshot's L1 table", l1Offset, l1Size * 8)
  for (const offset of blocks) if (offset !== 0) add("a refcount block", offset, clusterSize)
  for (const offset of image.l1) if (offset !== 0) add("an L2 table", offset, clusterSize)
  return clusters
}
