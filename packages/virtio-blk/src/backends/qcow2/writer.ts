import { commitInOrder, commitTogether } from "./commit.js"
import {
  ENTRY_COMPRESSED_HIGH,
  ENTRY_COPIED_HIGH,
  ENTRY_ZERO_LOW,
  HEADER,
  MAX_TABLE_BYTES,
} from "./constants.js"
import { ImageError, unsupported } from "./errors.js"
import { DeferredFrees } from "./frees.js"
import { cachedTables, decodeL1, isDirty, metadataClusters, type Qcow2Image } from "./image.js"
import type { Piece } from "./image-file.js"
import { entryOffset } from "./l2-entry.js"
import { Mutex } from "./locks.js"
import { encodeOffsets, Refcounts, type Run, unpin } from "./refcounts.js"
import { Table } from "./table-cache.js"

/**
 * Bytes of clusters that wait to be free. A guest that writes and discards without ever flushing makes the file longer than
 * its disk by about this.
 */
const MAX_WAITING = 16 * 1024 * 1024

/** Space in the file that nothing uses any more, by offset and length in bytes. Resolves when that is done. */
export type Punch = (offset: number, length: number) => Promise<void>

/** Adjacent clusters of the file. */
interface Clusters {
  readonly first: number
  readonly count: number
}

const NOTHING: Clusters = { first: 0, count: 0 }

/** What a table entry becomes. */
export interface EntryChange {
  /** L1 index. */
  readonly table: number
  /** Index in that L2 table of the first entry, and how many. */
  readonly first: number
  readonly count: number
}

/**
 * Changes the tables of an image. All changes are made in memory; `sync` brings them to the file such that the image is
 * whole wherever it is interrupted (see commit.ts).
 *
 * A count and the entry that makes it so change in one turn, and a sync copies all that is dirty in one turn: what it copies
 * fits together. Only the counts of clusters that go out of use follow later, once no table in the file names the cluster, unless
 * the image has lazy reference counts.
 */
export class Qcow2Writer {
  readonly frees: DeferredFrees
  readonly #image: Qcow2Image
  readonly #refcounts: Refcounts
  readonly #metadata: Set<number>
  readonly #punch: Punch
  /** The image has lazy reference counts. */
  readonly #lazy: boolean
  /** Whoever allocates, or changes what the allocator reads. */
  readonly #mutex = new Mutex()
  #dirtyL1From: number = Number.POSITIVE_INFINITY
  #dirtyL1To = 0
  #syncing: Promise<void> | undefined
  #nextSync: Promise<void> | undefined
  #releasing: Promise<void> = Promise.resolve()

  private constructor(image: Qcow2Image, table: Float64Array, metadata: Set<number>, punch: Punch) {
    const { header, file } = image
    this.#image = image
    this.#metadata = metadata
    this.#punch = punch
    this.#lazy = header.lazyRefcounts
    this.frees = new DeferredFrees((batch) => this.#release(batch))
    this.#refcounts = new Refcounts({
      file,
      clusterSize: header.clusterSize,
      order: header.refcountOrder,
      table,
      tableOffset: header.refcountTableOffset,
      metadata,
      cached: cachedTables(header.clusterSize),
      lazy: header.lazyRefcounts,
    })
  }

  /** Throws ImageError when the tables overlap. */
  static async open(image: Qcow2Image, punch: Punch): Promise<Qcow2Writer> {
    const { header, file } = image
    const bytes = await file.read(
      header.refcountTableOffset,
      header.refcountTableClusters * header.clusterSize,
    )
    const table = decodeL1(bytes).offsets
    const writer = new Qcow2Writer(image, table, metadataClusters(image, table), punch)
    // Bitmaps and the like would be wrong after the first write, and no longer be known to be.
    if (header.autoclear) await file.write(HEADER.autoclear, Buffer.alloc(8))
    return writer
  }

  /** Whether the file lacks something that `sync` would write. */
  get dirty(): boolean {
    return this.#image.l2.dirtyCount > 0 || this.#refcounts.dirty || this.#dirtyL1To > 0
  }

  /** Must be true of whatever a guest's data is written to: a damaged table may name the image's own tables. */
  isData(host: number, length: number): boolean {
    const { clusterSize } = this.#image.format
    const last = Math.floor((host + length - 1) / clusterSize)
    if (last * clusterSize >= this.#image.file.length) return false
    for (let cluster = Math.floor(host / clusterSize); cluster <= last; cluster++) {
      if (this.#metadata.has(cluster)) return false
    }
    return true
  }

  /** Before a change: makes room in memory, and throws when nothing may be written any more. */
  async prepare(): Promise<void> {
    const waiting = this.frees.pending * this.#image.format.clusterSize
    if (this.#image.l2.crowded || this.#refcounts.cache.crowded || waiting > MAX_WAITING) await this.sync()
    if (this.#image.broken !== undefined) throw this.#image.broken
  }

  /** Takes up to `most` adjacent free clusters. */
  reserve(most: number): Promise<Run> {
    return this.#guarded(() => this.#refcounts.reserve(most))
  }

  unreserve(run: Run): void {
    this.#refcounts.unreserve(run)
  }

  /** Makes entries name the reserved clusters of `run`, one each, and frees what they named. */
  link(change: EntryChange, run: Run): Promise<void> {
    return this.#guarded(async () => {
      const table = await this.#writableTable(change.table)
      const pinned = [table]
      try {
        const block = await this.#refcounts.pinned(run.first)
        pinned.push(block)
        for (let i = 0; i < change.count; i++)
          pinned.push(...(await this.#pinCounts(this.#named(table, change.first + i))))
        this.#refcounts.link(block, run.first, run.count)
        const { clusterSize } = this.#image.format
        for (let i = 0; i < change.count; i++) {
          this.#free(this.#named(table, change.first + i))
          const host = (run.first + i) * clusterSize
          const high = ENTRY_COPIED_HIGH + Math.floor(host / 2 ** 32)
          this.#setEntry(table, change.first + i, high, host % 2 ** 32)
        }
      } finally {
        unpin(pinned)
      }
    })
  }

  /** Changes entries one by one: `update` says what becomes of one, and whether its clusters are freed. */
  change(
    change: EntryChange,
    update: (high: number, low: number) => { high: number; low: number; free: boolean } | undefined,
  ): Promise<void> {
    return this.#guarded(async () => {
      const table = await this.#writableTable(change.table)
      try {
        for (let index = change.first; index < change.first + change.count; index++) {
          const next = update(table.view.getUint32(index * 8), table.view.getUint32(index * 8 + 4))
          if (next === undefined) continue
          const freed = next.free ? this.#named(table, index) : NOTHING
          const counts = await this.#pinCounts(freed)
          try {
            this.#free(freed)
          } finally {
            unpin(counts)
          }
          this.#setEntry(table, index, next.high, next.low)
          // Each may have changed counts in another block.
          if (this.#refcounts.cache.crowded) await this.sync()
        }
      } finally {
        table.pins--
      }
    })
  }

  /** Entries of zero clusters that kept their space get their data back. */
  clearZero(change: EntryChange): Promise<void> {
    return this.change(change, (high, low) => ({ high, low: (low & ~ENTRY_ZERO_LOW) >>> 0, free: false }))
  }

  /**
   * Makes all changes, and all data written before, durable. Calls that come while one is under way share the next one.
   */
  sync(): Promise<void> {
    if (this.#syncing === undefined) {
      this.#syncing = this.#sync().finally(() => {
        this.#syncing = undefined
      })
      return this.#syncing
    }
    this.#nextSync ??= this.#syncing
      .catch(() => undefined)
      .then(() => {
        this.#nextSync = undefined
        return this.sync()
      })
    return this.#nextSync
  }

  /**
   * Makes the disk longer, to `size` bytes. The new part reads as zeros: what lies below ends before it, or is hidden. Throws
   * ConfigError when the L1 table would have to be too large.
   */
  grow(size: number): Promise<void> {
    return this.#guarded(async () => {
      const image = this.#image
      if (image.broken !== undefined) throw image.broken
      const needed = Math.ceil(size / image.bytesPerTable)
      if (needed * 8 > MAX_TABLE_BYTES)
        throw unsupported(
          image.file.path,
          `it cannot grow to ${size} bytes with clusters of ${image.format.clusterSize}`,
        )
      if (needed > image.l1.length) await this.#moveL1(needed)
      const bytes = Buffer.alloc(8)
      bytes.writeUInt32BE(Math.floor(size / 2 ** 32), 0)
      bytes.writeUInt32BE(size % 2 ** 32, 4)
      await image.file.write(HEADER.size, bytes)
      await image.file.sync()
      image.size = size
    })
  }

  /** No request is in flight. Everything that is free is counted as free in the file after that. */
  async close(): Promise<void> {
    for (let round = 0; round < 3; round++) {
      if (this.#image.broken !== undefined) return
      if (this.dirty || !this.frees.empty) await this.sync()
      await this.#releasing
    }
    if (isDirty(this.#image.header)) {
      await this.#image.setDirty(false)
      await this.#image.file.sync()
    }
    await this.#image.file.trim()
  }

  async #sync(): Promise<void> {
    const { l2, broken } = this.#image
    if (broken !== undefined) throw broken
    const former = this.#refcounts.takeFormer()
    for (let i = 0; i < former.length; i += 2) this.frees.add(former[i]!, former[i + 1]!)
    this.frees.seal()
    const { blocks, table: refcountTable } = this.#refcounts.take()
    const tables = l2.take()
    const l1 = this.#takeL1()
    let success = false
    try {
      await (this.#lazy ? commitTogether : commitInOrder)(this.#image, { blocks, refcountTable, tables, l1 })
      success = true
    } finally {
      this.#refcounts.written(blocks, refcountTable, success)
      l2.written(tables, success)
      if (!success && l1 !== undefined) this.#markL1(l1.from, l1.from + l1.bytes.length / 8)
    }
    this.frees.durable()
  }

  /** A longer L1 table needs adjacent clusters: it goes where nothing was counted yet. */
  async #moveL1(entries: number): Promise<void> {
    const image = this.#image
    const { clusterSize } = image.format
    const clusters = Math.ceil((entries * 8) / clusterSize)
    const first = await this.#refcounts.allocateAdjacent(clusters)
    // Its counts come first, then the table, then the header that names it: a kill meanwhile leaves a leak.
    await this.sync()
    const former = {
      first: image.header.l1Offset / clusterSize,
      count: Math.ceil((image.l1.length * 8) / clusterSize),
    }
    const l1 = new Float64Array(entries)
    const copied = new Uint8Array(entries)
    l1.set(image.l1)
    copied.set(image.l1Copied)
    image.l1 = l1
    image.l1Copied = copied
    image.header = { ...image.header, l1Offset: first * clusterSize, l1Size: entries }
    for (let i = 0; i < clusters; i++) this.#metadata.add(first + i)
    const bytes = this.#encodeL1(0, entries)
    await image.file.write(first * clusterSize, bytes)
    await image.file.sync()
    const place = Buffer.alloc(12)
    place.writeUInt32BE(entries, 0)
    place.writeUInt32BE(Math.floor((first * clusterSize) / 2 ** 32), 4)
    place.writeUInt32BE((first * clusterSize) % 2 ** 32, 8)
    await image.file.write(HEADER.l1Size, place)
    await image.file.sync()
    const counts = await this.#pinCounts(former)
    try {
      this.#free(former)
    } finally {
      unpin(counts)
    }
  }

  #takeL1(): (Piece & { from: number }) | undefined {
    if (this.#dirtyL1To === 0) return undefined
    const from = this.#dirtyL1From
    const bytes = this.#encodeL1(from, this.#dirtyL1To)
    this.#dirtyL1From = Number.POSITIVE_INFINITY
    this.#dirtyL1To = 0
    return { from, offset: this.#image.header.l1Offset + from * 8, bytes }
  }

  #encodeL1(from: number, to: number): Buffer {
    const { l1, l1Copied } = this.#image
    const bytes = encodeOffsets(l1.subarray(from, to))
    for (let i = 0; i < bytes.length / 8; i++) {
      if (l1Copied[from + i] === 1) bytes.writeUInt8(bytes.readUInt8(i * 8) | 0x80, i * 8)
    }
    return bytes
  }

  #markL1(from: number, to: number): void {
    this.#dirtyL1From = Math.min(this.#dirtyL1From, from)
    this.#dirtyL1To = Math.max(this.#dirtyL1To, to)
  }

  /** The L2 table, pinned, and used by nobody else: a new one where there is none, a copy of a shared one. */
  async #writableTable(index: number): Promise<Table> {
    const image = this.#image
    const { clusterSize } = image.format
    const former = image.l1[index]!
    const present = former === 0 ? undefined : await this.#pinnedTable(index)
    if (present !== undefined && image.l1Copied[index] === 1) return present
    const bytes = present === undefined ? Buffer.alloc(clusterSize) : Buffer.from(present.bytes)
    if (present !== undefined) present.pins--
    const run = await this.#refcounts.reserve(1)
    const freed = former === 0 ? NOTHING : { first: former / clusterSize, count: 1 }
    const pinned = await this.#pinCounts(freed)
    try {
      const block = await this.#refcounts.pinned(run.first)
      pinned.push(block)
      this.#free(freed)
      const table = new Table(index, run.first * clusterSize, bytes, true)
      table.pins++
      this.#refcounts.link(block, run.first, 1)
      image.l2.add(table)
      image.l2.markDirty(table, 0, clusterSize)
      image.l1[index] = table.offset
      image.l1Copied[index] = 1
      this.#metadata.add(run.first)
      this.#markL1(index, index + 1)
      return table
    } finally {
      unpin(pinned)
    }
  }

  async #pinnedTable(index: number): Promise<Table> {
    for (;;) {
      const table = this.#image.l2.get(index)
      if (table !== undefined) {
        table.pins++
        return table
      }
      await this.#image.load(index * this.#image.bytesPerTable)
    }
  }

  #setEntry(table: Table, index: number, high: number, low: number): void {
    table.view.setUint32(index * 8, high)
    table.view.setUint32(index * 8 + 4, low)
    this.#image.l2.markDirty(table, index * 8, index * 8 + 8)
  }

  /** The clusters that an entry names. */
  #named(table: Table, index: number): Clusters {
    const { clusterSize } = this.#image.format
    const high = table.view.getUint32(index * 8)
    const low = table.view.getUint32(index * 8 + 4)
    if ((high & ENTRY_COMPRESSED_HIGH) !== 0) {
      const { offset, length } = this.#image.compressed.place(high, low)
      const first = Math.floor(offset / clusterSize)
      return { first, count: Math.floor((offset + length - 1) / clusterSize) - first + 1 }
    }
    const offset = entryOffset(high, low)
    return offset === 0 ? NOTHING : { first: offset / clusterSize, count: 1 }
  }

  /** Before `#free`: what that changes, kept in memory until `unpin`. */
  async #pinCounts({ first, count }: Clusters): Promise<Table[]> {
    return this.#lazy && count > 0 ? this.#refcounts.pinnedAll(first, count) : []
  }

  /** Clusters have one use less, once the tables are durable. Lazy counts say so at once, to be written together with the tables. */
  #free({ first, count }: Clusters): void {
    if (!this.#lazy && count > 0) this.frees.add(first, count)
    if (!this.#lazy) return
    for (let cluster = first; cluster < first + count; cluster++) {
      if (this.#refcounts.drop(cluster)) this.frees.add(cluster, 1)
    }
  }

  #release(batch: readonly number[]): void {
    this.#releasing = this.#guarded(async () => {
      for (let i = 0; i < batch.length; i += 2) await this.#giveBack(batch[i]!, batch[i + 1]!)
    }).catch(() => undefined)
  }

  /** Clusters that nothing uses any more lose their space in the file, before anybody can get them. */
  async #giveBack(first: number, count: number): Promise<void> {
    const { clusterSize } = this.#image.format
    let from = first
    for (let cluster = first; cluster <= first + count; cluster++) {
      if (cluster < first + count && (this.#lazy || (await this.#dropLate(cluster)))) continue
      if (cluster > from) {
        await this.#punch(from * clusterSize, (cluster - from) * clusterSize)
        this.#refcounts.release(from, cluster - from)
      }
      from = cluster + 1
    }
  }

  async #dropLate(cluster: number): Promise<boolean> {
    const counts = await this.#refcounts.pinnedAll(cluster, 1)
    try {
      return this.#refcounts.drop(cluster)
    } finally {
      unpin(counts)
    }
  }

  /** Runs a task that allocates; damage that it finds ends all writing. */
  #guarded<T>(task: () => Promise<T>): Promise<T> {
    return this.#mutex.run(async () => {
      try {
        return await task()
      } catch (error) {
        if (error instanceof ImageError) this.#image.damaged(error.message.replace(/^disk .*?: /, ""))
        throw error
      }
    })
  }
}
