export interface BlockEngineOptions {
  /** Most requests in flight, and in one batch: 1 to 32768. */
  depth: number
  /** Segments of a batch together. */
  segments: number
  /** Most threads, which are started when there is work for them: 1 to 64, default 4. */
  threads?: number
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
   * set. What it throws is an uncaught exception.
   */
  constructor(options: BlockEngineOptions, onComplete: (count: number) => void)

  /** Operation number. */
  readonly ops: Uint8Array
  /**
   * Bit 0: durable before it completes. Bit 1: zeroed ranges may be deallocated. Bit 2: a read that waits for the disk
   * (O_DIRECT), so that it is left to a thread.
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

  /**
   * Submits the first `count` requests. Returns how many requests (of these) completed at once: they are in the
   * completion arrays now, and the caller must look at them before it submits again or returns to the event loop. Throws
   * RangeError, and takes none, when a request is malformed or more than `depth` would be in flight.
   */
  submit(count: number): number
  /** Collects what completed meanwhile, as `submit` does. Not from within `onComplete` while it still reads the arrays. */
  poll(): number
  /** No more submissions; resolves when nothing is in flight and the threads are gone. Idempotent. */
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

/**
 * Locks the whole file for this open file description, until it is closed: against all others (needs a descriptor open
 * for writing) or against writers only. False when another holds a lock that conflicts.
 */
export declare function lockFile(fd: number, exclusive: boolean): boolean
