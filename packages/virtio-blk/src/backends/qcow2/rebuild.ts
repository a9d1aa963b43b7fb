import { ENTRY_COMPRESSED_HIGH, ENTRY_COPIED_HIGH, MAX_TABLE_BYTES } from "./constants.js"
import { ImageError, unsupported } from "./errors.js"
import { decodeL1, type Qcow2Image } from "./image.js"
import { entryOffset } from "./l2-entry.js"
import { encodeOffsets, readCount, refcountTablePlace, writeCount } from "./refcounts.js"

/** Counts of 4 bytes in memory while it works, twice: 512 MiB. */
const MAX_CLUSTERS = 64 * 1024 * 1024

/**
 * Sets the reference counts of an image right whose dirty bit is set: a program with lazy reference counts, or the machine,
 * ended without closing it. All uses of clusters are counted anew; only if the file says otherwise it gets new counts. An
 * interruption leaves it dirty, with the former counts. Throws ImageError when tables name what is not in the file.
 */
export async function repairRefcounts(image: Qcow2Image): Promise<void> {
  const uses = await countUses(image)
  await fixCopied(image, uses)
  const former = await clustersOfCounts(image)
  const counted = uses.slice()
  for (const cluster of former ?? []) counted[cluster]!++
  if (former === undefined || !(await isCounted(image, counted))) {
    const end = counted.findLastIndex((count) => count > 0) + 1
    await rebuildRefcounts(image, uses, end)
  }
  await image.setDirty(false)
  await image.file.sync()
}

/** The number of the last cluster that the image needs, plus 1; nothing is made of its counts. Throws ImageError. */
export async function usedClusters(image: Qcow2Image): Promise<number> {
  const last = (await countUses(image)).findLastIndex((count) => count > 0)
  const counts = (await clustersOfCounts(image)) ?? []
  return counts.reduce((a, b) => Math.max(a, b), last) + 1
}

/** The clusters that hold reference counts and their table; undefined when those are not all in the file. */
async function clustersOfCounts({ file, header }: Qcow2Image): Promise<number[] | undefined> {
  const { clusterSize, refcountTableOffset, refcountTableClusters } = header
  const bytes = await file.read(refcountTableOffset, refcountTableClusters * clusterSize)
  const clusters: number[] = []
  for (let i = 0; i < refcountTableClusters; i++) clusters.push(refcountTableOffset / clusterSize + i)
  for (const offset of decodeL1(bytes).offsets) if (offset !== 0) clusters.push(offset / clusterSize)
  const end = Math.ceil(file.length / clusterSize)
  return clusters.every((cluster) => Number.isInteger(cluster) && cluster < end) ? clusters : undefined
}

/** Whether the file's counts are these, and no others. */
async function isCounted({ file, header }: Qcow2Image, uses: Uint32Array): Promise<boolean> {
  const { clusterSize, refcountOrder, refcountTableOffset, refcountTableClusters } = header
  const table = decodeL1(await file.read(refcountTableOffset, refcountTableClusters * clusterSize)).offsets
  const perBlock = (clusterSize * 8) / 2 ** refcountOrder
  const blocks = Math.ceil(uses.length / perBlock)
  if (table.subarray(blocks).some((offset) => offset !== 0)) return false
  for (let i = 0; i < blocks; i++) {
    const offset = table[i] ?? 0
    const bytes = offset === 0 ? Buffer.alloc(clusterSize) : await file.read(offset, clusterSize)
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
    for (let n = 0; n < perBlock; n++) {
      if (readCount(view, n, refcountOrder) !== (uses[i * perBlock + n] ?? 0)) return false
    }
  }
  return true
}

/** Writes these counts, and those of themselves, behind `end`, where nothing is in use. */
async function rebuildRefcounts(image: Qcow2Image, uses: Uint32Array, end: number): Promise<void> {
  const { file, header } = image
  const { clusterSize, refcountOrder } = header
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
  const place = refcountTablePlace({ offset, clusters })
  await file.write(place.offset, place.bytes)
  await file.sync()
  image.header = { ...image.header, refcountTableOffset: offset, refcountTableClusters: clusters }
}

/** How often each cluster of the file is used, by all but reference counts. */
async function countUses(image: Qcow2Image): Promise<Uint32Array> {
  const { file, header, snapshots } = image
  const { clusterSize } = header
  const end = Math.ceil(file.length / clusterSize)
  if (end > MAX_CLUSTERS)
    throw unsupported(file.path, `it was not closed; repair it with: qemu-img check -r all ${file.path}`)
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
