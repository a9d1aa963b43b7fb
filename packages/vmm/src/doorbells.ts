import type { Doorbell } from "@virtkit/interface"
import type { Vm as KvmVm } from "@virtkit/kvm"
import { EventFd, Poller } from "@virtkit/native"

interface Registered {
  readonly doorbell: Doorbell
  readonly eventFd: EventFd
  readonly remove: () => void
}

/** The doorbells of one VM: writes that the kernel turns into eventfd signals, and their delivery on the event loop. */
export class Doorbells {
  readonly #vm: KvmVm
  readonly #onError: (error: Error) => void
  readonly #poller: Poller
  readonly #registered: Registered[] = []

  /** `onError` gets what a doorbell's `ring` throws. */
  constructor(vm: KvmVm, onError: (error: Error) => void) {
    this.#vm = vm
    this.#onError = onError
    this.#poller = new Poller((count) => this.#deliver(count))
    // What keeps the process alive is the VM that runs, not that it could be notified.
    this.#poller.unref()
  }

  /** `address` is the guest physical address of the device's range. */
  add(address: number, doorbell: Doorbell): void {
    const eventFd = new EventFd()
    try {
      const ioEventFd = this.#vm.ioeventfd({
        fd: eventFd.fd,
        space: "mmio",
        address: address + doorbell.offset,
        length: doorbell.length,
        ...(doorbell.datamatch === undefined ? {} : { datamatch: doorbell.datamatch }),
      })
      this.#poller.add(eventFd.fd, this.#registered.length)
      this.#registered.push({ doorbell, eventFd, remove: () => ioEventFd.close() })
    } catch (error) {
      eventFd.close()
      throw error
    }
  }

  #deliver(count: number): void {
    for (let index = 0; index < count; index++) {
      const entry = this.#registered[this.#poller.tokens[index] ?? -1]
      try {
        entry?.doorbell.ring()
      } catch (error) {
        this.#onError(error as Error)
      }
    }
  }

  close(): void {
    for (const { eventFd, remove } of this.#registered.splice(0)) {
      this.#poller.remove(eventFd.fd)
      remove()
      eventFd.close()
    }
    this.#poller.close()
  }
}
