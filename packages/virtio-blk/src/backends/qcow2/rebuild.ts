import {
  ENTRY_COMPRESSED_HIGH,
  ENTRY_COPIED_HIGH,
  HEADER,
  INCOMPAT_DIRTY,
  MAX_TABLE_BYTES,
} from "./constants.js"
import { ImageError, unsupported } from "./errors.js"
import { decodeL1, type Qcow2Image } from "./image.js"
import { entryOffset } from "./l2-entry.js"
import { encodeOffsets, writeCount } from "./refcounts.js"

/** Counts of 4 bytes in memory while it works: 256 MiB. */
const MAX_CLUSTERS = 64 * 1024 * 1024

/**
 * Counts all uses of clusters anew and writes the counts to a new place, behind the end of the file: what an image needs
 * whose dirty bit is set, since a program with lazy reference counts ended without writing them. An interruption leaves it dirty, with the
 * former counts. Throws ImageError when tables name what is not in the file.
 */
export async function rebuildRefcounts(image: Qcow2Image): Promise<void> {
  const { file, header } = image
  const { clusterSize, refcountOrder } = header
  const end = Math.ceil(file.length / clusterSize)
  if (end > MAX_CLUSTERS)
    throw unsupported(file.path, `it was not closed; repair it with: qemu-img check -r all ${file.path}`)
  const uses = await countUses(image, end)
  await fixCopied(image, uses)

  const perBlock = (clusterSize * 8) / 2 ** refcountOrder
  let blocks = 1
  let clusters = 1
  for (;;) {
    const needed = Math.ceil((end + blocks + clusters) / perBlock)
    const tableClusters = Math.ceil((needed * 8) / clusterSize)
    if (needed <= blocks && tableClusters <= clusters) break
    blocks = Math.max(blocks, needed)
    clusters = Math.max(clusters, tableClusters)
  }
  if (clusters * clusterSize > MAX_TABLE_BYTES)
    throw unsupported(file.path, "it is too large to be repaired here")
  const most = refcountOrder >= 5 ? 2 ** 32 : 2 ** (2 ** refcountOrder) - 1
  const table = new Float64Array((clusters * clusterSize) / 8)
  for (let i = 0; i < blocks; i++) {
    const bytes = Buffer.alloc(clusterSize)
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
    for (let n = 0; n < perBlock; n++) {
      const cluster = i * perBlock + n
      const count = cluster < end ? uses[cluster]! : cluster < end + blocks + clusters ? 1 : 0
      if (count > most)
        throw new ImageError(file.path, `cluster ${cluster} has ${count} uses, which cannot be counted`)
      if (count > 0) writeCount(view, n, refcountOrder, count)
    }
    table[i] = (end + i) * clusterSize
    await file.write(table[i]!, bytes)
  }
  const offset = (end + blocks) * clusterSize
  await file.write(offset, encodeOffsets(table))
  await file.sync()
  const place = Buffer.alloc(12)
  place.writeUInt32BE(Math.floor(offset / 2 ** 32), 0)
  place.writeUInt32BE(offset % 2 ** 32, 4)
  place.writeUInt32BE(clusters, 8)
  await file.write(HEADER.refcountTableOffset, place)
  await file.sync()
  image.header = {
    ...header,
    refcountTableOffset: offset,
    refcountTableClusters: clusters,
    incompatible: header.incompatible & ~INCOMPAT_DIRTY,
  }
  await image.writeIncompatible()
  await file.sync()
}

/** How often each cluster of the file is used, by all but reference counts. */
async function countUses(image: Qcow2Image, end: number): Promise<Uint32Array> {
  const { file, header, snapshots } = image
  const { clusterSize } = header
  const uses = new Uint32Array(end)
  const use = (offset: number, length: number) => {
    const last = Math.floor((offset + length - 1) / clusterSize)
    if (last >= end)
      throw new ImageError(file.path, `a table names offset ${offset}, which is not in the file`)
    for (let cluster = Math.floor(offset / clusterSize); cluster <= last; cluster++) uses[cluster]!++
  }
  const useTables = async (l1: Float64Array) => {
    for (const offset of l1) {
      if (offset === 0) continue
      use(offset, clusterSize)
      const bytes = await file.read(offset, clusterSize)
      for (let at = 0; at < clusterSize; at += 8) {
        const high = bytes.readUInt32BE(at)
        const low = bytes.readUInt32BE(at + 4)
        if ((high & ENTRY_COMPRESSED_HIGH) !== 0) {
          const place = image.compressed.place(high, low)
          use(place.offset, place.length)
        } else if (entryOffset(high, low) !== 0) {
          use(entryOffset(high, low), clusterSize)
        }
      }
    }
  }
  use(0, clusterSize)
  use(header.l1Offset, header.l1Size * 8)
  if (snapshots.length > 0) use(header.snapshotsOffset, snapshots.length)
  await useTables(image.l1)
  for (const { l1Offset, l1Size } of snapshots.entries) {
    if (l1Size === 0) continue
    use(l1Offset, l1Size * 8)
    await useTables(decodeL1(await file.read(l1Offset, l1Size * 8)).offsets)
  }
  return uses
}

/** An entry's copied bit says that its cluster has one use: nothing shared may be written in place. */
async function fixCopied(image: Qcow2Image, uses: Uint32Array): Promise<void> {
  const { file, header, l1, l1Copied } = image
  const { clusterSize } = header
  for (const [index, offset] of l1.entries()) {
    if (offset === 0) continue
    const shared = uses[offset / clusterSize] !== 1
    if (shared && l1Copied[index] === 1) {
      l1Copied[index] = 0
      const bytes = encodeOffsets(l1.subarray(index, index + 1))
      await file.write(header.l1Offset + index * 8, bytes)
    }
    const bytes = await file.read(offset, clusterSize)
    let changed = false
    for (let at = 0; at < clusterSize; at += 8) {
      const high = bytes.readUInt32BE(at)
      const host = entryOffset(high, bytes.readUInt32BE(at + 4))
      if (high < ENTRY_COPIED_HIGH || host === 0 || uses[Math.floor(host / clusterSize)] === 1) continue
      bytes.writeUInt32BE(high - ENTRY_COPIED_HIGH, at)
      changed = true
    }
    if (changed) await file.write(offset, bytes)
  }
}
