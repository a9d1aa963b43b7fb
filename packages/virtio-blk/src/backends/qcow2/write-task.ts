import { BLOCK_DISCARD } from "../../backend.js"
import { ENTRY_COMPRESSED_HIGH, ENTRY_COPIED_HIGH, ENTRY_ZERO_LOW } from "./constants.js"
import {
  CORRUPT,
  DATA,
  type Extent,
  type Layer,
  MISSING,
  mapChain,
  newExtent,
  readChain,
  UNALLOCATED,
  ZERO,
} from "./extent.js"
import type { Qcow2Image } from "./image.js"
import { entryOffset } from "./l2-entry.js"
import { RangeLocks } from "./locks.js"
import type { Operation } from "./operation.js"
import type { Transfers } from "./transfers.js"
import type { Qcow2Writer } from "./writer.js"

/** Clusters that one step of a write takes: what it holds is bounded by that. */
const CLUSTERS_PER_STEP = 1024

/** Where the new bytes of a range come from: the guest, or zeros. */
type Source = "guest" | "zeros"

/**
 * Writes that allocate, discards and zeroing: whatever changes the tables. Each holds a lock on the guest clusters whose
 * entries it changes; requests that need no change of the tables do not look at it.
 */
export class WriteTask {
  readonly #image: Qcow2Image
  readonly #layers: readonly Layer[]
  readonly #writer: Qcow2Writer
  readonly #transfers: Transfers
  readonly #locks = new RangeLocks()

  constructor(image: Qcow2Image, layers: readonly Layer[], writer: Qcow2Writer, transfers: Transfers) {
    this.#image = image
    this.#layers = layers
    this.#writer = writer
    this.#transfers = transfers
  }

  /** Writes what the guest gave. Data is where it belongs when it resolves; the tables may be in memory only. */
  async write(operation: Operation): Promise<void> {
    const { offset, length } = operation.request
    await this.#locked(offset, length, () => this.#fill(operation, "guest", offset, length))
  }

  /** 5.2.6.2 of virtio: a hint. Only whole clusters are taken; they read as zeros then. */
  async discard(operation: Operation): Promise<void> {
    const { clusterSize } = this.#image.format
    const { offset, length } = operation.request
    const end = offset + length
    const from = Math.ceil(offset / clusterSize) * clusterSize
    // The last cluster of the disk may lie partly behind its end.
    const to = end === this.#image.size ? end : Math.floor(end / clusterSize) * clusterSize
    if (from >= to) return
    await this.#locked(from, to - from, () => this.#zeroClusters(from, to, true, operation))
  }

  /** Makes a range read as zeros; it keeps its clusters unless the request says `unmap`. */
  async zero(operation: Operation): Promise<void> {
    const { clusterSize } = this.#image.format
    const { offset, length, unmap } = operation.request
    const end = offset + length
    const from = Math.min(end, Math.ceil(offset / clusterSize) * clusterSize)
    const to = end === this.#image.size ? end : Math.max(from, Math.floor(end / clusterSize) * clusterSize)
    await this.#locked(offset, length, async () => {
      await this.#fill(operation, "zeros", offset, from - offset)
      await this.#zeroClusters(from, to, unmap, operation)
      await this.#fill(operation, "zeros", to, end - to)
    })
  }

  async #locked(offset: number, length: number, task: () => Promise<void>): Promise<void> {
    if (length === 0) return
    const { clusterSize } = this.#image.format
    const first = Math.floor(offset / clusterSize)
    const release = await this.#locks.acquire(first, Math.floor((offset + length - 1) / clusterSize))
    try {
      await task()
    } finally {
      release()
    }
  }

  /** Gives `[offset, offset + length)` new bytes: in place where that may be, else in new clusters. */
  async #fill(operation: Operation, source: Source, offset: number, length: number): Promise<void> {
    const extent = newExtent()
    for (let done = 0; done < length; ) {
      const at = offset + done
      await this.#writer.prepare()
      this.#image.map(at, length - done, extent)
      const { kind } = extent
      if (kind === MISSING) await this.#image.load(at)
      else if (kind === CORRUPT) throw this.#image.corrupt(at)
      else if (source === "zeros" && (await this.#readsZero(at, extent))) done += extent.length
      else if (kind === DATA && extent.copied) {
        await this.#inPlace(operation, source, at, extent)
        done += extent.length
      } else {
        done += await this.#allocate(operation, source, at, extent)
      }
    }
  }

  async #inPlace(operation: Operation, source: Source, at: number, extent: Extent): Promise<void> {
    const { host, length } = extent
    if (!this.#writer.isData(host, length))
      throw this.#image.damaged(`the data at offset ${at} of the disk lies over metadata, at ${host}`)
    await this.#put(operation, source, at, host, length)
  }

  /** New clusters, or those kept behind a zero, for the start of the extent. Gives how many bytes that was. */
  async #allocate(operation: Operation, source: Source, at: number, extent: Extent): Promise<number> {
    const { clusterSize } = this.#image.format
    const start = Math.floor(at / clusterSize) * clusterSize
    const table = Math.floor(at / this.#image.bytesPerTable)
    const first = (start - table * this.#image.bytesPerTable) / clusterSize
    if (extent.kind === ZERO && extent.host !== 0 && extent.copied) {
      const end = Math.min(at + extent.length, start + clusterSize)
      const host = extent.host - (at - start)
      if (!this.#writer.isData(host, clusterSize))
        throw this.#image.damaged(
          `the space kept for offset ${at} of the disk lies over metadata, at ${host}`,
        )
      await this.#fillCluster(operation, source, { start, at, end, host, zero: false })
      await this.#writer.clearZero({ table, first, count: 1 })
      return end - at
    }
    const wanted = Math.ceil((at + extent.length - start) / clusterSize)
    const run = await this.#writer.reserve(Math.min(wanted, CLUSTERS_PER_STEP))
    const end = Math.min(at + extent.length, start + run.count * clusterSize)
    try {
      const host = run.first * clusterSize
      await this.#fillCluster(operation, source, { start, at, end, host, zero: run.zero })
      await this.#writer.link({ table, first, count: run.count }, run)
    } catch (error) {
      this.#writer.unreserve(run)
      throw error
    }
    return end - at
  }

  /** Fills clusters from `host` on that lie at `start` of the disk: new bytes in `[at, end)`, the present ones around it. */
  async #fillCluster(
    operation: Operation,
    source: Source,
    range: { start: number; at: number; end: number; host: number; zero: boolean },
  ): Promise<void> {
    const { start, at, end, host, zero } = range
    const { clusterSize } = this.#image.format
    const clusterEnd = Math.ceil(end / clusterSize) * clusterSize
    const last = Math.min(this.#image.size, clusterEnd)
    await this.#copy(start, at, host, zero)
    await this.#copy(end, last, host + (end - start), zero)
    // What is behind the disk's end must read as zeros when the disk has grown.
    if (last < clusterEnd && !zero)
      await this.#image.file.write(host + (last - start), Buffer.alloc(clusterEnd - last))
    await this.#put(operation, source, at, host + (at - start), end - at)
  }

  /** Copies what the disk has in `[from, to)` to `host`, unless both are zeros. */
  async #copy(from: number, to: number, host: number, zero: boolean): Promise<void> {
    if (from === to) return
    const bytes = await readChain(this.#layers, from, to - from)
    if (zero && bytes.every((byte) => byte === 0)) return
    await this.#image.file.write(host, bytes)
  }

  /** Resolves when the new bytes are in the file; rejects when that failed. */
  async #put(operation: Operation, source: Source, at: number, host: number, length: number): Promise<void> {
    if (source === "zeros") {
      // Never more than a cluster: whole ones need no bytes.
      await this.#image.file.write(host, Buffer.alloc(length))
      return
    }
    while (this.#transfers.room === 0) await this.#transfers.whenRoom()
    const skip = at - operation.request.offset
    const error = this.#transfers.add(operation, this.#image.file, host, skip, length, false)
    if (error !== 0) throw Object.assign(new Error("guest memory has no address"), { errno: error })
    this.#transfers.commit()
    await operation.settled()
    operation.begin()
    if (operation.error !== 0) throw Object.assign(new Error("write failed"), { errno: operation.error })
  }

  /** Whether the start of the extent reads as zeros; then its length is how much of it does. */
  async #readsZero(at: number, extent: Extent): Promise<boolean> {
    if (extent.kind === ZERO) return true
    if (extent.kind !== UNALLOCATED) return false
    const below = newExtent()
    for (;;) {
      mapChain(this.#layers, at, extent.length, below)
      if (below.kind !== MISSING) break
      await below.layer!.load(at)
    }
    if (below.kind !== ZERO) return false
    extent.length = below.length
    return true
  }

  /** Whole clusters, the last of the disk excepted. */
  async #zeroClusters(from: number, to: number, unmap: boolean, operation: Operation): Promise<void> {
    const { bytesPerTable, format } = this.#image
    const { clusterSize } = format
    for (let at = from; at < to; ) {
      const table = Math.floor(at / bytesPerTable)
      const end = Math.min(to, (table + 1) * bytesPerTable)
      await this.#writer.prepare()
      const covered = this.#layers.length > 1 && at < this.#layers[1]!.size
      if (covered && format.version === 2) {
        // It has no way to say zero where something lies below: a discard does nothing then.
        if (operation.request.op !== BLOCK_DISCARD) await this.#fillWithZeros(operation, at, end)
      } else if (this.#image.l1[table] !== 0 || covered) {
        const first = (at - table * bytesPerTable) / clusterSize
        const count = Math.ceil((end - at) / clusterSize)
        await this.#writer.change({ table, first, count }, zeroed(unmap, covered, format.version))
      }
      at = end
    }
  }

  async #fillWithZeros(operation: Operation, from: number, to: number): Promise<void> {
    const { clusterSize } = this.#image.format
    for (let at = from; at < to; at += clusterSize) {
      await this.#fill(operation, "zeros", at, Math.min(clusterSize, to - at))
    }
  }
}

/** What becomes of an entry that is to read as zeros; `covered`: without an entry it would show what lies below. */
function zeroed(unmap: boolean, covered: boolean, version: 2 | 3) {
  return (high: number, low: number): { high: number; low: number; free: boolean } | undefined => {
    const empty = { high: 0, low: covered ? ENTRY_ZERO_LOW : 0, free: true }
    const data = (high & ENTRY_COMPRESSED_HIGH) === 0 && entryOffset(high, low) !== 0
    const keep = !unmap && data && high >= ENTRY_COPIED_HIGH && version === 3
    if (keep) return { high, low: (low | ENTRY_ZERO_LOW) >>> 0, free: false }
    return high === 0 && low === empty.low ? undefined : empty
  }
}
