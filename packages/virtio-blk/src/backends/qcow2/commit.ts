import type { Qcow2Image } from "./image.js"
import type { Piece } from "./image-file.js"
import { type DirtyRefcountTable, refcountTablePlace } from "./refcounts.js"
import type { DirtyBytes } from "./table-cache.js"

/** What the file is to be brought: copies of all that has changed, taken in one turn. */
export interface Changes {
  /** Of refcount blocks. */
  readonly blocks: readonly DirtyBytes[]
  readonly refcountTable: DirtyRefcountTable | undefined
  /** Of L2 tables. */
  readonly tables: readonly DirtyBytes[]
  /** Of the L1 table. */
  readonly l1: Piece | undefined
}

/**
 * Brings changes to the file in an order that leaves its counts right, or too high, wherever it is interrupted:
 *
 * 1. counts of clusters that came into use (a crash now: clusters are counted and not used, a leak)
 * 2. L2 tables, then L1 entries that name new L2 tables
 *
 * Counts of clusters that went out of use are among the changes one sync later (a crash before: a leak).
 */
export async function commitInOrder({ file }: Qcow2Image, changes: Changes): Promise<void> {
  const { blocks, refcountTable, tables, l1 } = changes
  const write = async (pieces: readonly Piece[]) => {
    for (const { offset, bytes } of pieces) await file.write(offset, bytes)
  }
  await write(blocks.map(pieceOf))
  if (refcountTable !== undefined) {
    await file.sync()
    await write([refcountTable])
    if (refcountTable.moved !== undefined) {
      await file.sync()
      await write([refcountTablePlace(refcountTable.moved)])
    }
  }
  if (tables.length > 0) await file.sync()
  await write(tables.map(pieceOf))
  if (l1 !== undefined) {
    await file.sync()
    await write([l1])
  }
  await file.sync()
}

/**
 * Brings changes to the file of an image with lazy reference counts, those of clusters that went out of use included. When the process is
 * killed, all of them are in the file, or none: either way it is clean. When the machine fails, any of them may be:
 * the dirty bit, durable before, says that counts are not to be trusted then. Tables are, since data and new tables are
 * durable before anything in the file names them.
 */
export async function commitTogether(image: Qcow2Image, changes: Changes): Promise<void> {
  const { file } = image
  const { refcountTable, l1 } = changes
  const together: Piece[] = []
  for (const dirty of [...changes.blocks, ...changes.tables]) {
    const piece = pieceOf(dirty)
    if (dirty.table.fresh) await file.write(piece.offset, piece.bytes)
    else together.push(piece)
  }
  if (refcountTable?.moved !== undefined) {
    await file.write(refcountTable.offset, refcountTable.bytes)
    together.push(refcountTablePlace(refcountTable.moved))
  } else if (refcountTable !== undefined) {
    together.push(refcountTable)
  }
  if (l1 !== undefined) together.push(l1)
  if (together.length > 0) {
    await image.setDirty(true)
    await file.sync()
    await file.writeTogether(together)
  }
  await file.sync()
}

function pieceOf({ table, from, bytes }: DirtyBytes): Piece {
  return { offset: table.offset + from, bytes }
}
