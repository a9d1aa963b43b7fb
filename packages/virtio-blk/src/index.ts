import { ConfigError } from "@virtkit/interface"
import type { BlockBackend } from "./backend.js"
import { BlockDevice, type CacheMode } from "./device.js"

export {
  BLOCK_DISCARD,
  BLOCK_FLUSH,
  BLOCK_READ,
  BLOCK_WRITE,
  BLOCK_WRITE_ZEROES,
  type BlockBackend,
  type BlockBackendInfo,
  type BlockRequest,
  type BlockSession,
} from "./backend.js"
export { type MemoryDisk, type MemoryDiskOptions, memoryDisk } from "./backends/memory.js"
export type { BlockCounters } from "./counters.js"
export type { BlockDevice, CacheMode } from "./device.js"
export type { BlockState } from "./state.js"

interface CommonOptions {
  /** For messages. Default "blk". */
  name?: string
  /** What the guest sees as the disk's serial number: up to 20 bytes. Default: none. */
  serial?: string
  /** Default "writeback". */
  cache?: CacheMode
  /** Number of request queues, 1 to 64; one for each CPU of the guest is best. Default 1. */
  queues?: number
  /** Largest size of each queue: a power of two from 4 to 1024. Default 256. */
  queueSize?: number
}

export interface BlockFileOptions extends CommonOptions {
  /** A raw image file or a block device. Its size must be a multiple of 512 bytes. */
  path: string
  /** Default false. A writable disk is locked against every other use, a read-only one against writers. */
  readonly?: boolean
  /** Format of the image, never guessed. Only "raw" so far. */
  format?: "raw"
}

export interface BlockBackendOptions extends CommonOptions {
  /** Owned by the device from now on. See `memoryDisk`. */
  backend: BlockBackend
}

export type BlockOptions = BlockFileOptions | BlockBackendOptions

/** Makes a virtio block device. Throws ConfigError, or SystemError when the host fails. */
export async function block(options: BlockOptions): Promise<BlockDevice> {
  const { name = "blk", serial = "", cache = "writeback", queues = 1, queueSize = 256 } = options
  if (new TextEncoder().encode(serial).length > 20) {
    throw new ConfigError(`serial number "${serial}" of disk ${name} is longer than 20 bytes`)
  }
  if (cache !== "writeback" && cache !== "writethrough" && cache !== "unsafe") {
    throw new ConfigError(`cache of disk ${name} must be writeback, writethrough or unsafe, not "${cache}"`)
  }
  if (!Number.isInteger(queues) || queues < 1 || queues > 64) {
    throw new ConfigError(`disk ${name} can have 1 to 64 queues, not ${queues}`)
  }
  if (!Number.isInteger(Math.log2(queueSize)) || queueSize < 4 || queueSize > 1024) {
    throw new ConfigError(
      `queue size of disk ${name} must be a power of two from 4 to 1024, not ${queueSize}`,
    )
  }
  if (queues * queueSize > 32768) {
    throw new ConfigError(
      `disk ${name} would have ${queues} queues of ${queueSize}; 32768 requests is the most`,
    )
  }
  const backend = "backend" in options ? options.backend : await openFile(options, queues * queueSize)
  return new BlockDevice({ name, serial, cache, queues, queueSize, backend })
}

async function openFile(options: BlockFileOptions, depth: number): Promise<BlockBackend> {
  const { path, format = "raw", readonly = false, cache } = options
  if (typeof path !== "string" || path === "") throw new ConfigError("a disk needs a path or a backend")
  if (format !== "raw")
    throw new ConfigError(`disk ${path}: format ${format} is not supported yet; convert it to raw`)
  // Loaded only here, so that disks in memory need no addon.
  const { fileBackend } = await import("./backends/file.js")
  return fileBackend({ path, readonly, unsafe: cache === "unsafe", depth })
}
