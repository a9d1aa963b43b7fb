import type { VirtioDevice } from "@virtkit/interface"
import type { BlockCounters } from "./counters.js"
import type { BlockLimits } from "./limits.js"
import type { BlockState } from "./state.js"

/**
 * When written data is durable: with "writeback" when the guest flushes it, with "writethrough" when the write completes
 * (unless the driver chooses write-back), with "unsafe" when the host pleases: flushes do nothing. "direct" is "writeback"
 * that goes past the host's page cache.
 */
export type CacheMode = "writeback" | "writethrough" | "unsafe" | "direct"

/** The virtio block device (virtio 1.3, section 5.2). Made by `block`. */
export interface BlockDevice extends VirtioDevice {
  readonly counters: Readonly<BlockCounters>
  /** Bytes. */
  readonly size: number
  readonly readonly: boolean
  /** What carries requests out: "io_uring" or "threads" for files; undefined when the backend does that itself. */
  readonly engine: string | undefined
  /** Requests that the backend has. */
  readonly inFlight: number
  /** Of a disk on threads of its own: how many there are. */
  readonly threads?: number
  writeConfig(offset: number, data: Uint8Array): void | Promise<void>
  resetQueue(queueIndex: number): void | Promise<void>
  /**
   * Changes the size of the disk while the guest runs, and tells the guest: to `size` bytes, a multiple of 512 and no
   * less than now, or, without `size`, to what the file or device has become by other means. Throws ConfigError,
   * SystemError, and StateError once closed.
   */
  resize(size?: number): Promise<void>
  /** Changes the rate limits, or ends them. Throws ConfigError. */
  setLimits(limits: BlockLimits | undefined): void
  /** Of a disk on threads of its own, throws StateError. */
  state(): BlockState
}
