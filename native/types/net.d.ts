export interface TapOptions {
  /** An interface. Or `fd`. */
  name?: string
  /** A descriptor of a TAP with IFF_VNET_HDR, or a macvtap; it is duplicated, and gets O_NONBLOCK. */
  fd?: number
  /** Whether the interface was made for several queues; it must agree. Default false. */
  multiQueue?: boolean
  /** Make the interface if there is none of that name; it goes with its last descriptor. Default false. */
  create?: boolean
  /** Segments of all receive buffers that wait, and of a batch of `write`: a power of two. */
  segments: number
  /** Receive buffers that wait: a power of two. */
  buffers: number
  /** Frames of a batch, either way. */
  frames: number
}

/**
 * One queue of a TAP interface. Frames go from and to memory at host addresses, with a virtio_net_hdr of 12 bytes before
 * each (IFF_VNET_HDR). Never waits.
 *
 * Receive buffers are a ring: buffer n is the next `receiveCounts[n % buffers]` segments of `receiveAddresses` and
 * `receiveLengths`, which are a ring too. The caller keeps account of where they start and end.
 */
export declare class Tap {
  /**
   * Throws TypeError or RangeError for wrong options, else with `code`, `errno`, `syscall`: ENODEV when there is no such
   * interface, EPERM when it belongs to others, EBUSY when somebody uses it, EINVAL when it is for several queues and
   * `multiQueue` is false or the other way round, or is no TAP with IFF_VNET_HDR.
   */
  constructor(options: TapOptions)
  /** -1 once closed. */
  readonly fd: number
  readonly name: string
  readonly multiQueue: boolean

  /** Host addresses and bytes. */
  readonly receiveAddresses: Float64Array
  readonly receiveLengths: Uint32Array
  readonly receiveCounts: Uint32Array
  /** Of each frame read: buffers that it takes, bytes with header. */
  readonly frameBuffers: Uint32Array
  readonly frameBytes: Uint32Array
  /** The first 30 bytes (header and frame) of frame n are at 32 n. */
  readonly heads: Uint8Array

  /** The header of frame n to be written is at 12 n. */
  readonly headers: Uint8Array
  /** Segments of each frame to be written, which follow each other from 0 on. */
  readonly counts: Uint32Array
  readonly addresses: Float64Array
  readonly lengths: Uint32Array

  /**
   * After `read`: why it ended (0: it read `maxFrames`; EAGAIN: no more frames; ENOBUFS: more buffers are needed; another
   * errno), how many bytes the buffers must have together, and how many frames were dropped because they fit no buffer.
   * After `write`: the errno of the last frame that failed.
   */
  readonly result: Int32Array

  /** TUNSETOFFLOAD with TUN_F_ bits; false when the kernel does not know all of them. Throws on other errors. */
  setOffloads(offloads: number): boolean
  /** Whether frames are steered to this queue (TUNSETQUEUE). */
  attach(on: boolean): void
  /** MTU of the interface in bytes, 0 when it cannot be told. */
  mtu(): number
  /**
   * Reads up to `maxFrames` frames, or 16 KiB of them, into the buffers from `firstBuffer` and `firstSegment` on, of which there are
   * `buffers`; returns how many. The header's num_buffers is set. `usual` is what most frames do not exceed, in bytes
   * with header: larger ones cost a copy. Flags: 1: a frame may take several buffers; a frame that needs more than there
   * are is kept for the next call, unless 2: these are all that there will be. 4: clear the flags of the header.
   */
  read(
    firstBuffer: number,
    firstSegment: number,
    buffers: number,
    maxFrames: number,
    usual: number,
    flags: number,
  ): number
  /** Forgets a frame that was kept. */
  drop(): void
  /** Writes the first `frames` frames; returns how many failed. */
  write(frames: number): number
  /** Idempotent. Also when the object is collected. */
  close(): void
}
