import type { AcceleratedBusDevice, AccessSize, Doorbell } from "@virtkit/interface"
import { NOTIFY_MULTIPLIER } from "./constants.js"

/**
 * The notification structure (4.1.4.4): an address for each queue, whatever is written there.
 *
 * The address says all: with or without VIRTIO_F_NOTIFICATION_DATA and VIRTIO_F_NOTIF_CONFIG_DATA, in 16 or in 32 bits, a
 * write is one notification, so that a doorbell of any width serves all of them without an exit.
 */
export class NotifyStructure implements AcceleratedBusDevice {
  readonly name: string
  readonly doorbells: readonly Doorbell[]
  readonly #notify: (queue: number) => void

  /** `kicks`: by queue, an eventfd for the kernel to signal instead of `notify`. */
  constructor(
    name: string,
    queues: number,
    notify: (queue: number) => void,
    kicks: readonly (number | undefined)[] = [],
  ) {
    this.name = `${name} notify`
    this.#notify = notify
    this.doorbells = Array.from({ length: queues }, (_, queue) => {
      const fd = kicks[queue]
      return {
        offset: NOTIFY_MULTIPLIER * queue,
        length: 0,
        ...(fd === undefined ? {} : { fd }),
        ring: () => notify(queue),
      }
    })
  }

  read(_offset: number, _size: AccessSize): number {
    return 0
  }

  write(offset: number, _size: AccessSize, _value: number): void {
    if (offset % NOTIFY_MULTIPLIER === 0) this.#notify(offset / NOTIFY_MULTIPLIER)
  }
}
