import type { AcceleratedBusDevice, AccessSize, BusDevice, RegisterPage } from "@virtkit/interface"
import type { ConfigSpace } from "./config-space.js"
import { PCI_CFG_SPACE_EXP_SIZE } from "./constants.js"
import type { PciHost } from "./host.js"
import { Placement } from "./placement.js"

/**
 * A function's 4096 bytes of the ECAM (PCI Express 5.0, 7.2.2). The guest reads them without an exit, but while reads are
 * live.
 */
export class ConfigPage implements AcceleratedBusDevice {
  readonly name: string
  readonly doorbells: readonly [] = []
  readonly placement: Placement
  readonly #space: ConfigSpace
  /** The same without a register page. */
  readonly #plain: BusDevice
  #page: RegisterPage | undefined
  #live = false

  constructor(name: string, host: PciHost, space: ConfigSpace, write: BusDevice["write"]) {
    this.name = `${name} configuration`
    this.#space = space
    this.write = write
    this.#plain = { name: this.name, read: this.read.bind(this), write }
    this.placement = new Placement(host, "memory", () => [
      { offset: 0, size: PCI_CFG_SPACE_EXP_SIZE, device: this.#live ? this.#plain : this },
    ])
  }

  readonly write: BusDevice["write"]

  read(offset: number, size: AccessSize): number {
    return this.#space.read(offset, size)
  }

  setRegisterPage(page: RegisterPage | undefined): void {
    this.#page = page
    this.#space.attach(page?.view)
  }

  /** While `live`, reads exit. */
  setLive(live: boolean): void {
    if (live === this.#live) return
    this.#live = live
    if (live) this.#page?.hide()
    else if (this.#page !== undefined) this.#page.show()
    else this.#remap()
  }

  /** It was placed while reads were live, hence without a page. */
  #remap(): void {
    const { address } = this.placement
    this.placement.leaveUnless(undefined)
    this.placement.settle(address)
  }
}
