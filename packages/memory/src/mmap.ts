import { closeSync, constants, fstatSync, ftruncateSync, openSync } from "node:fs"
import { ConfigError, SystemError } from "@virtkit/interface"
import { MemoryMapping, type MemoryMappingOptions, memfdCreate } from "@virtkit/native"
import { layoutRam, PAGE_SIZE, type RegionLayout } from "./layout.js"
import { GuestMemoryMap } from "./map.js"
import type { BackedRegion } from "./region.js"

/** Where the memory comes from. */
export type MmapBacking =
  /** Memory of this process. */
  | "anonymous"
  /** A sealed memfd, which other processes (vhost-user) can map. */
  | "memfd"
  /** A memfd of huge pages, which must have been set aside in /proc/sys/vm/nr_hugepages. */
  | "hugetlb"
  /**
   * A file. Shared (the default): guest writes reach it; it is created, or made longer, as needed. Not shared: the guest
   * starts with its contents and writes stay private; it must be long enough.
   */
  | { readonly file: string; readonly shared?: boolean }

export interface MmapOptions {
  /** Default "anonymous". */
  backing?: MmapBacking
  /** Bytes of a hugetlb page: 2 MiB (the default) or 1 GiB. */
  hugePageSize?: number
  /** Transparent huge pages: ask for them or forbid them. Absent: as the system is set. */
  hugePages?: boolean
  /** Allocate all memory now rather than when the guest first touches it. Default false. */
  prealloc?: boolean
}

/** A region of mapped memory; its host address is what KVM and system calls are given. */
export interface MmapRegion extends BackedRegion {
  readonly buffer: SharedArrayBuffer
}

/**
 * Guest memory that KVM and system calls can use: each region is mapped inside a SharedArrayBuffer.
 *
 * `layout` is a size in bytes, or a list of ranges. The memory goes when the map is closed: end every use of its host
 * addresses first (vCPUs, memory slots, I/O in flight). Throws {@link ConfigError} for sizes that cannot be had and
 * {@link SystemError} when a system call fails.
 */
export function mmapMemory(
  layout: number | readonly RegionLayout[],
  options: MmapOptions = {},
): GuestMemoryMap {
  const ranges = typeof layout === "number" ? layoutRam(layout) : layout
  const regions: MmapRegion[] = []
  let fileOffset = 0
  try {
    for (const range of ranges) {
      regions.push(mmapRegion(range.guestAddress, range.size, { ...options, fileOffset }))
      fileOffset += range.size
    }
    return new GuestMemoryMap(regions)
  } catch (error) {
    for (const region of regions) region.release()
    throw error
  }
}

/** One region. `fileOffset`: where it starts in a file backing, in bytes. */
export function mmapRegion(
  guestAddress: number,
  size: number,
  options: MmapOptions & { fileOffset?: number } = {},
): MmapRegion {
  const backing = options.backing ?? "anonymous"
  const source = openBacking(backing, size, options)
  try {
    const mapping = map({
      size,
      ...source.mapping,
      ...(options.hugePages !== undefined && { hugePages: options.hugePages }),
      ...(options.prealloc !== undefined && { populate: options.prealloc }),
    })
    return region(guestAddress, mapping, source)
  } catch (error) {
    if (source.fd >= 0) closeSync(source.fd)
    throw mappingError(error, size, backing)
  }
}

/** A page for registers that the guest reads as memory (a KVM read-only memory slot). */
export interface MappedPage {
  /** 4096 bytes, page-aligned. */
  readonly view: DataView
  readonly hostAddress: number
}

/** Zeroed. The page lives for as long as the returned object or its view is referenced; it needs no release. */
export function mmapPage(): MappedPage {
  const mapping = map({ size: PAGE_SIZE, plain: true })
  return {
    view: new DataView(mapping.buffer, mapping.byteOffset, PAGE_SIZE),
    hostAddress: mapping.hostAddress,
  }
}

interface Source {
  readonly fd: number
  readonly mapping: Partial<MemoryMappingOptions>
  readonly offset: number
}

function openBacking(
  backing: MmapBacking,
  size: number,
  options: MmapOptions & { fileOffset?: number },
): Source {
  if (backing === "anonymous") return { fd: -1, mapping: {}, offset: 0 }
  if (backing === "memfd") {
    const fd = system(() => memfdCreate("virtkit-ram", size))
    return { fd, mapping: { fd }, offset: 0 }
  }
  if (backing === "hugetlb") {
    const page = options.hugePageSize ?? 2 ** 21
    if (size % page !== 0) {
      throw new ConfigError(`memory size ${size} is not a multiple of the huge page size ${page}`)
    }
    const fd = system(() => memfdCreate("virtkit-ram", size, page))
    return { fd, mapping: { fd, alignment: page }, offset: 0 }
  }
  return openFile(backing.file, backing.shared ?? true, size, options.fileOffset ?? 0)
}

function openFile(path: string, shared: boolean, size: number, offset: number): Source {
  const flags = shared ? constants.O_RDWR | constants.O_CREAT : constants.O_RDONLY
  const fd = system(() => openSync(path, flags, 0o600))
  try {
    const have = fstatSync(fd).size
    if (have < offset + size) {
      if (!shared) throw new ConfigError(`memory file ${path} has ${have} bytes, ${offset + size} are needed`)
      system(() => ftruncateSync(fd, offset + size))
    }
  } catch (error) {
    closeSync(fd)
    throw error
  }
  return { fd, mapping: { fd, shared, fileOffset: offset }, offset }
}

function region(guestAddress: number, mapping: MemoryMapping, source: Source): MmapRegion {
  let open = source.fd >= 0
  return {
    guestAddress,
    size: mapping.size,
    buffer: mapping.buffer,
    byteOffset: mapping.byteOffset,
    hostAddress: mapping.hostAddress,
    ...(open && source.mapping.shared !== false && { file: { fd: source.fd, offset: source.offset } }),
    release: () => {
      mapping.release()
      if (open) closeSync(source.fd)
      open = false
    },
  }
}

function map(options: MemoryMappingOptions): MemoryMapping {
  try {
    return new MemoryMapping(options)
  } catch (error) {
    // V8 says only that it could not.
    if (error instanceof RangeError) {
      throw new ConfigError(`cannot reserve ${options.size} bytes of address space for guest memory`, {
        cause: error,
      })
    }
    throw error
  }
}

function system<T>(call: () => T): T {
  try {
    return call()
  } catch (error) {
    throw systemError(error)
  }
}

function mappingError(error: unknown, size: number, backing: MmapBacking): unknown {
  const found = systemError(error)
  if (!(found instanceof SystemError) || found.code !== "ENOMEM") return found
  const advice =
    backing === "hugetlb"
      ? "set more huge pages aside, as in: sysctl vm.nr_hugepages=N"
      : "give the virtual machine less memory, or the host more"
  return new ConfigError(`the host has no ${size} bytes for guest memory; ${advice}`, { cause: error })
}

/** Errors of system calls, ours and Node's, as {@link SystemError}; others as they are. */
function systemError(error: unknown): unknown {
  if (!(error instanceof Error) || !("errno" in error && "syscall" in error && "code" in error)) return error
  const { code, errno, syscall, message } = error as NodeJS.ErrnoException
  return new SystemError(String(code), Math.abs(errno ?? 0), String(syscall), message, { cause: error })
}
