import { ConfigError } from "@virtkit/interface"
import type { BlockBackend } from "./backend.js"
import type { EngineChoice } from "./backends/engine.js"
import { imageOptions } from "./backends/options.js"
import type { CreateQcow2Options } from "./backends/qcow2/create.js"
import type { Qcow2Info } from "./backends/qcow2/inspect.js"
import type { BlockDevice, CacheMode } from "./block-device.js"
import { LocalBlockDevice } from "./device.js"
import { type BlockLimits, rateOf } from "./limits.js"

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
export type { CreateQcow2Options } from "./backends/qcow2/create.js"
export { ImageError } from "./backends/qcow2/errors.js"
export type { Qcow2Info } from "./backends/qcow2/inspect.js"
export type { Qcow2Snapshot } from "./backends/qcow2/snapshots.js"
export type { BlockDevice, CacheMode } from "./block-device.js"
export type { BlockCounters } from "./counters.js"
export type { BlockLimits } from "./limits.js"
export type { BlockState } from "./state.js"

interface CommonOptions {
  /** For messages. Default "blk". */
  name?: string
  /** What the guest sees as the disk's serial number: up to 20 bytes. Default: none. */
  serial?: string
  /** Default "writeback". */
  cache?: CacheMode
  /** Number of request queues, 1 to 64; one for each CPU of the guest is best. Default 1, or as many as there are threads. */
  queues?: number
  /** Largest size of each queue: a power of two from 4 to 1024. Default 256. */
  queueSize?: number
  /** Default: no limits. */
  limits?: BlockLimits
  /**
   * Longest time, in microseconds, for which the device looks for more work before it waits for some; as long as that
   * was of use lately. It keeps the thread of the device busy meanwhile. Default 0: never; at most 1000.
   */
  poll?: number
}

export interface BlockFileOptions extends CommonOptions {
  /** An image file or a block device. The size of the disk must be a multiple of 512 bytes. */
  path: string
  /** Default false. A writable disk is locked against every other use, a read-only one against writers. */
  readonly?: boolean
  /** Format of the image, never guessed. Default "raw". */
  format?: "raw" | "qcow2"
  /**
   * What carries requests out: the kernel's io_uring, or threads that make system calls. Default "auto": io_uring where
   * it can be had.
   */
  engine?: EngineChoice
  /**
   * Nothing else needs the thread of the device: of a raw image, writes into the page cache are done on it, which is several times as quick as
   * to have them done. It waits when the cache is full of what the disk does not take; after long waits the engine
   * has them for a second or more. Default false, true with `thread`.
   */
  mayWait?: boolean
  /**
   * Threads that do the work of this disk, and nothing else; the thread of the VM has no part in requests then. True: one. A number:
   * so many, queue n on thread n modulo that, as many as there are queues at most; a qcow2 image can have one. The disk
   * cannot be saved then, and transports that cannot hand over their queues cannot have it. Default false.
   */
  thread?: boolean | number
  /**
   * Of a qcow2 image: the files that it, and what it is laid over, may name as backing files, and folders whose files they
   * may be. Default: none; an image with a backing file is refused then.
   */
  backing?: readonly string[]
}

export interface BlockBackendOptions extends CommonOptions {
  /** Owned by the device from now on. See `memoryDisk`. */
  backend: BlockBackend
}

export type BlockOptions = BlockFileOptions | BlockBackendOptions

/** Makes a virtio block device. Throws ConfigError, or SystemError when the host fails. */
export async function block(options: BlockOptions): Promise<BlockDevice> {
  const threads = "thread" in options ? threadsOf(options) : 0
  const { name = "blk", serial = "", cache = "writeback", queueSize = 256 } = options
  const { queues = Math.max(1, threads) } = options
  if (new TextEncoder().encode(serial).length > 20) {
    throw new ConfigError(`serial number "${serial}" of disk ${name} is longer than 20 bytes`)
  }
  if (cache !== "writeback" && cache !== "writethrough" && cache !== "unsafe" && cache !== "direct") {
    throw new ConfigError(
      `cache of disk ${name} must be writeback, writethrough, direct or unsafe, not "${cache}"`,
    )
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
  const { limits, poll = 0 } = options
  if (!(poll >= 0 && poll <= 1000))
    throw new ConfigError(`disk ${name} can look for work for 0 to 1000 microseconds, not ${poll}`)
  rateOf(name, limits)
  const disk = { name, serial, cache, queues, queueSize, limits, poll }
  if ("backend" in options) return new LocalBlockDevice({ ...disk, backend: options.backend })
  checkFile(options)
  if (threads > 0) {
    const { openThreaded } = await import("./threads/open.js")
    return openThreaded(disk, options, threads)
  }
  return new LocalBlockDevice({ ...disk, backend: await openFile(options, queues * queueSize) })
}

function threadsOf(options: Partial<BlockFileOptions>): number {
  const { thread = false, queues, name = "blk", format } = options
  if (thread === false) return 0
  if ("backend" in options)
    throw new ConfigError(`disk ${name} has a backend of its own, which cannot be moved to threads`)
  const threads = thread === true ? 1 : thread
  const most = queues ?? 64
  if (!Number.isInteger(threads) || threads < 1 || threads > most)
    throw new ConfigError(
      `disk ${name} can have 1 to ${most} threads, as many as it has queues, not ${thread}`,
    )
  if (format === "qcow2" && threads > 1)
    throw new ConfigError(
      `disk ${name}: a qcow2 image can have one thread, not ${threads}: its tables are in one place`,
    )
  return threads
}

function checkFile({ path, format = "raw", backing = [], engine = "auto" }: BlockFileOptions): void {
  if (typeof path !== "string" || path === "") throw new ConfigError("a disk needs a path or a backend")
  if (format !== "raw" && format !== "qcow2")
    throw new ConfigError(`format of disk ${path} must be raw or qcow2, not "${format}"`)
  if (format === "raw" && backing.length > 0)
    throw new ConfigError(`disk ${path}: only qcow2 images have backing files`)
  if (engine !== "auto" && engine !== "io_uring" && engine !== "threads")
    throw new ConfigError(`engine of disk ${path} must be auto, io_uring or threads, not "${engine}"`)
}

async function openFile(options: BlockFileOptions, depth: number): Promise<BlockBackend> {
  // Loaded only here, so that disks in memory need no addon.
  if (options.format === "qcow2") {
    const { qcow2Backend } = await import("./backends/qcow2/index.js")
    return qcow2Backend({ ...imageOptions(options, depth), backing: options.backing ?? [] })
  }
  const { fileBackend } = await import("./backends/file.js")
  return fileBackend({ ...imageOptions(options, depth), mayWait: options.mayWait ?? false })
}

/** Makes an empty qcow2 image, or an overlay. Throws ConfigError, or an error of the file system. */
export async function createQcow2(options: CreateQcow2Options): Promise<void> {
  const { createQcow2 } = await import("./backends/qcow2/create.js")
  return createQcow2(options)
}

/** What the qcow2 image at `path`, which nobody writes to, says of itself. Throws ConfigError, ImageError, SystemError. */
export async function inspectQcow2(path: string): Promise<Qcow2Info> {
  const { inspectQcow2 } = await import("./backends/qcow2/inspect.js")
  return inspectQcow2(path)
}

/**
 * For one who uses the qcow2 image at `path` as a block device, which cannot grow: makes its file as long as it can ever need
 * to be, without taking space, and gives what cuts off again what was not used. Throws ConfigError, also when it has a
 * backing file, ImageError, SystemError.
 */
export async function extendQcow2(path: string): Promise<() => Promise<void>> {
  const { extendQcow2 } = await import("./backends/qcow2/extend.js")
  return extendQcow2(path)
}
