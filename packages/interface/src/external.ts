/**
 * Said by a device whose queues somebody else works on, another process (vhost-user) say: `VirtioDevice.external`. The
 * transport then touches no ring. Descriptors are the device's, and stay open until its `close`.
 */
export interface ExternalQueues {
  /**
   * True: other threads of this process do it. Then guest memory has to be in SharedArrayBuffers, as all memory that is mapped
   * is, and need not be memory that other processes can map.
   */
  readonly sameProcess?: boolean
  /**
   * Which of the features of rings (VIRTIO_F_RING_INDIRECT_DESC, RING_EVENT_IDX, RING_PACKED, IN_ORDER) whoever works on them
   * can do; transports offer no other.
   */
  readonly ringFeatures: bigint
  /**
   * By queue, an eventfd for the kernel to signal when the driver makes buffers available, instead of a `notify`. Where it
   * cannot, `notify` is called. It may be signalled before `activate`, and after `reset`: that means nothing. Undefined for a
   * queue that the device works on itself, by `DeviceContext.queues`, as others do.
   */
  readonly kicks: readonly (number | undefined)[]
  /** By queue, what happened on it, where the device knows: for statistics, in the place of the transport's own counts. */
  readonly counters?: readonly (object | undefined)[]
}

/** An enabled queue of such a device: `DeviceContext.external`. Valid until the device's reset, or that of the queue. */
export interface ExternalQueue {
  /** Number of descriptors that the driver chose. */
  readonly size: number
  /** Guest addresses of descriptor table, driver area and device area; all of each lies in guest memory. */
  readonly desc: number
  readonly avail: number
  readonly used: number
  /** Used buffer notification. */
  interrupt(): void
  /**
   * Has the kernel interrupt the driver whenever the eventfd `fd` is signalled, where it can and for as long as it can.
   * `changed(true)`: it does from now on. `changed(false)`: no more, so that the device has to look at `fd` and call
   * `interrupt` itself, as it has to from the start until told otherwise; a signal that came before is still in `fd`.
   * `changed` may be called by `connect` already, and must not throw. For each queue it is called once; when a queue was reset
   * and enabled again, that is another one, whose connection ends the one of before.
   */
  connect(fd: number, changed: (direct: boolean) => void): void
}
