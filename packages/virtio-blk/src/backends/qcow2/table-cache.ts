/** A table of the image in memory, as it is in the file: an L2 table or a refcount block. */
export class Table {
  /** Which one: its place in the table above it. */
  readonly index: number
  /** Where it is in the file. */
  readonly offset: number
  readonly bytes: Buffer
  readonly view: DataView
  /** Changed bytes that the file has not yet; none when `dirtyTo` is 0. */
  dirtyFrom: number = Number.POSITIVE_INFINITY
  dirtyTo = 0
  /** How many keep it in memory. */
  pins = 0
  used = true
  /** Nothing in the file names it yet: it may be written there at any time. */
  fresh: boolean

  constructor(index: number, offset: number, bytes: Buffer, fresh = false) {
    this.index = index
    this.offset = offset
    this.bytes = bytes
    this.fresh = fresh
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  }
}

/** Bytes that are to be written, as they were when they were taken. */
export interface DirtyBytes {
  readonly table: Table
  readonly from: number
  readonly bytes: Buffer
}

/** Tables in memory, at most `max` of them unless more are dirty or pinned. */
export class TableCache {
  readonly #max: number
  readonly #tables = new Map<number, Table>()
  readonly #dirty = new Set<Table>()

  constructor(max: number) {
    this.#max = max
  }

  get size(): number {
    return this.#tables.size
  }

  get dirtyCount(): number {
    return this.#dirty.size
  }

  /** Half of the room is kept for tables that are not dirty: those alone can leave. */
  get crowded(): boolean {
    return this.#dirty.size * 2 > this.#max
  }

  get(index: number): Table | undefined {
    const table = this.#tables.get(index)
    if (table !== undefined) table.used = true
    return table
  }

  /** Takes the place of another with the same index, which must not be pinned. */
  add(table: Table): void {
    const before = this.#tables.get(table.index)
    if (before !== undefined) this.#dirty.delete(before)
    else if (this.#tables.size >= this.#max) this.#evict()
    this.#tables.set(table.index, table)
  }

  markDirty(table: Table, from: number, to: number): void {
    table.dirtyFrom = Math.min(table.dirtyFrom, from)
    table.dirtyTo = Math.max(table.dirtyTo, to)
    this.#dirty.add(table)
  }

  /** Copies what is dirty, in the order of the file, and calls it clean; it stays in memory until `written`. */
  take(): DirtyBytes[] {
    const taken = [...this.#dirty].map((table) => {
      const from = table.dirtyFrom
      const bytes = Buffer.from(table.bytes.subarray(from, table.dirtyTo))
      table.dirtyFrom = Number.POSITIVE_INFINITY
      table.dirtyTo = 0
      table.pins++
      return { table, from, bytes }
    })
    this.#dirty.clear()
    return taken.sort((a, b) => a.table.offset - b.table.offset)
  }

  /** Ends what `take` began. What could not be written is dirty again. */
  written(taken: readonly DirtyBytes[], success: boolean): void {
    for (const { table, from, bytes } of taken) {
      table.pins--
      if (success) table.fresh = false
      // Another may have taken its place: then nobody needs this one in the file.
      if (!success && this.#tables.get(table.index) === table)
        this.markDirty(table, from, from + bytes.length)
    }
  }

  /** The clock algorithm: whoever was used since the hand last came by may stay another round. */
  #evict(): void {
    for (let round = 0; round < 2; round++) {
      for (const [index, table] of this.#tables) {
        if (table.dirtyTo > 0 || table.pins > 0) continue
        if (table.used) {
          table.used = false
          continue
        }
        this.#tables.delete(index)
        return
      }
    }
  }
}
