import type { Interrupt } from "@virtkit/interface"
import type { Vm as KvmVm } from "@virtkit/kvm"
import { EventFd } from "@virtkit/native"

/** The interrupt lines of one VM: an eventfd each, which the kernel turns into an edge on the IOAPIC's pin. */
export class Interrupts {
  readonly #vm: KvmVm
  readonly #lines = new Map<number, { eventFd: EventFd; remove: () => void }>()

  constructor(vm: KvmVm) {
    this.#vm = vm
  }

  /** The interrupt of a GSI; the same one each time. */
  line(gsi: number): Interrupt {
    const existing = this.#lines.get(gsi)
    if (existing !== undefined) return existing.eventFd
    const eventFd = new EventFd()
    try {
      const irqFd = this.#vm.irqfd({ fd: eventFd.fd, gsi })
      this.#lines.set(gsi, { eventFd, remove: () => irqFd.close() })
    } catch (error) {
      eventFd.close()
      throw error
    }
    return eventFd
  }

  close(): void {
    for (const { eventFd, remove } of this.#lines.values()) {
      remove()
      eventFd.close()
    }
    this.#lines.clear()
  }
}
