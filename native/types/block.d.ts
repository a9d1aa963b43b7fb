/** What carries requests out: the kernel's io_uring, or threads of the addon that make blocking system calls. */
export type BlockEngineKind = "io_uring" | "threads"

export interface BlockEngineOptions {
  /** Most requests in flight, and in one batch: 1 to 32768. */
  depth: number
  /** Segments of a batch together. */
  segments: number
  /** Most threads, which are started when there is work for them: 1 to 64, default 4. */
  threads?: number
  /** Default "auto": io_uring where the kernel has it (5.12) and lets this process use it, else threads. */
  kind?: BlockEngineKind | "auto"
  /**
   * Writes of whole pages that go to the page cache are done within `submit`: quicker than to have them done, but it waits
   * when the cache is full of what the disk does not take. After long waits none are, for a second or more. Default false.
   */
  writeNow?: boolean
}

/**
 * Asynchronous I/O on files and block devices, straight from and to memory at host addresses.
 *
 * Write up to `depth` requests into the submission arrays (request n is element n of each), their memory segments into
 * the segment arrays, and call `submit`. The arrays may be reused when it returns; the memory must stay valid until the
 * request completes. Completions come in any order and carry the `tag`.
 *
 * Operations: 0 read, 1 write, 2 flush (fdatasync), 3 discard, 4 write zeroes. Short transfers are continued; a read
 * that meets the end of the file completes with fewer bytes.
 */
export declare class BlockEngine {
  /**
   * `onComplete(count)` is called from the event loop with the first `count` elements of `completedTags` and `results`
   * set; with 0 only after `wake`. What it throws is an uncaught exception. With kind "io_uring", throws with `code`, `errno`, `syscall` where there is
   * none.
   */
  constructor(options: BlockEngineOptions, onComplete: (count: number) => void)

  /** Operation number. */
  readonly ops: Uint8Array
  /**
   * Bit 0: durable before it completes. Bit 1: zeroed ranges may be deallocated. Bit 2: a transfer that waits for the disk
   * whatever the page cache has (O_DIRECT).
   */
  readonly flags: Uint8Array
  readonly fds: Int32Array
  /** Bytes from the start of the file. */
  readonly offsets: Float64Array
  /** Bytes, of discard and write zeroes. */
  readonly lengths: Float64Array
  readonly tags: Uint32Array
  /** Of read and write: index of the first segment, and how many. Segments of length 0 are skipped. */
  readonly firstSegments: Uint32Array
  readonly segmentCounts: Uint32Array

  /** Host addresses. */
  readonly segmentAddresses: Float64Array
  readonly segmentLengths: Uint32Array

  readonly completedTags: Uint32Array
  /** Bytes read or written, 0 for other operations, or a negative errno. */
  readonly results: Float64Array

  /** Requests that were submitted and whose completion was not handed out yet. */
  readonly inFlight: number
  /** One element, set by `poll`: milliseconds of CLOCK_MONOTONIC, for those who must not allocate. */
  readonly clock: Float64Array
  readonly kind: BlockEngineKind

  /**
   * Requests on this descriptor are a little cheaper from now on. At most 8; before one of them is closed, call
   * `unregisterFiles`. Throws with `code`, `errno`, `syscall`. Nothing with threads.
   */
  registerFile(fd: number): void
  unregisterFiles(): void

  /**
   * Submits the first `count` requests. Returns how many requests, of these or earlier ones, are complete: they are in the
   * completion arrays now, and the caller must look at them before it submits again or returns to the event loop. Throws
   * RangeError, and takes none, when a request is malformed or more than `depth` would be in flight.
   */
  submit(count: number): number
  /**
   * Nobody wants the results of the requests any more whose tags are the first `count` elements of `tags`; others are passed over.
   * They complete as soon as they can, mostly with -ECANCELED: what has not begun is not done, and what the kernel has at the
   * disk goes on to its end. A write may have been done in part. Returns what `submit` does.
   */
  cancel(count: number): number
  /** Collects what completed meanwhile, as `submit` does. Not from within `onComplete` while it still reads the arrays. */
  poll(): number
  /** While on, completions wait for `poll` or `submit` and do not wake the event loop. */
  setPolling(on: boolean): void
  /**
   * `onComplete` is called in a later turn of the event loop, once, with 0 when nothing has completed: setImmediate for those who
   * must not allocate.
   */
  wake(): void
  /**
   * No more submissions; resolves when nothing is in flight, the threads are gone and the kernel lets go of registered files.
   * Idempotent.
   */
  close(): Promise<void>
}

export interface BlockFileInfo {
  readonly kind: "file" | "block" | "other"
  /** Bytes. */
  readonly size: number
  /** Bytes; 512 for files. */
  readonly logicalBlockSize: number
  readonly physicalBlockSize: number
  /** Bytes, 0 when there is none. */
  readonly optimalIoSize: number
  /** A block device that cannot be written. */
  readonly readonly: boolean
}

/** Throws with `code`, `errno`, `syscall`. */
export declare function blockFileInfo(fd: number): BlockFileInfo

/** What memory addresses, and what offsets and lengths, have to be multiples of under O_DIRECT; bytes. */
export interface DirectAlignment {
  readonly memory: number
  readonly offset: number
}

/** Undefined where the kernel (before 6.1) or the file system does not say. Throws with `code`, `errno`, `syscall`. */
export declare function directAlignment(fd: number): DirectAlignment | undefined

/**
 * Locks the whole file for this open file description, until it is closed: against all others (needs a descriptor open
 * for writing) or against writers only. False when another holds a lock that conflicts.
 */
export declare function lockFile(fd: number, exclusive: boolean): boolean

/**
 * Writes pieces of a file one after the other such that a SIGKILL of this process does not come in between: none of them is
 * written after it, or all are. `places` has a pair for each piece, its offset in the file and its length, and `bytes` has their
 * content without gaps; both are copied before it returns. What is written is not durable: see fdatasync.
 *
 * A child process does it that shares memory and descriptors with this one, as with vfork. One who kills both (a process group,
 * a cgroup), or a kernel that crashes, may leave some pieces written; so may a system that allows no more processes, where a thread of this
 * process writes. Rejects with `code`, `errno`, `syscall`; then some pieces may be written.
 */
export declare function writeTogether(fd: number, bytes: Uint8Array, places: Float64Array): Promise<void>
