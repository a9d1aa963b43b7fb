import type { ExternalQueue, ExternalQueues } from "./external.js"
import type { GuestMemory } from "./memory.js"
import type { Queue } from "./queue.js"
import type { Stateful } from "./state.js"

/**
 * A virtio device, written once and run behind any transport (virtio-mmio, virtio-pci, vhost-user).
 *
 * The transport calls it on the VM's thread, never re-entrantly. Order: construction, `activate` at DRIVER_OK, any
 * number of `notify`, `writeConfig` and `resetQueue`, `reset`, `activate` again and so on, at the end `close`. `writeConfig` may come
 * before `activate`. Nothing that a guest does may make a method throw.
 */
export interface VirtioDevice extends Stateful {
  /** For messages and ACPI or sysfs-like listings, such as "blk0". */
  readonly name: string
  /** Virtio device ID (virtio 1.3, section 5). */
  readonly deviceType: number
  /**
   * Device-specific feature bits that it offers, and transport-independent ones that it needs beyond those that the
   * transport and queue layers offer for every device (VERSION_1, RING_INDIRECT_DESC, RING_EVENT_IDX).
   */
  readonly features: bigint
  /** Largest size of each queue; its length is the number of queues. Powers of two, at most 32768. */
  readonly queueMaxSizes: readonly number[]
  /** Device configuration space as the driver reads it, little-endian. */
  readonly config: Uint8Array
  /**
   * Present, and the same for ever, when somebody else works on queues of the device. Then those of `DeviceContext.queues` are
   * not for use, and guest memory has to be one that others can map (`GuestMemoryRegion.file`, but see `ExternalQueues.sameProcess`).
   */
  readonly external?: ExternalQueues
  /**
   * The driver wrote `data` at `offset` of the configuration space; the range is within `config`, whose bytes are not
   * changed by the transport. Absent when no field is writable by the driver. When it returns a promise the driver's write
   * is complete when that settles; it must not reject, and `data` is good only until the call returns.
   */
  writeConfig?(offset: number, data: Uint8Array): void | Promise<void>
  /** The driver set DRIVER_OK. `context` is valid until `reset`. */
  activate(context: DeviceContext): void
  /** The driver made buffers available in that queue, or may have. Spurious calls are allowed. */
  notify(queueIndex: number): void
  /**
   * The driver resets one queue of an active device (2.6.1). Devices that have this are offered VIRTIO_F_RING_RESET. When
   * it returns or resolves no request of that queue is in flight and nothing of it will be touched again; chains in flight
   * are abandoned. `context.queues` is without the queue already, and whoever still holds it pushes and pops in vain. If
   * the driver enables the queue again, another one takes its place there, and a `notify` follows. The same goes for
   * `context.external`, but that the rings there are closed by nobody but the device. Must not reject.
   * Neither `reset` nor another `resetQueue` of that queue comes while it is pending.
   */
  resetQueue?(queueIndex: number): void | Promise<void>
  /**
   * Quiesce: when it resolves no request is in flight, no queue or memory of the context will be touched again, and
   * device state is as after construction. Chains in flight are abandoned, not pushed. Resolves at once when idle.
   */
  reset(): Promise<void>
  /** Releases host resources. Idempotent. No other call follows. Implies `reset`. */
  close(): Promise<void>
}

/** What a device may use between `activate` and `reset`. */
export interface DeviceContext {
  readonly memory: GuestMemory
  /** Negotiated features, transport and ring features included. */
  readonly features: bigint
  /**
   * By queue index; undefined for a queue that the driver did not enable. Look it up whenever it is needed: it changes
   * when a queue is reset (`VirtioDevice.resetQueue`) and enabled again.
   */
  readonly queues: readonly (Queue | undefined)[]
  /**
   * By queue index, those of a device with `VirtioDevice.external`; undefined for a queue that the driver did not enable, or
   * that the device works on itself.
   * Absent for other devices, and where a transport cannot hand over its queues.
   */
  readonly external?: readonly (ExternalQueue | undefined)[]
  /** Applies `update`, which changes the bytes of `VirtioDevice.config`, and tells the driver (configuration interrupt). */
  updateConfig(update: () => void): void
  /** The device is in a state that only a reset heals: sets DEVICE_NEEDS_RESET and tells the driver. */
  needsReset(reason: string): void
  /**
   * Runs `task` in a later turn of the event loop, unless the device was reset by then. For drains that reached their
   * batch limit, so that other devices and VMs of the process get their turn.
   */
  defer(task: () => void): void
}
