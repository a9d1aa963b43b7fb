import type { GuestMemory, Queue, Stateful } from "@virtkit/interface"

/** What the driver chose for a queue, and whom the queue tells. */
export interface QueueOptions {
  readonly index: number
  /** Number of descriptors: a power of two, at most 32768. */
  readonly size: number
  /** Guest physical addresses of the descriptor table, the available ring and the used ring. */
  readonly desc: number
  readonly avail: number
  readonly used: number
  readonly memory: GuestMemory
  /** VIRTIO_F_RING_EVENT_IDX was negotiated. */
  readonly eventIdx: boolean
  /** VIRTIO_F_RING_INDIRECT_DESC was negotiated. */
  readonly indirect: boolean
  /** The driver is to get a used buffer notification. Must not throw or call the queue. */
  readonly onInterrupt: () => void
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
  /** For a reset: from now on nothing is popped and guest memory is not touched, late pushes included. */
  close(): void
}

/** A queue, or why these options cannot make one. */
export type CreateQueueResult =
  | { readonly queue: DeviceQueue; readonly reason?: undefined }
  | { readonly queue?: undefined; readonly reason: string }
