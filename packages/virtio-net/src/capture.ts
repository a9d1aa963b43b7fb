import type { ReceiveBuffers, TransmitFrame } from "./backend.js"
import type { NetHeader } from "./header.js"

/** Where copies of frames go. See `PcapngWriter`. */
export interface Capture {
  /** "in" is towards the guest. */
  frame(direction: "in" | "out", bytes: Uint8Array, header: NetHeader): void
  transmitted(frame: TransmitFrame): void
  /** The first `buffers` of `source` hold a frame of `length` bytes after its header. */
  chains(source: ReceiveBuffers, buffers: number, length: number, header: NetHeader): void
}
