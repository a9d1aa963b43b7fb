import { VirtkitError } from "@virtkit/interface"

/** A trace cannot be read: it is none, of another version, cut short, or corrupt. */
export class TraceError extends VirtkitError {
  override readonly name = "TraceError"

  constructor(message: string, options?: ErrorOptions) {
    super("ERR_VIRTKIT_TRACE", message, options)
  }
}

/** First bytes of a trace, followed by the version as 16 bits; all numbers of fixed width are little-endian. */
export const TRACE_MAGIC = "vktrace\0"
export const TRACE_VERSION = 1
/** A block is closed when it has this much; a record is never split. */
export const BLOCK_BYTES: number = 64 * 1024
/** The most that a reader unpacks at once, against corrupt lengths. */
export const MAX_BLOCK_BYTES: number = 32 * 1024 * 1024
/** Bytes before the contents of a block: packed length, unpacked length, CRC-32 of the unpacked bytes. */
export const BLOCK_HEADER_BYTES = 12

/** What the trace is of: the device as it was when recording began. */
export interface TraceHeader {
  readonly name: string
  readonly deviceType: number
  /** As hexadecimal text, with 0x. */
  readonly features: string
  readonly queueMaxSizes: readonly number[]
  /** Configuration space, as hexadecimal text. */
  readonly config: string
}

/** A buffer of a chain, where the guest had it. */
export interface TraceBuffer {
  readonly address: number
  /** Bytes. */
  readonly length: number
  readonly writable: boolean
}

/** A doorbell of a window: see `Doorbell` of @virtkit/interface. */
export interface TraceDoorbell {
  readonly offset: number
  readonly length: number
  readonly datamatch: number | undefined
}

/** Kinds of register windows whose layout the player knows. Others are replayed, but set up no queue. */
export type TraceWindowKind = "mmio" | "pci-common" | "pci-isr" | "other"

/** By kind: what happened, apart from when. The comment says who did it. */
export type TraceEvent =
  /** Driver: DRIVER_OK. By queue index, the size of each queue, 0 for one that is not enabled. */
  | { readonly kind: "activate"; readonly features: bigint; readonly queueSizes: readonly number[] }
  /** Driver: an available buffer notification that reached the device. */
  | { readonly kind: "notify"; readonly queue: number }
  /** Driver: wrote to the configuration space. */
  | { readonly kind: "write-config"; readonly offset: number; readonly data: Uint8Array }
  /** Driver: reset; complete at "reset-done". */
  | { readonly kind: "reset" }
  | { readonly kind: "reset-done" }
  /** Driver: reset of one queue; complete at "queue-reset-done". */
  | { readonly kind: "queue-reset"; readonly queue: number }
  | { readonly kind: "queue-reset-done"; readonly queue: number }
  /** Driver: enabled a queue again that it had reset. */
  | { readonly kind: "queue-start"; readonly queue: number; readonly size: number }
  /** Device: took a chain. `id` counts all chains of the trace. `data`: the readable part, end to end, or its beginning. */
  | {
      readonly kind: "chain"
      readonly queue: number
      readonly id: number
      readonly head: number
      readonly buffers: readonly TraceBuffer[]
      readonly data: Uint8Array
    }
  /**
   * Device: gave a chain back. `data`: the first `written` bytes of the writable part, or their beginning; `tail`: what it
   * wrote at the very end of the writable part beyond `written`, such as a status.
   */
  | {
      readonly kind: "used"
      readonly queue: number
      readonly id: number
      readonly written: number
      readonly data: Uint8Array
      readonly tail: Uint8Array
    }
  /** Device: published what it had given back. */
  | { readonly kind: "flush"; readonly queue: number }
  /** Device: announced a new configuration, which is `config`. */
  | { readonly kind: "config"; readonly config: Uint8Array }
  /** Device: asked for a reset. */
  | { readonly kind: "needs-reset"; readonly reason: string }
  /** A window of registers; comes before any access of it. `window` numbers them from 0. */
  | {
      readonly kind: "window"
      readonly window: number
      readonly layout: TraceWindowKind
      readonly name: string
      readonly doorbells: readonly TraceDoorbell[]
    }
  /** Driver: register accesses that reached the transport. */
  | {
      readonly kind: "read"
      readonly window: number
      readonly offset: number
      readonly size: number
      readonly value: number
    }
  | {
      readonly kind: "write"
      readonly window: number
      readonly offset: number
      readonly size: number
      readonly value: number
    }
  /** Driver: a doorbell rang, an index into those of the window. */
  | { readonly kind: "doorbell"; readonly window: number; readonly doorbell: number }
  /** Transport: an interrupt. An MSI-X vector, or 0 for a transport that has one interrupt. */
  | { readonly kind: "interrupt"; readonly vector: number }
  /** Driver or bus: what the PCI slot allows from here on. */
  | { readonly kind: "slot"; readonly busMaster: boolean; readonly msix: boolean }
  /** Transport: level of INTA#. */
  | { readonly kind: "intx"; readonly asserted: boolean }
  /** Driver or bus: function-level reset. */
  | { readonly kind: "function-reset" }

/** An event with its number in the trace, from 0, and when it happened: microseconds since recording began. */
export type TraceRecord = TraceEvent & { readonly number: number; readonly time: number }

/** The byte that a record begins with. Never renumbered. */
export const RECORD_TYPES: readonly TraceEvent["kind"][] = [
  "activate",
  "notify",
  "write-config",
  "reset",
  "reset-done",
  "queue-reset",
  "queue-reset-done",
  "queue-start",
  "chain",
  "used",
  "flush",
  "config",
  "needs-reset",
  "window",
  "read",
  "write",
  "doorbell",
  "interrupt",
  "slot",
  "intx",
  "function-reset",
]

/** By number in a "window" record. Never renumbered. */
export const WINDOW_KINDS: readonly TraceWindowKind[] = ["mmio", "pci-common", "pci-isr", "other"]
