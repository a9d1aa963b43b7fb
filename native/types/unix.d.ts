/** Listens on the path of a Unix stream socket. Closed by `close`, or when the object is collected. */
export declare class UnixListener {
  /** Throws with `code` EADDRINUSE when the path exists, ENAMETOOLONG above 107 bytes. */
  constructor(path: string)
  /** Becomes readable when somebody connects; -1 once closed. */
  readonly fd: number
  /** Descriptor of the next connection, close-on-exec and the caller's; -1 when nobody waits. */
  accept(): number
  /** Leaves the path in the file system. Idempotent. */
  close(): void
}

/**
 * A connected Unix stream socket whose messages carry file descriptors. No call waits. Descriptors are received
 * close-on-exec and are the caller's to close.
 */
export declare class UnixSocket {
  /** Takes the descriptor over and leaves its flags alone. Throws, and takes nothing, unless it is such a socket. */
  constructor(fd: number)
  /** -1 once closed. */
  readonly fd: number
  /** 32 elements; after `receive` the first `fdCount` are the descriptors that came with those bytes. */
  readonly fds: Int32Array
  readonly fdCount: number
  /** More descriptors came than there is room for; the rest was closed. */
  readonly truncated: boolean
  /**
   * Reads up to `length` bytes into `bytes` from `offset` on; returns how many, 0 at the end of the connection, -1 when there
   * is nothing yet. Bytes that were sent with different descriptors are never read by one call.
   */
  receive(bytes: Uint8Array, offset: number, length: number): number
  /** Returns how many bytes were sent, the descriptors with the first of them; -1 when nothing can be sent now. */
  send(bytes: Uint8Array, offset: number, length: number, fds?: readonly number[]): number
  /** Idempotent. */
  close(): void
}

/** Connects to a listener and returns the descriptor, for `UnixSocket`. Throws with `code` ECONNREFUSED, ENOENT, ... */
export declare function unixConnect(path: string): number

/** The descriptors of two sockets connected with each other. */
export declare function unixPair(): [number, number]
