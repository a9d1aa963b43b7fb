import { HEADER, MAX_TABLE_BYTES } from "./constants.js"
import { ImageError } from "./errors.js"
import type { ImageFile, Piece } from "./image-file.js"
import { type DirtyBytes, Table, TableCache } from "./table-cache.js"

export interface RefcountsOptions {
  readonly file: ImageFile
  readonly clusterSize: number
  /** A count has 2 to this power bits: 0 to 6. */
  readonly order: number
  /** Where the refcount blocks are. */
  readonly table: Float64Array
  /** Where that table is in the file. */
  readonly tableOffset: number
  /** Clusters that hold metadata. Never handed out, whatever their count says. */
  readonly metadata: Set<number>
  /** Most refcount blocks in memory. */
  readonly cached: number
  /** The image has lazy reference counts: they go down together with what named the cluster. */
  readonly lazy: boolean
}

/** The refcount table as it is to be written. */
export interface DirtyRefcountTable {
  /** Where, from the start of the file. */
  readonly offset: number
  readonly bytes: Buffer
  /** Set when the table is in another place than the header says. */
  readonly moved: { readonly offset: number; readonly clusters: number } | undefined
}

/** A run of host clusters. */
export interface Run {
  readonly first: number
  readonly count: number
  /** They read as zeros in the file. */
  readonly zero: boolean
}

/**
 * The reference counts of an image, and from them the allocation of clusters: first `reserve`, which changes nothing in
 * the image, then `link` in the same turn as the table entry that names the cluster, so that a count and its use reach
 * the file together. Its methods must not run concurrently (see the mutex of the image).
 */
export class Refcounts {
  /** Counts in a block. */
  readonly perBlock: number
  readonly cache: TableCache
  readonly #file: ImageFile
  readonly #clusterSize: number
  readonly #order: number
  readonly #metadata: Set<number>
  readonly #lazy: boolean
  /** Clusters that are to be used, or were until shortly: their count is 0, and nobody else may have them. */
  readonly #reserved = new Set<number>()
  #table: Float64Array
  #tableOffset: number
  #dirtyFrom: number = Number.POSITIVE_INFINITY
  #dirtyTo = 0
  #moved = false
  /** Former places of the table, as pairs of first cluster and number of clusters: free once the new one is durable. */
  #former: number[] = []
  /** All clusters below are in use. */
  #hint = 0

  constructor(options: RefcountsOptions) {
    this.#file = options.file
    this.#clusterSize = options.clusterSize
    this.#order = options.order
    this.#table = options.table
    this.#tableOffset = options.tableOffset
    this.#metadata = options.metadata
    this.#lazy = options.lazy
    this.perBlock = (options.clusterSize * 8) / 2 ** options.order
    this.cache = new TableCache(options.cached)
  }

  /** The count of a cluster. Throws ImageError when its block is damaged. */
  async get(cluster: number): Promise<number> {
    const index = Math.floor(cluster / this.perBlock)
    if (index >= this.#table.length || this.#table[index] === 0) return 0
    return this.#get(await this.#block(index), cluster)
  }

  /** Takes up to `most` adjacent free clusters for a use that is to come. */
  async reserve(most: number): Promise<Run> {
    for (let cluster = this.#hint; ; cluster++) {
      const index = Math.floor(cluster / this.perBlock)
      if (index >= this.#table.length) await this.#growTable(index)
      else if (this.#table[index] === 0) await this.#newBlock(index)
      const block = this.cache.get(index) ?? (await this.#block(index))
      if (!this.#isFree(block, cluster)) continue
      let count = 1
      const end = (index + 1) * this.perBlock
      while (count < most && cluster + count < end && this.#isFree(block, cluster + count)) count++
      const from = cluster * this.#clusterSize
      const zero = from >= this.#file.virgin
      await this.#file.ensure(from + count * this.#clusterSize)
      for (let i = 0; i < count; i++) this.#reserved.add(cluster + i)
      this.#hint = cluster + count
      return { first: cluster, count, zero }
    }
  }

  /** Gives reserved clusters back. */
  unreserve(run: Pick<Run, "first" | "count">): void {
    for (let i = 0; i < run.count; i++) this.#reserved.delete(run.first + i)
    this.#hint = Math.min(this.#hint, run.first)
  }

  /** Takes adjacent clusters, used once each from now on, where nothing was counted yet. Gives the first. */
  async allocateAdjacent(count: number): Promise<number> {
    const index = this.#table.findLastIndex((offset) => offset !== 0) + 1
    let blocks = 1
    while (blocks * this.perBlock < blocks + count) blocks++
    if (index + blocks > this.#table.length) await this.#growTable(index + blocks)
    const start = index * this.perBlock
    await this.#file.ensure((start + blocks + count) * this.#clusterSize)
    for (let i = 0; i < blocks; i++) this.#addBlock(index + i, start + i)
    this.#count(start, blocks + count)
    return start + blocks
  }

  /** The block with the counts of a reserved cluster, kept in memory until `pins` is given back. */
  async pinned(cluster: number): Promise<Table> {
    const block = await this.#block(Math.floor(cluster / this.perBlock))
    block.pins++
    return block
  }

  /** Reserved clusters are used from now on, each once. `block` is pinned; a run lies within one block. */
  link(block: Table, first: number, count: number): void {
    for (let i = 0; i < count; i++) {
      this.#reserved.delete(first + i)
      this.#set(block, first + i, 1)
    }
  }

  /** The blocks with the counts of used clusters, kept in memory until `unpin`. */
  async pinnedAll(first: number, count: number): Promise<Table[]> {
    const blocks: Table[] = []
    const last = Math.min(Math.floor((first + count - 1) / this.perBlock), this.#table.length - 1)
    try {
      for (let index = Math.floor(first / this.perBlock); index <= last; index++) {
        // What has no block has no use: `drop` says so.
        if (this.#table[index] === 0) continue
        const block = await this.#block(index)
        block.pins++
        blocks.push(block)
      }
    } catch (error) {
      unpin(blocks)
      throw error
    }
    return blocks
  }

  /**
   * A use of the cluster has ended; its block is in memory. True when that was the last: then nobody gets the cluster
   * before `release`. Throws ImageError when none was counted.
   */
  drop(cluster: number): boolean {
    const block = this.cache.get(Math.floor(cluster / this.perBlock))
    const count = block === undefined ? 0 : this.#get(block, cluster)
    if (block === undefined || count === 0)
      throw new ImageError(this.#file.path, `cluster ${cluster} is in use and its reference count is 0`)
    this.#set(block, cluster, count - 1)
    if (count > 1) return false
    this.#reserved.add(cluster)
    return true
  }

  /** Clusters that lost their last use can be taken. */
  release(first: number, count: number): void {
    for (let i = 0; i < count; i++) this.#metadata.delete(first + i)
    this.unreserve({ first, count })
  }

  /** Copies what is to be written; see TableCache.take. */
  take(): { blocks: DirtyBytes[]; table: DirtyRefcountTable | undefined } {
    return { blocks: this.cache.take(), table: this.#takeTable() }
  }

  /** Pairs of first cluster and number of clusters that are free once what `take` gives is durable. */
  takeFormer(): number[] {
    const former = this.#former
    this.#former = []
    return former
  }

  /** Ends what `take` began. */
  written(blocks: readonly DirtyBytes[], table: DirtyRefcountTable | undefined, success: boolean): void {
    this.cache.written(blocks, success)
    if (success || table === undefined) return
    const from = (table.offset - this.#tableOffset) / 8
    if (table.moved !== undefined || from < 0) {
      this.#moved = true
      this.#markTable(0, this.#table.length)
    } else {
      this.#markTable(from, from + table.bytes.length / 8)
    }
  }

  get dirty(): boolean {
    return this.cache.dirtyCount > 0 || this.#dirtyTo > 0
  }

  #takeTable(): DirtyRefcountTable | undefined {
    if (this.#dirtyTo === 0) return undefined
    const from = this.#moved ? 0 : this.#dirtyFrom
    const to = this.#moved ? this.#table.length : this.#dirtyTo
    const bytes = encodeOffsets(this.#table.subarray(from, to))
    const clusters = (this.#table.length * 8) / this.#clusterSize
    const moved = this.#moved ? { offset: this.#tableOffset, clusters } : undefined
    this.#dirtyFrom = Number.POSITIVE_INFINITY
    this.#dirtyTo = 0
    this.#moved = false
    return { offset: this.#tableOffset + from * 8, bytes, moved }
  }

  #markTable(from: number, to: number): void {
    this.#dirtyFrom = Math.min(this.#dirtyFrom, from)
    this.#dirtyTo = Math.max(this.#dirtyTo, to)
  }

  async #block(index: number): Promise<Table> {
    const cached = this.cache.get(index)
    if (cached !== undefined) return cached
    const offset = this.#table[index]!
    if (offset % this.#clusterSize !== 0 || offset >= this.#file.length)
      throw new ImageError(
        this.#file.path,
        `refcount block ${index} is at ${offset}, which is not in the file`,
      )
    const bytes = await this.#file.read(offset, this.#clusterSize)
    const block = new Table(index, offset, bytes)
    this.cache.add(block)
    return block
  }

  #isFree(block: Table, cluster: number): boolean {
    return this.#get(block, cluster) === 0 && !this.#reserved.has(cluster) && !this.#metadata.has(cluster)
  }

  /** Nothing of the block's clusters is counted: it takes the first of them for itself. */
  async #newBlock(index: number): Promise<void> {
    const from = index * this.perBlock
    let cluster = from
    while (this.#metadata.has(cluster)) cluster++
    // Cluster 0 is the header, which must have been counted.
    if (index === 0 || cluster >= from + this.perBlock)
      throw new ImageError(
        this.#file.path,
        `clusters from ${from} on are in use and have no reference counts`,
      )
    await this.#file.ensure((cluster + 1) * this.#clusterSize)
    this.#addBlock(index, cluster)
  }

  #addBlock(index: number, cluster: number): void {
    const offset = cluster * this.#clusterSize
    const block = new Table(index, offset, Buffer.alloc(this.#clusterSize), true)
    this.cache.add(block)
    this.cache.markDirty(block, 0, this.#clusterSize)
    this.#table[index] = offset
    this.#markTable(index, index + 1)
    this.#metadata.add(cluster)
    if (Math.floor(cluster / this.perBlock) === index) this.#set(block, cluster, 1)
  }

  /** The table has no room for block `index`: it moves, with room to grow, to where nothing was counted yet. */
  async #growTable(index: number): Promise<void> {
    const start = index * this.perBlock
    if (this.#metadata.has(start))
      throw new ImageError(this.#file.path, `cluster ${start} is in use and has no reference count`)
    const entriesOf = (clusters: number) => (clusters * this.#clusterSize) / 8
    let clusters = Math.ceil((Math.max(index + 2, this.#table.length * 1.5) * 8) / this.#clusterSize)
    let blocks = 1
    while (blocks * this.perBlock < blocks + clusters || entriesOf(clusters) < index + blocks) {
      if (blocks * this.perBlock < blocks + clusters) blocks++
      else clusters++
    }
    if (clusters * this.#clusterSize > MAX_TABLE_BYTES) {
      const full = new Error(
        `${this.#file.path} cannot grow further with clusters of ${this.#clusterSize} bytes`,
      )
      throw Object.assign(full, { errno: 27, code: "EFBIG" })
    }
    await this.#file.ensure((start + blocks + clusters) * this.#clusterSize)
    const first = this.#tableOffset / this.#clusterSize
    const count = (this.#table.length * 8) / this.#clusterSize
    const counts = this.#lazy ? await this.pinnedAll(first, count) : []
    try {
      this.#leave(first, count)
    } finally {
      unpin(counts)
    }
    const table = new Float64Array(entriesOf(clusters))
    table.set(this.#table)
    this.#table = table
    this.#tableOffset = (start + blocks) * this.#clusterSize
    this.#moved = true
    this.#markTable(0, table.length)
    for (let i = 0; i < blocks; i++) this.#addBlock(index + i, start + i)
    this.#count(start, blocks + clusters)
    for (let i = 0; i < clusters; i++) this.#metadata.add(start + blocks + i)
  }

  /** The place of the table, which is going to be free. */
  #leave(first: number, count: number): void {
    if (!this.#lazy) this.#former.push(first, count)
    else for (let i = 0; i < count; i++) if (this.drop(first + i)) this.#former.push(first + i, 1)
  }

  /** Counts clusters as used once. Their blocks were just added, and are in memory because they are dirty. */
  #count(first: number, count: number): void {
    for (let cluster = first; cluster < first + count; cluster++) {
      this.#set(this.cache.get(Math.floor(cluster / this.perBlock))!, cluster, 1)
    }
  }

  #get(block: Table, cluster: number): number {
    return readCount(block.view, cluster % this.perBlock, this.#order)
  }

  #set(block: Table, cluster: number, count: number): void {
    const [from, to] = writeCount(block.view, cluster % this.perBlock, this.#order, count)
    this.cache.markDirty(block, from, to)
  }
}

/** Tables that were pinned may leave memory again. */
export function unpin(tables: readonly Table[]): void {
  for (const table of tables) table.pins--
}

/** Count `index` of a block whose counts have 2^`order` bits. */
export function readCount(view: DataView, index: number, order: number): number {
  switch (order) {
    case 3:
      return view.getUint8(index)
    case 4:
      return view.getUint16(index * 2)
    case 5:
      return view.getUint32(index * 4)
    case 6:
      return view.getUint32(index * 8) * 2 ** 32 + view.getUint32(index * 8 + 4)
    default: {
      // The first of several counts in a byte has the lowest bits.
      const bits = 1 << order
      const at = index * bits
      return (view.getUint8(at >> 3) >> (at & 7)) & ((1 << bits) - 1)
    }
  }
}

/** Gives the bytes that it changed: from, to. */
export function writeCount(view: DataView, index: number, order: number, count: number): [number, number] {
  if (order >= 3) {
    const bytes = 1 << (order - 3)
    const at = index * bytes
    if (order === 3) view.setUint8(at, count)
    else if (order === 4) view.setUint16(at, count)
    else view.setUint32(at + bytes - 4, count % 2 ** 32)
    if (order === 6) view.setUint32(at, Math.floor(count / 2 ** 32))
    return [at, at + bytes]
  }
  const bits = 1 << order
  const at = (index * bits) >> 3
  const shift = (index * bits) & 7
  const mask = ((1 << bits) - 1) << shift
  view.setUint8(at, (view.getUint8(at) & ~mask) | (count << shift))
  return [at, at + 1]
}

export function encodeOffsets(offsets: Float64Array): Buffer {
  const bytes = Buffer.alloc(offsets.length * 8)
  for (const [i, offset] of offsets.entries()) {
    bytes.writeUInt32BE(Math.floor(offset / 2 ** 32), i * 8)
    bytes.writeUInt32BE(offset % 2 ** 32, i * 8 + 4)
  }
  return bytes
}

/** Where the header says that the refcount table is. The two fields lie side by side: they change together. */
export function refcountTablePlace({ offset, clusters }: { offset: number; clusters: number }): Piece {
  const bytes = Buffer.alloc(12)
  bytes.writeUInt32BE(Math.floor(offset / 2 ** 32), 0)
  bytes.writeUInt32BE(offset % 2 ** 32, 4)
  bytes.writeUInt32BE(clusters, 8)
  return { offset: HEADER.refcountTableOffset, bytes }
}
