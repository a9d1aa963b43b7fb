import { fstatSync, statfsSync } from "node:fs"
import { MemoryMapping } from "@virtkit/native"
import { VhostUserError } from "./error.js"

/** A part of a file of another process, mapped here. */
export interface MappedFile {
  readonly buffer: SharedArrayBuffer
  /** Where the wanted bytes start in `buffer`. */
  readonly byteOffset: number
  readonly size: number
  /** Where they start in this process. */
  readonly hostAddress: number
  release(): void
}

const PAGE = 4096
/** statfs(2): files on hugetlbfs are mapped in whole pages of theirs. */
const HUGETLBFS_MAGIC = 0x9584_58f6

/**
 * Maps `size` bytes from `offset` on of a memfd or other regular file; `what` is for messages. The descriptor can be closed
 * afterwards. Throws {@link VhostUserError} for a file that is too short or cannot be mapped.
 */
export function mapFile(fd: number, offset: number, size: number, what: string): MappedFile {
  const status = fstatSync(fd)
  if (!status.isFile()) throw new VhostUserError(`${what}: the descriptor is of no file or memfd`)
  // Access behind the end of a file would end this process (SIGBUS).
  if (offset + size > status.size) {
    throw new VhostUserError(`${what}: ${size} bytes at ${offset} of a file of ${status.size} bytes`)
  }
  const page = pageSize(fd)
  const start = offset - (offset % page)
  const end = Math.ceil((offset + size) / page) * page
  try {
    const mapping = new MemoryMapping({
      size: end - start,
      fd,
      fileOffset: start,
      shared: true,
      ...(page > PAGE && { alignment: page }),
    })
    return {
      buffer: mapping.buffer,
      byteOffset: mapping.byteOffset + (offset - start),
      size,
      hostAddress: mapping.hostAddress + (offset - start),
      release: () => mapping.release(),
    }
  } catch (error) {
    throw new VhostUserError(`${what}: ${error instanceof Error ? error.message : error}`, { cause: error })
  }
}

function pageSize(fd: number): number {
  const { type, bsize } = statfsSync(`/proc/self/fd/${fd}`)
  return type === HUGETLBFS_MAGIC ? bsize : PAGE
}
