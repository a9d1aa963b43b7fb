/** What happened to a network device since it was made. "rx" is what the guest receives. */
export interface NetCounters {
  rxFrames: number
  /** Of Ethernet frames, without the virtio header. */
  rxBytes: number
  /** Frames that the guest's MAC or VLAN filter refused. */
  rxFiltered: number
  /** Frames lost because the guest gave no buffers in time, or the link was down. */
  rxDropped: number
  /** Frames that fit no buffer that the guest gave. */
  rxTooLong: number
  /** Frames with an offload that the guest did not negotiate, or that the host could not read. */
  rxErrors: number
  txFrames: number
  txBytes: number
  /** Frames lost because the link was down. */
  txDropped: number
  /** Frames shorter than virtio header and Ethernet header, or longer than any frame. */
  txBadLength: number
  /** Frames whose virtio header is wrong or was not negotiated. */
  txBadHeader: number
  /** Frames that the host refused. */
  txErrors: number
  /** Chains without room for what the device has to write. */
  malformed: number
  controlCommands: number
  controlErrors: number
  /** Times that a rate limit held frames back. */
  rxLimited: number
  txLimited: number
  /** Times that the link went down. */
  linkDowns: number
  /** Errno of the last error of the host; 0 when there was none. */
  lastErrno: number
  /** By pair of queues. */
  readonly queues: readonly NetQueueCounters[]
}

export interface NetQueueCounters {
  rxFrames: number
  rxBytes: number
  txFrames: number
  txBytes: number
}

export function newCounters(pairs: number): NetCounters {
  return {
    rxFrames: 0,
    rxBytes: 0,
    rxFiltered: 0,
    rxDropped: 0,
    rxTooLong: 0,
    rxErrors: 0,
    txFrames: 0,
    txBytes: 0,
    txDropped: 0,
    txBadLength: 0,
    txBadHeader: 0,
    txErrors: 0,
    malformed: 0,
    controlCommands: 0,
    controlErrors: 0,
    rxLimited: 0,
    txLimited: 0,
    linkDowns: 0,
    lastErrno: 0,
    queues: Array.from({ length: pairs }, () => ({ rxFrames: 0, rxBytes: 0, txFrames: 0, txBytes: 0 })),
  }
}
