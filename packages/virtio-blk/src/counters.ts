/** What happened to a block device since it was made. */
export interface BlockCounters {
  reads: number
  readBytes: number
  writes: number
  writtenBytes: number
  flushes: number
  /** Discard and write zeroes requests. */
  ranges: number
  /** Requests answered with an error or as unsupported. */
  failed: number
  /** Chains with no room for a header and a status. */
  malformed: number
  /** Times that a queue had to wait for the rate limit. */
  limited: number
  /** Errno of the last error of the host; 0 when there was none. */
  lastErrno: number
}

export function newCounters(): BlockCounters {
  return {
    reads: 0,
    readBytes: 0,
    writes: 0,
    writtenBytes: 0,
    flushes: 0,
    ranges: 0,
    failed: 0,
    malformed: 0,
    limited: 0,
    lastErrno: 0,
  }
}
