import type { Chain, GuestMemory } from "@virtkit/interface"
import type { NetHeader } from "./header.js"

/** What a backend is. */
export interface NetBackendInfo {
  /** For messages, such as "tap tap0". */
  readonly description: string
  /** Pairs of queues that it can serve at once. */
  readonly maxQueuePairs: number
  /** OFFLOAD_ bits that it takes from the guest (of transmitted frames). */
  readonly transmitOffloads: number
  /** OFFLOAD_ bits of frames that it may hand to the guest, if the guest takes them. */
  readonly receiveOffloads: number
  /** Whether the other end is there at present. */
  readonly linkUp: boolean
  /** MTU of the other end that the guest should know, in bytes without the Ethernet header. */
  readonly mtu?: number
}

/** A frame of the guest on its way out. The object is reused: it is valid during `transmit` only. */
export interface TransmitFrame {
  /** Bytes of the Ethernet frame, 14 to 65553. */
  readonly byteLength: number
  /** Checked against the frame and what was negotiated; it is a copy that the guest cannot change. */
  readonly header: NetHeader
  /**
   * For backends that hand guest memory to system calls: the frame is the readable part of the chain from byte `offset`
   * on. The chain stays the device's and is valid until the next `commit` of its queue.
   */
  readonly chain: Chain
  readonly offset: number
  /** Copies the frame to `target` at `at`; there must be room. Returns `byteLength`. */
  copyTo(target: Uint8Array, at?: number): number
}

/**
 * The receive buffers of one queue, for backends that have system calls fill guest memory. The others use
 * {@link NetSession.receive}.
 */
export interface ReceiveBuffers {
  /** Buffers that wait for frames. */
  readonly count: number
  /** Most that wait at once. */
  readonly limit: number
  /** A frame may be spread over several buffers (VIRTIO_NET_F_MRG_RXBUF); if not, what exceeds one is lost. */
  readonly mergeable: boolean
  /** Buffers go back in their order (VIRTIO_F_IN_ORDER): fill those of one frame, and call `filled`, before the next. */
  readonly inOrder: boolean
  /** The guest takes frames that say something about their checksum. If not, the flags of the header must be 0. */
  readonly checksums: boolean
  /** The `index`th of those that wait, oldest first. Frames go to its writable part, after a header of 12 bytes. */
  at(index: number): Chain
  /**
   * Takes what the driver made available, up to `limit`; new buffers are behind the others. False when they have fewer than
   * `bytes` (default 1) together: `receiveReady` follows once there are more; unless there are `limit` of them already.
   */
  refill(bytes?: number): boolean
  /** How many frames the rate limit allows now; when 0, `receiveReady` follows. */
  allowance(): number
  /**
   * The first `buffers` of those that wait hold a frame, header included and complete. `head` has the first bytes of
   * header and frame (12 + 18) at `headOffset`, of which no more than `bytes` count. Returns false when the guest does
   * not want the frame: then the same buffers wait again, behind the others (`inOrder`: where they were).
   */
  filled(buffers: number, bytes: number, head: Uint8Array, headOffset: number): boolean
  /** A frame had to be dropped, because it fits no buffer (`"tooLong"`) or the host failed. */
  dropped(reason: "tooLong" | "error"): void
}

/** The device as its backend sees it, from one `start` to the next `stop`. Methods must not be called after `stop`. */
export interface NetSession {
  readonly memory: GuestMemory
  /** Pairs of queues in use. Changes while the guest runs: see {@link NetBackend.setQueuePairs}. */
  readonly queuePairs: number
  /**
   * Hands a frame to the guest. `header` says what is not done yet (default: nothing): only what the guest negotiated is
   * passed on, missing checksums are filled in, other frames are dropped. The bytes may be reused when it returns.
   *
   * False when the guest has no room, or may not receive as much: `NetBackend.receiveReady` follows when it has, and the
   * backend keeps the frame, or drops it and says so with {@link NetSession.dropped}.
   */
  receive(pair: number, frame: Uint8Array, header?: NetHeader): boolean
  /** Runs `task` in a later turn of the event loop, unless there was a `stop` by then: for batches that became long. */
  defer(task: () => void): void
  /** Ends a batch of `receive` or `filled`: the driver sees them only now. */
  received(pair: number): void
  /** Frames for the guest were lost. */
  dropped(frames: number): void
  /** Undefined when the driver has not set up that queue. Another object after the driver has reset it. */
  buffers(pair: number): ReceiveBuffers | undefined
  /** After `transmit` returned false: there is room again. */
  transmitReady(pair: number): void
  /** The other end came or went; the guest is told. `reason` is for people. */
  linkChanged(up: boolean, reason: string): void
  /** `frames` could not be sent: errno of the host. */
  transmitFailed(frames: number, errno: number): void
}

/**
 * Where frames go to and come from. Owned by one device, which calls it on the VM's thread. No method throws because of
 * a frame.
 *
 * The least that works: `info`, `start`, `stop`, a `transmit` that copies the frame and returns true, `close`; and
 * `session.receive(0, frame); session.received(0)` for what comes in.
 */
export interface NetBackend {
  readonly info: NetBackendInfo
  /** At activation. `offloads`: what the guest takes, a subset of `info.receiveOffloads`. */
  start(session: NetSession, offloads: number): void
  /** At a reset: nothing is received any more, and no memory of the session is touched. Nothing is in flight. */
  stop(): void
  /** Takes a frame, or returns false when it has no room for it; then `session.transmitReady` must follow. */
  transmit(pair: number, frame: TransmitFrame): boolean
  /** A batch of `transmit` is over: guest memory of its frames may be reused when it returns. */
  commit?(pair: number): void
  /**
   * Once for the batches that a look at the ring found, when the driver has their chains back: `frames` of them were
   * taken. For backends that can look without an event for what they bring about, such as acknowledgements.
   */
  committed?(pair: number, frames: number): void
  /** The guest has room again after `receive` returned false or `refill` or `allowance` 0. */
  receiveReady?(pair: number): void
  /** The guest uses that many pairs from now on. Frames for others are not received. */
  setQueuePairs?(pairs: number): void
  /** The guest takes other offloads from now on. */
  setOffloads?(offloads: number): void
  /** Idempotent. After `stop`, or without any `start`. */
  close(): Promise<void>
}
