import type { RingChain } from "./chain.js"

/** What {@link Ring.take} found. */
export const EMPTY = 0
/** A chain that keeps the rules. */
export const TAKEN = 1
/** A chain that breaks a rule but can be given back: `head` and `slots` of it are known. */
export const MALFORMED = 2
/** Something that cannot even be given back: nothing in the ring can be believed any more. */
export const BROKEN = 3

/**
 * The memory layout of one kind of ring: where available chains are found, where used ones are written, and where the
 * two sides say whether they want to be notified. It holds positions only; what becomes of a chain in between is the
 * {@link RingQueue}'s business.
 */
export interface Ring {
  readonly kind: "split" | "packed"
  /** After MALFORMED and BROKEN: which rule. */
  readonly reason: string
  /** Entries of the ring that are completed, but that the driver cannot see yet. */
  readonly pending: number

  /** Fills `chain` with the next one and moves past it, unless the result is EMPTY or BROKEN. */
  take(chain: RingChain): number
  /**
   * Writes a used element for a chain that was taken, unseen by the driver until {@link publish}. `whole` says that the
   * device filled the writable part to its end: only such chains may be left out of a batch (VIRTIO_F_IN_ORDER).
   */
  complete(chain: RingChain, written: number, whole: boolean): void
  /** Shows the driver all that was completed; returns whether it wants to be interrupted for that. */
  publish(): boolean

  disableNotification(): void
  /** Returns whether the next chain is available already. */
  enableNotification(): boolean

  /** Where the next chain is taken and the next element written, 16 bits each: see `QueueState`. */
  readonly nextAvail: number
  readonly nextUsed: number
  /** Goes on from there; `chains` were taken and not completed. All of it was checked by the caller. */
  restore(nextAvail: number, nextUsed: number, chains: readonly RingChain[]): void
}
