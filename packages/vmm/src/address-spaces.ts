import type { Bus } from "@virtkit/bus"
import type { AcceleratedBusDevice, BusDevice } from "@virtkit/interface"
import type { Doorbells } from "./doorbells.js"
import type { RegisterPages } from "./register-page.js"

export type AddressSpace = "memory" | "io"

export interface AddressSpacesOptions {
  readonly ports: Bus
  readonly mmio: Bus
  readonly doorbells: Doorbells
  /** Undefined: every register read exits. */
  readonly pages: RegisterPages | undefined
}

/** A range that a device answers at. */
export interface Mapping {
  /** Idempotent. */
  remove(): void
}

/** The guest's two address spaces: gives ranges to devices, and has the kernel serve what needs no exit. */
export class AddressSpaces {
  readonly #options: AddressSpacesOptions
  /** Ranges that devices answer at, of both spaces; for statistics and tests. */
  mapped = 0

  constructor(options: AddressSpacesOptions) {
    this.#options = options
  }

  /**
   * Lets `device` answer at `[address, address + size)`; undefined when any of that is taken. A device with registers that
   * are read without exits has them in the first page of its range.
   */
  map(
    space: AddressSpace,
    address: number,
    size: number,
    device: BusDevice | AcceleratedBusDevice,
  ): Mapping | undefined {
    const bus = space === "io" ? this.#options.ports : this.#options.mmio
    if (!bus.isFree(address, size)) return undefined
    const claim = bus.claim(address, size, device)
    const undo = isAccelerated(device) ? this.#accelerate(space, address, device) : []
    this.mapped++
    let isMapped = true
    return {
      remove: () => {
        if (!isMapped) return
        isMapped = false
        this.mapped--
        bus.release(claim)
        for (const step of undo) step()
      },
    }
  }

  /** Has a range where no device is read as all ones without exits, if pages may be read so at all. */
  coverAbsent(address: number, size: number): void {
    this.#options.pages?.cover(address, size)
  }

  #accelerate(space: AddressSpace, address: number, device: AcceleratedBusDevice): (() => void)[] {
    const { doorbells, pages } = this.#options
    const undo: (() => void)[] = []
    for (const doorbell of device.doorbells) {
      const remove = doorbells.add(space, address, doorbell)
      if (remove !== undefined) undo.push(remove)
    }
    if (device.setRegisterPage !== undefined && space === "memory" && pages !== undefined) {
      const page = pages.acquire(address)
      device.setRegisterPage(page)
      page.show()
      undo.push(() => {
        device.setRegisterPage?.(undefined)
        pages.release(page)
      })
    }
    return undo
  }
}

function isAccelerated(device: BusDevice | AcceleratedBusDevice): device is AcceleratedBusDevice {
  return "doorbells" in device
}
