import { type Interrupt, SystemError } from "@virtkit/interface"
import type { Vm as KvmVm } from "@virtkit/kvm"
import { EventFd } from "@virtkit/native"
import { GsiRouting } from "./gsi-routing.js"

/** An interrupt with an eventfd, which the kernel turns into a pin's edge or a message. */
interface Wire {
  readonly eventFd: EventFd
  readonly close: () => void
}

/** A message-signalled interrupt: routed nowhere until it is told. */
export interface MessageInterrupt extends Interrupt {
  /** Address and data of the message that a signal sends. */
  route(address: number, data: number): void
  /** Sends it whenever that eventfd is signalled, too. Returns what ends that; undefined when KVM refuses. */
  connectFd(fd: number): (() => void) | undefined
  /** Idempotent. */
  close(): void
}

/** The interrupts of one VM: edges on pins of the IOAPIC, shared levels, and messages. */
export class Interrupts {
  readonly #vm: KvmVm
  readonly #routing: GsiRouting
  readonly #lines = new Map<number, Wire>()
  readonly #messages = new Set<Wire>()

  constructor(vm: KvmVm) {
    this.#vm = vm
    this.#routing = new GsiRouting(vm)
  }

  /** The edge-triggered interrupt of a GSI; the same one each time. */
  line(gsi: number): Interrupt {
    const existing = this.#lines.get(gsi)
    if (existing !== undefined) return existing.eventFd
    const wire = this.#wire(gsi)
    this.#lines.set(gsi, wire)
    return wire.eventFd
  }

  /** Level of a pin that nothing else drives. */
  setLevel(gsi: number, asserted: boolean): void {
    this.#vm.setIrqLine(gsi, asserted ? 1 : 0)
  }

  /** Throws `ConfigError` when there are no more, `SystemError` when there are no more descriptors. */
  message(): MessageInterrupt {
    const gsi = this.#routing.allocate()
    let wire: Wire
    try {
      wire = this.#wire(gsi)
    } catch (error) {
      this.#routing.free(gsi)
      throw error
    }
    this.#messages.add(wire)
    return {
      signal: () => wire.eventFd.signal(),
      route: (address, data) => this.#routing.route(gsi, address, data),
      connectFd: (fd) => this.#connect(fd, gsi),
      close: () => {
        if (!this.#messages.delete(wire)) return
        wire.close()
        this.#routing.free(gsi)
      },
    }
  }

  /** Messages that `change` routes and closes take effect together, when it has returned. */
  routeTogether(change: () => void): void {
    this.#routing.together(change)
  }

  /** Messages that exist; for statistics and tests. */
  get messages(): number {
    return this.#messages.size
  }

  #connect(fd: number, gsi: number): (() => void) | undefined {
    try {
      const irqFd = this.#vm.irqfd({ fd, gsi })
      return () => irqFd.close()
    } catch (error) {
      // Whoever has the descriptor can still look at it.
      if (error instanceof SystemError) return undefined
      throw error
    }
  }

  #wire(gsi: number): Wire {
    const eventFd = new EventFd()
    try {
      const irqFd = this.#vm.irqfd({ fd: eventFd.fd, gsi })
      return {
        eventFd,
        close: () => {
          irqFd.close()
          eventFd.close()
        },
      }
    } catch (error) {
      eventFd.close()
      throw error
    }
  }

  close(): void {
    for (const wire of [...this.#lines.values(), ...this.#messages]) wire.close()
    this.#lines.clear()
    this.#messages.clear()
  }
}
