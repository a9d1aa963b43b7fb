import { close, constants, open } from "node:fs"
import { promisify } from "node:util"
import { ConfigError, SystemError } from "@virtkit/interface"
import {
  type BlockFileInfo,
  blockFileInfo,
  type DirectAlignment,
  directAlignment,
  lockFile,
} from "@virtkit/native"

const LOCK_ATTEMPTS = 20
const LOCK_PAUSE_MS = 10

/** An image that was opened, checked and locked. */
export interface OpenedImage {
  readonly path: string
  readonly fd: number
  readonly readonly: boolean
  info: BlockFileInfo
}

/**
 * Opens an image or block device and locks it: one writer, or any number of readers. Throws ConfigError, in one line
 * that says what to do, for whatever the user can put right. `describe` says what it is, and throws when it is not what it
 * should be: by default a raw image.
 */
export async function openImage(
  path: string,
  readonly: boolean,
  describe: (fd: number, path: string) => BlockFileInfo = imageInfo,
): Promise<OpenedImage> {
  const fd = await openFile(path, readonly)
  try {
    const info = describe(fd, path)
    if (info.readonly && !readonly) throw new ConfigError(`disk ${path} cannot be written; open it readonly`)
    if (!(await lock(fd, !readonly))) {
      throw new ConfigError(
        readonly
          ? `disk ${path} is being written by another virtual machine or program; stop that first`
          : `disk ${path} is in use by another virtual machine or program; stop that first, or open it readonly in both`,
      )
    }
    return { path, fd, readonly, info }
  } catch (error) {
    await promisify(close)(fd)
    throw systemError(error, path)
  }
}

/**
 * A process that was killed with I/O in flight keeps its locks for some milliseconds, until the kernel has ended that; one that takes its place
 * is not turned away for it.
 */
async function lock(fd: number, exclusive: boolean): Promise<boolean> {
  for (let left = LOCK_ATTEMPTS; ; left--) {
    if (lockFile(fd, exclusive)) return true
    if (left === 0) return false
    await new Promise((resolve) => setTimeout(resolve, LOCK_PAUSE_MS))
  }
}

/** A second way to an open image that goes past the page cache, for ranges that are aligned; bytes. */
export interface DirectAccess {
  readonly fd: number
  /** What offsets and the lengths of segments must be multiples of. */
  readonly align: number
  /** What memory addresses must be multiples of. */
  readonly memoryAlign: number
}

/** Whether `count` segments from `first` on, to go to that offset, can go past the page cache. */
export function isAligned(
  { align, memoryAlign }: DirectAccess,
  offset: number,
  addresses: Float64Array,
  lengths: Uint32Array,
  first: number,
  count: number,
): boolean {
  if (count === 0 || offset % align !== 0) return false
  for (let i = first; i < first + count; i++) {
    if (addresses[i]! % memoryAlign !== 0 || lengths[i]! % align !== 0) return false
  }
  return true
}

/**
 * Opens the image once more, with O_DIRECT. What is not aligned goes through the page cache, which the kernel keeps in step. Throws
 * ConfigError when the file system cannot do that.
 */
export async function openDirect({ fd, path, readonly, info }: OpenedImage): Promise<DirectAccess> {
  const flags = (readonly ? constants.O_RDONLY : constants.O_RDWR) | constants.O_DIRECT
  try {
    // The same file, whatever its name has become.
    const direct = await promisify(open)(`/proc/self/fd/${fd}`, flags)
    const { offset, memory } = directAlignment(direct) ?? likelyAlignment(info)
    return { fd: direct, align: offset, memoryAlign: memory }
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code !== "EINVAL" && code !== "EOPNOTSUPP") throw systemError(error, path)
    throw new ConfigError(`disk ${path}: its file system has no direct I/O; use another cache mode`, {
      cause: error,
    })
  }
}

/** For kernels that do not say: a file system of 4096-byte sectors refuses less, 4096 does everywhere. */
function likelyAlignment({ kind, logicalBlockSize }: BlockFileInfo): DirectAlignment {
  const align = kind === "block" ? logicalBlockSize : 4096
  return { offset: align, memory: align }
}

/** Describes the open file; throws ConfigError when it cannot be a disk. */
export function imageInfo(fd: number, path: string): BlockFileInfo {
  const info = blockFileInfo(fd)
  if (info.kind === "other") throw new ConfigError(`disk ${path} is neither a file nor a block device`)
  if (info.size === 0)
    throw new ConfigError(`disk ${path} is empty; give it a size, as in: truncate -s 1G ${path}`)
  if (info.size % 512 !== 0) {
    throw new ConfigError(
      `disk ${path} has ${info.size} bytes, which is not a multiple of 512; pad it with: truncate -s %512 ${path}`,
    )
  }
  return info
}

async function openFile(path: string, readonly: boolean): Promise<number> {
  // Non-blocking matters to FIFOs only, which would wait here for their other end.
  const flags = (readonly ? constants.O_RDONLY : constants.O_RDWR) | constants.O_NONBLOCK
  try {
    return await promisify(open)(path, flags)
  } catch (error) {
    throw openError(error as NodeJS.ErrnoException, path, readonly)
  }
}

function openError(error: NodeJS.ErrnoException, path: string, readonly: boolean): unknown {
  const options = { cause: error }
  switch (error.code) {
    case "ENOENT":
    case "ENOTDIR":
      return new ConfigError(`disk ${path} does not exist`, options)
    case "EISDIR":
      return new ConfigError(`disk ${path} is neither a file nor a block device`, options)
    case "EACCES":
    case "EPERM":
      return new ConfigError(
        readonly
          ? `no permission to read disk ${path}; change its owner or mode`
          : `no permission to write disk ${path}; change its owner or mode, or open it readonly`,
        options,
      )
    case "EROFS":
      return new ConfigError(`disk ${path} is on a read-only file system; open it readonly`, options)
    default:
      return systemError(error, path)
  }
}

function systemError(error: unknown, path: string): unknown {
  if (error instanceof ConfigError || !(error instanceof Error && "syscall" in error && "errno" in error)) {
    return error
  }
  const { code, errno, syscall, message } = error as NodeJS.ErrnoException
  return new SystemError(String(code), Math.abs(errno ?? 0), String(syscall), `disk ${path}: ${message}`, {
    cause: error,
  })
}
