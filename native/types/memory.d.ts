/** What {@link MemoryMapping} maps. */
export interface MemoryMappingOptions {
  /** Bytes, a multiple of 4096. */
  size: number
  /** Of the host address: a power of two from 4096 to 1 GiB. Default: 2 MiB for 2 MiB or more, else 4096. */
  alignment?: number
  /**
   * Map nothing: the pages of the SharedArrayBuffer itself are used, aligned. Enough for pages that only this process
   * and KVM see, such as register pages. All options below are ignored, `release` does nothing.
   */
  plain?: boolean
  /** memfd or file to map; absent: anonymous memory. It may be closed afterwards. */
  fd?: number
  /** Bytes into the file, a multiple of 4096 (of the huge page size for hugetlb). Default 0. */
  fileOffset?: number
  /** Whether writes reach the file and processes that share it. Default: true with `fd`, else false. */
  shared?: boolean
  /** Leave it out of child processes, which then start faster. Default true. */
  dontFork?: boolean
  /** Leave it out of core dumps. Default true. */
  dontDump?: boolean
  /** Ask for transparent huge pages, or for none; absent: as the system is set. */
  hugePages?: boolean
  /** Allocate all pages now (takes about 0.3 s a GiB, during which the thread is blocked). Default false. */
  populate?: boolean
}

/**
 * Zeroed memory or a mapped file, inside a SharedArrayBuffer, at a fixed host address.
 *
 * Lifetime: the host address is good until `release`, or until this object is collected; whoever hands it to the kernel
 * (a KVM memory slot, I/O in flight) keeps this object referenced and ends that use before `release`. The buffer stays
 * usable after `release`, on every thread that has it, and then reads as zeros or whatever was written to it since.
 */
export declare class MemoryMapping {
  /**
   * Throws TypeError or RangeError for wrong options, RangeError when V8 cannot reserve the addresses, and an error
   * with `code`, `errno`, `syscall` when mmap or madvise fails.
   */
  constructor(options: MemoryMappingOptions)
  /** Larger than `size`. May be posted to a worker. */
  readonly buffer: SharedArrayBuffer
  /** Where the memory starts in `buffer`. */
  readonly byteOffset: number
  readonly size: number
  /** Where the memory starts in this process; below 2^47. */
  readonly hostAddress: number
  /** Gives the memory back to the system. Idempotent. */
  release(): void
}

/**
 * A memfd of `size` bytes that can neither shrink nor grow, close-on-exec. `hugePageSize` in bytes (2 MiB, 1 GiB) makes
 * it one of hugetlb pages. The caller closes it.
 */
export declare function memfdCreate(name: string, size: number, hugePageSize?: number): number
