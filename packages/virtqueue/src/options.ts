import type { GuestMemory, Queue, Stateful } from "@virtkit/interface"
import {
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_RING_EVENT_IDX,
  VIRTIO_F_RING_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
} from "./constants.js"

/** What of a ring depends on the features that driver and device agreed on. */
export interface RingFeatures {
  /** VIRTIO_F_RING_PACKED was negotiated: a packed ring, else a split one. Default false. */
  readonly packed?: boolean
  /** VIRTIO_F_IN_ORDER was negotiated: chains go back in the order in which they came. Default false. */
  readonly inOrder?: boolean
  /** VIRTIO_F_RING_EVENT_IDX was negotiated. */
  readonly eventIdx: boolean
  /** VIRTIO_F_RING_INDIRECT_DESC was negotiated. */
  readonly indirect: boolean
}

/** What the driver chose for a queue, and whom the queue tells. */
export interface QueueOptions extends RingFeatures {
  readonly index: number
  /** Number of descriptors, 1 to 32768; a power of two if the ring is a split one. */
  readonly size: number
  /** Guest physical address of the descriptor table or, of a packed ring, of the descriptor ring. */
  readonly desc: number
  /** Guest physical address of the available ring or the driver event suppression structure. */
  readonly avail: number
  /** Guest physical address of the used ring or the device event suppression structure. */
  readonly used: number
  /** Its regions are those of now for as long as the queue lives. */
  readonly memory: GuestMemory
  /** The driver is to get a used buffer notification. Must not throw or call the queue. */
  readonly onInterrupt: () => void
  /** Where to count, for those who have others see it. Default: an object of the queue's own. */
  readonly counters?: QueueCounters | undefined
  /** The ring cannot be trusted any more; called once, from within `pop`. Must not throw or call the queue. */
  readonly onBroken: (reason: string) => void
}

/** What happened on a queue since it was made. */
export interface QueueCounters {
  /** Chains handed to the device and not taken back by `unpop`. */
  chains: number
  /** Chains that broke a rule and went back to the driver with a length of 0. */
  malformed: number
  /** Available buffer notifications by the driver; counted by the transport. */
  notifications: number
  /** Used buffer notifications sent, and left out because the driver did not want them. */
  interrupts: number
  interruptsSuppressed: number
}

/** The device side of a virtqueue with what transports need beyond {@link Queue}. */
export interface DeviceQueue extends Queue, Stateful {
  readonly counters: QueueCounters
  /** Why the queue is broken, or what was wrong with the last malformed chain; undefined when all was well. */
  readonly lastError: string | undefined
  /** Chains popped and not pushed. */
  readonly inFlight: number
  /** Where the next chain is taken and where the next one is given back, 16 bits each: see `QueueState`. */
  readonly nextAvail: number
  readonly nextUsed: number
  /** For a reset: from now on nothing is popped and guest memory is not touched, late pushes included. */
  close(): void
}

/** A queue, or why these options cannot make one. */
export type CreateQueueResult =
  | { readonly queue: DeviceQueue; readonly reason?: undefined }
  | { readonly queue?: undefined; readonly reason: string }

/** The part of {@link QueueOptions} that negotiated features decide. */
export function ringFeatures(features: bigint): Required<RingFeatures> {
  return {
    packed: (features & VIRTIO_F_RING_PACKED) !== 0n,
    inOrder: (features & VIRTIO_F_IN_ORDER) !== 0n,
    eventIdx: (features & VIRTIO_F_RING_EVENT_IDX) !== 0n,
    indirect: (features & VIRTIO_F_RING_INDIRECT_DESC) !== 0n,
  }
}
