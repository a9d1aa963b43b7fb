import { MAX_SNAPSHOT_BYTES, MAX_TABLE_BYTES } from "./constants.js"
import { ImageError } from "./errors.js"
import type { Qcow2Header } from "./header.js"
import type { ImageFile } from "./image-file.js"

/** A state of the disk that was kept inside its image. virtkit lists these and leaves them as they are. */
export interface Qcow2Snapshot {
  readonly id: string
  readonly name: string
  readonly date: Date
  /** Bytes of the disk at that time; undefined in old images, whose disk has kept its size. */
  readonly size: number | undefined
  /** Bytes of saved machine state behind the disk's end. */
  readonly stateSize: number
}

/** With where its L1 table is. */
export interface SnapshotEntry extends Qcow2Snapshot {
  readonly l1Offset: number
  /** Entries. */
  readonly l1Size: number
}

export interface SnapshotTable {
  readonly entries: readonly SnapshotEntry[]
  /** Bytes of the table. */
  readonly length: number
}

const FIXED_BYTES = 40

/** Throws ImageError. */
export async function readSnapshots(file: ImageFile, header: Qcow2Header): Promise<SnapshotTable> {
  if (header.snapshotCount === 0) return { entries: [], length: 0 }
  const room = Math.min(MAX_SNAPSHOT_BYTES, file.length - header.snapshotsOffset)
  return parseSnapshots(file, header, await file.read(header.snapshotsOffset, room))
}

function parseSnapshots(file: ImageFile, header: Qcow2Header, bytes: Buffer): SnapshotTable {
  const entries: SnapshotEntry[] = []
  let at = 0
  for (let i = 0; i < header.snapshotCount; i++) {
    const fail = (): never => {
      throw new ImageError(file.path, `entry ${i} of its snapshot table is damaged`)
    }
    if (at + FIXED_BYTES > bytes.length) fail()
    const idSize = bytes.readUInt16BE(at + 12)
    const nameSize = bytes.readUInt16BE(at + 14)
    const extraSize = bytes.readUInt32BE(at + 36)
    const id = at + FIXED_BYTES + extraSize
    const end = id + idSize + nameSize
    if (end > bytes.length) fail()
    const l1Offset = u64(bytes, at)
    const l1Size = bytes.readUInt32BE(at + 8)
    const inFile = l1Offset % header.clusterSize === 0 && l1Offset + l1Size * 8 <= file.length
    if (!inFile || l1Size * 8 > MAX_TABLE_BYTES) fail()
    const extra = bytes.subarray(at + FIXED_BYTES, id)
    const seconds = bytes.readUInt32BE(at + 16)
    entries.push({
      id: bytes.toString("utf8", id, id + idSize),
      name: bytes.toString("utf8", id + idSize, end),
      date: new Date(seconds * 1000 + bytes.readUInt32BE(at + 20) / 1e6),
      size: extraSize >= 16 ? u64(extra, 8) : undefined,
      stateSize: extraSize >= 8 ? u64(extra, 0) : bytes.readUInt32BE(at + 32),
      l1Offset,
      l1Size,
    })
    at = Math.ceil(end / 8) * 8
  }
  return { entries, length: at }
}

function u64(bytes: Buffer, at: number): number {
  return bytes.readUInt32BE(at) * 2 ** 32 + bytes.readUInt32BE(at + 4)
}
