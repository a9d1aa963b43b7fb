import type { GuestMemory } from "@virtkit/interface"

/** What a backend is asked to do; also the operation numbers of `BlockEngine` in @virtkit/native. */
export const BLOCK_READ = 0
export const BLOCK_WRITE = 1
export const BLOCK_FLUSH = 2
export const BLOCK_DISCARD = 3
export const BLOCK_WRITE_ZEROES = 4

/** One operation. The object and its arrays belong to the device, which leaves them alone until it is completed. */
export interface BlockRequest {
  /** Unique among the requests in flight, below `depth` of the session. */
  readonly tag: number
  /** One of the numbers above. */
  readonly op: number
  /** Bytes from the start of the disk. The range is on the disk. */
  readonly offset: number
  /** Bytes to move, discard or zero. */
  readonly length: number
  /** The change must be durable before it completes (write-through). */
  readonly sync: boolean
  /** Zeroed ranges may lose their disk space. */
  readonly unmap: boolean
  /** Guest ranges of a read or write, `length` bytes in all; `count` of them are valid. All lie in guest memory. */
  readonly addresses: Float64Array
  readonly lengths: Uint32Array
  readonly count: number
}

/** The device as its backend sees it, from one activation to the next reset. */
export interface BlockSession {
  readonly memory: GuestMemory
  /** Most requests in flight. */
  readonly depth: number
  /**
   * A request is done: `error` is 0 or a positive errno. Allowed from within `submit` and `commit`, but not before the
   * backend is done with the request: the device may submit it again at once.
   */
  complete(request: BlockRequest, error: number): void
  /** A batch of `complete` calls is over: the driver is told now. May call `commit`. Not needed within `submit`. */
  completed(): void
  /** A later turn of the event loop than the one in which the backend was asked to `wake` the session. */
  woken(): void
}

/** What a backend is; bytes. */
export interface BlockBackendInfo {
  /** A multiple of 512. */
  readonly size: number
  readonly readonly: boolean
  readonly logicalBlockSize: number
  readonly physicalBlockSize: number
  /** 0 when there is none. */
  readonly optimalIoSize: number
  /** Most bytes of one discard or write zeroes operation; 0 when it cannot do them. */
  readonly maxDiscard: number
  readonly maxWriteZeroes: number
  /** Unit in which discarding makes sense. */
  readonly discardAlignment: number
  /**
   * For backends that do their work in `submit`: bytes after which the device lets the event loop turn. 0: no limit.
   */
  readonly bytesPerTurn: number
  /** What carries requests out, for people. Absent: the backend itself. */
  readonly engine?: string
}

/**
 * Where the data of a disk lives. Owned by one device, which calls it on the VM's thread. Errors of the host are reported
 * by `complete`; no method throws because of a request.
 */
export interface BlockBackend {
  readonly info: BlockBackendInfo
  /** Called at activation, when nothing is in flight. Requests until the next one complete to this session. */
  start(session: BlockSession): void
  /** Takes a request; it may start only with the next `commit`. */
  submit(request: BlockRequest): void
  /** Starts what was submitted. */
  commit(): void
  /**
   * Completes what is done by now, with `completed` after it, and sets the clock. Absent in backends that are not worth
   * looking at.
   */
  poll?(): void
  /** One element: the time of the last `poll`, in milliseconds that only go forward. There with `poll`. */
  readonly clock?: Float64Array
  /** While on, what is done waits for `poll` or `commit`. There with `poll`. */
  setPolling?(on: boolean): void
  /** Has `woken` of the session called, once. Absent in backends that have no better way than `DeviceContext.defer`, which allocates. */
  wake?(): void
  /**
   * The driver has given these requests up, all of them in flight: what has not begun of them should not be done. They complete all the
   * same, from within this call or later, with any result. Absent where what is in flight has to go on to its end, or never
   * takes long.
   */
  cancel?(requests: readonly BlockRequest[]): void
  /** Resolves when no request is in flight any more. */
  idle(): Promise<void>
  /** Makes the disk `size` bytes long, or, without it, looks how long it has become. Changes `info.size`. */
  resize(size?: number): Promise<void>
  /** Idempotent. Nothing is in flight. */
  close(): Promise<void>
}
