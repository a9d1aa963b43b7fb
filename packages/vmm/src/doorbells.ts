import { type Doorbell, SystemError } from "@virtkit/interface"
import type { IoEventFd, Vm as KvmVm } from "@virtkit/kvm"
import { EventFd, Poller } from "@virtkit/native"

/** A doorbell whose rings become calls. */
interface Registered {
  readonly doorbell: Doorbell
  readonly eventFd: EventFd
  readonly remove: () => void
}

/** Where a doorbell is: a guest physical address or a port. */
export type DoorbellSpace = "memory" | "io"

/** The doorbells of one VM: writes that the kernel turns into eventfd signals, and their delivery on the event loop. */
export class Doorbells {
  readonly #vm: KvmVm
  readonly #onError: (error: Error) => void
  readonly #poller: Poller
  /** By token of the poller. */
  readonly #registered: (Registered | undefined)[] = []

  /** `onError` gets what a doorbell's `ring` throws. */
  constructor(vm: KvmVm, onError: (error: Error) => void) {
    this.#vm = vm
    this.#onError = onError
    this.#poller = new Poller((count) => this.#deliver(count))
    // What keeps the process alive is the VM that runs, not that it could be notified.
    this.#poller.unref()
  }

  /**
   * `address` is where the device's range starts. Undefined when KVM has no room for more (it has for about 1,000 a VM):
   * writes then exit and reach the device as any other. Otherwise returns what takes it away.
   */
  add(space: DoorbellSpace, address: number, doorbell: Doorbell): (() => void) | undefined {
    if (doorbell.fd === undefined) return this.#addRinging(space, address, doorbell)
    try {
      const ioEventFd = this.#register(space, address, doorbell, doorbell.fd)
      return () => ioEventFd.close()
    } catch (error) {
      if (isFull(error)) return undefined
      throw error
    }
  }

  #register(space: DoorbellSpace, address: number, doorbell: Doorbell, fd: number): IoEventFd {
    return this.#vm.ioeventfd({
      fd,
      space: space === "io" ? "pio" : "mmio",
      address: address + doorbell.offset,
      length: doorbell.length,
      ...(doorbell.datamatch === undefined ? {} : { datamatch: doorbell.datamatch }),
    })
  }

  #addRinging(space: DoorbellSpace, address: number, doorbell: Doorbell): (() => void) | undefined {
    const eventFd = new EventFd()
    try {
      const ioEventFd = this.#register(space, address, doorbell, eventFd.fd)
      const token = this.#freeToken()
      this.#poller.add(eventFd.fd, token)
      this.#registered[token] = { doorbell, eventFd, remove: () => ioEventFd.close() }
      return () => {
        const removed = this.#remove(token)
        // A write of before, that nobody has heard of yet, must not be lost. Ringing too often is allowed.
        if (removed !== undefined) this.#ring(removed)
      }
    } catch (error) {
      eventFd.close()
      if (isFull(error)) return undefined
      throw error
    }
  }

  #freeToken(): number {
    const free = this.#registered.indexOf(undefined)
    return free < 0 ? this.#registered.length : free
  }

  #remove(token: number): Doorbell | undefined {
    const entry = this.#registered[token]
    if (entry === undefined) return undefined
    this.#registered[token] = undefined
    this.#poller.remove(entry.eventFd.fd)
    entry.remove()
    entry.eventFd.close()
    return entry.doorbell
  }

  #deliver(count: number): void {
    for (let index = 0; index < count; index++) {
      const entry = this.#registered[this.#poller.tokens[index] ?? -1]
      if (entry !== undefined) this.#ring(entry.doorbell)
    }
  }

  #ring(doorbell: Doorbell): void {
    try {
      doorbell.ring()
    } catch (error) {
      this.#onError(error as Error)
    }
  }

  close(): void {
    for (let token = 0; token < this.#registered.length; token++) this.#remove(token)
    this.#poller.close()
  }
}

function isFull(error: unknown): boolean {
  return error instanceof SystemError && error.code === "ENOSPC"
}
