/**
 * The device side of one virtqueue, whatever its ring format. Owned by the VM's thread.
 *
 * A device takes chains with `pop`, works on them for as long as it likes (each stays valid until it is pushed), gives
 * them back with `push` in any order, and calls `flush` once per batch: only then does the driver see them and, unless
 * it suppressed that, get an interrupt.
 *
 * Malformed chains never reach the device: the queue gives them back to the driver with a used length of 0 and counts
 * them. When the ring itself cannot be trusted any more the queue is `broken`: `pop` returns undefined, the device
 * status gets DEVICE_NEEDS_RESET.
 */
export interface Queue {
  readonly index: number
  /** Number of descriptors that the driver chose. */
  readonly size: number
  readonly broken: boolean

  /** The next chain that the driver made available, or undefined. Allocates nothing in steady state. */
  pop(): Chain | undefined
  /** Gives a chain back. `written` is the number of bytes written to its writable part (used.len). */
  push(chain: Chain, written: number): void
  /** Takes back the last `pop`: the chain will be popped again. Only for the chain popped last. */
  unpop(chain: Chain): void
  /** Publishes all chains pushed since the last flush and interrupts the driver if it wants that. */
  flush(): void

  /** Asks the driver not to notify, while the device looks by itself. */
  disableNotification(): void
  /** Asks the driver to notify again; true if chains became available meanwhile, so that the device must look again. */
  enableNotification(): boolean
}

/**
 * One descriptor chain: buffers readable by the device first, then writable ones. Objects and arrays are reused once the
 * chain was pushed: keep none of it longer. Entries of length 0 are left out.
 */
export interface Chain {
  /** Descriptor index (split) or buffer id (packed) by which the driver knows the chain. */
  readonly head: number
  /** Number of buffers; those below `readable` are device-readable, the rest device-writable. */
  readonly count: number
  readonly readable: number
  /** Total bytes of either part, at most 2^32 together. */
  readonly readableBytes: number
  readonly writableBytes: number
  /** Guest physical address and bytes of each buffer; only the first `count` are valid. All lie in guest memory. */
  readonly addresses: Float64Array
  readonly lengths: Uint32Array

  /** Copies from the readable part, starting `offset` bytes into it; returns the number of bytes copied. */
  copyOut(offset: number, target: Uint8Array): number
  /** Copies into the writable part, starting `offset` bytes into it; returns the number of bytes copied. */
  copyIn(offset: number, source: Uint8Array): number
}
