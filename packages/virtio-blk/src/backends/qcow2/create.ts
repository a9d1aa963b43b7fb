import { open, unlink } from "node:fs/promises"
import { dirname, resolve } from "node:path"
import { ConfigError } from "@virtkit/interface"
import { blockFileInfo } from "@virtkit/native"
import { openImage } from "../image.js"
import {
  COMPAT_LAZY_REFCOUNTS,
  EXTENSION_BACKING_FORMAT,
  HEADER,
  MAGIC,
  MAX_BACKING_NAME,
  MAX_CLUSTER_BITS,
  MAX_TABLE_BYTES,
  MIN_CLUSTER_BITS,
} from "./constants.js"
import { parseHeader } from "./header.js"
import { ImageFile } from "./image-file.js"
import { encodeOffsets } from "./refcounts.js"

export interface CreateQcow2Options {
  /** The image, which must not exist yet. */
  readonly path: string
  /** Bytes of the disk, a multiple of 512. Default, of an overlay: that of what it is laid over. */
  readonly size?: number
  /** What the disk reads as until it is written: a path (relative to the folder of the image) and its format. */
  readonly backing?: { readonly path: string; readonly format: "raw" | "qcow2" }
  /** A power of two from 512 to 2 MiB. Default 65536. */
  readonly clusterSize?: number
  /** Default 3. */
  readonly version?: 2 | 3
  /**
   * Reference counts need not be right after a crash of the machine: who writes the image next counts anew. In return
   * the image is clean, without leaks, when only the process was killed, and a flush waits for the disk twice at most.
   * Default: in version 3, which alone has them.
   */
  readonly lazyRefcounts?: boolean
}

/** Makes an empty image, or an overlay. Throws ConfigError, SystemError-like errors of the file system. */
export async function createQcow2(options: CreateQcow2Options): Promise<void> {
  const { path, version = 3, clusterSize = 65536, lazyRefcounts = version === 3 } = options
  const clusterBits = Math.log2(clusterSize)
  if (!Number.isInteger(clusterBits) || clusterBits < MIN_CLUSTER_BITS || clusterBits > MAX_CLUSTER_BITS)
    throw new ConfigError(`clusterSize must be a power of two from 512 to 2097152, not ${clusterSize}`)
  if (version === 2 && lazyRefcounts) throw new ConfigError("lazyRefcounts needs version 3")
  const size = options.size ?? (await backingSize(options))
  if (!Number.isSafeInteger(size) || size <= 0 || size % 512 !== 0)
    throw new ConfigError(`size of ${path} must be a positive multiple of 512, not ${size}`)
  const l1Entries = Math.ceil(size / (clusterSize / 8) / clusterSize)
  if (l1Entries * 8 > MAX_TABLE_BYTES)
    throw new ConfigError(`a disk of ${size} bytes needs larger clusters than ${clusterSize}`)

  const bytes = layout({ ...options, version, clusterSize, size, lazyRefcounts }, l1Entries)
  let file: Awaited<ReturnType<typeof open>>
  try {
    file = await open(path, "wx")
  } catch (error) {
    const exists = (error as NodeJS.ErrnoException).code === "EEXIST"
    throw exists ? new ConfigError(`${path} exists already`, { cause: error }) : error
  }
  try {
    await file.writeFile(bytes)
    await file.datasync()
  } catch (error) {
    await unlink(path)
    throw error
  } finally {
    await file.close()
  }
}

/** Header, refcount table, refcount blocks and L1 table, in that order. */
function layout(
  options: CreateQcow2Options & { size: number; clusterSize: number },
  l1Entries: number,
): Buffer {
  const { clusterSize } = options
  // Reference counts have 16 bits.
  const perBlock = clusterSize / 2
  const l1Clusters = Math.ceil((l1Entries * 8) / clusterSize)
  let blocks = 1
  let tableClusters = 1
  for (;;) {
    const total = 1 + tableClusters + blocks + l1Clusters
    const needed = Math.ceil(total / perBlock)
    const needsTable = Math.ceil((needed * 8) / clusterSize)
    if (needed <= blocks && needsTable <= tableClusters) break
    blocks = Math.max(blocks, needed)
    tableClusters = Math.max(tableClusters, needsTable)
  }
  const total = 1 + tableClusters + blocks + l1Clusters
  const bytes = Buffer.alloc(total * clusterSize)
  const table = Float64Array.from({ length: blocks }, (_, i) => (1 + tableClusters + i) * clusterSize)
  bytes.set(encodeOffsets(table), clusterSize)
  const counts = (1 + tableClusters) * clusterSize
  for (let cluster = 0; cluster < total; cluster++) bytes.writeUInt16BE(1, counts + cluster * 2)
  writeHeader(bytes, options, {
    tableClusters,
    l1Entries,
    l1Offset: (1 + tableClusters + blocks) * clusterSize,
  })
  return bytes
}

function writeHeader(
  bytes: Buffer,
  options: CreateQcow2Options & { size: number; clusterSize: number },
  places: { tableClusters: number; l1Entries: number; l1Offset: number },
): void {
  const { version, clusterSize, size, backing } = options
  const put64 = (at: number, value: number) => {
    bytes.writeUInt32BE(Math.floor(value / 2 ** 32), at)
    bytes.writeUInt32BE(value % 2 ** 32, at + 4)
  }
  bytes.writeUInt32BE(MAGIC, 0)
  bytes.writeUInt32BE(version ?? 3, 4)
  bytes.writeUInt32BE(Math.log2(clusterSize), 20)
  put64(HEADER.size, size)
  bytes.writeUInt32BE(places.l1Entries, HEADER.l1Size)
  put64(HEADER.l1Offset, places.l1Offset)
  put64(HEADER.refcountTableOffset, clusterSize)
  bytes.writeUInt32BE(places.tableClusters, HEADER.refcountTableClusters)
  let at: number = HEADER.bytesV2
  if (version !== 2) {
    bytes.writeUInt32BE(options.lazyRefcounts ? COMPAT_LAZY_REFCOUNTS : 0, HEADER.compatible + 4)
    bytes.writeUInt32BE(4, 96)
    bytes.writeUInt32BE(HEADER.bytesV3, 100)
    at = HEADER.bytesV3
  }
  if (backing === undefined) return
  const format = Buffer.from(backing.format)
  bytes.writeUInt32BE(EXTENSION_BACKING_FORMAT, at)
  bytes.writeUInt32BE(format.length, at + 4)
  bytes.set(format, at + 8)
  // Padded to 8 bytes, and the extension that ends them: zeros.
  at += 8 + 8 + 8
  const name = Buffer.from(backing.path)
  if (name.length === 0 || name.length > Math.min(MAX_BACKING_NAME, clusterSize - at))
    throw new ConfigError(
      `the name of the backing file has ${name.length} bytes, which do not fit into the header`,
    )
  put64(8, at)
  bytes.writeUInt32BE(name.length, 16)
  bytes.set(name, at)
}

async function backingSize({ path, backing }: CreateQcow2Options): Promise<number> {
  if (backing === undefined) throw new ConfigError(`${path} needs a size`)
  const opened = await openImage(resolve(dirname(path), backing.path), true, (fd) => blockFileInfo(fd))
  const { fd, info } = opened
  const file = new ImageFile({ path, fd, readonly: true, device: false, length: info.size, unsafe: false })
  try {
    if (backing.format === "raw") return Math.floor(info.size / 512) * 512
    const first = await file.read(0, Math.min(info.size, 2 ** MAX_CLUSTER_BITS))
    return parseHeader(opened.path, first, info.size).size
  } finally {
    await file.close()
  }
}
