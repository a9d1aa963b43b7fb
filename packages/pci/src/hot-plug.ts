import {
  type AccessSize,
  type BusDevice,
  ConfigError,
  type Interrupt,
  RestoreError,
  type Stateful,
} from "@virtkit/interface"
import type { RootPort } from "./root-port.js"

/** Registers, each 32 bits with a bit a slot. */
const INSERTED = 0
const REMOVAL_REQUESTED = 4
const EJECT = 8

export interface PciHotPlugOptions {
  /** Tells the guest's ACPI code to look at the registers. */
  readonly interrupt: Interrupt
  /** Slot n is the n-th; at most 32. */
  readonly ports: readonly RootPort[]
  /**
   * The guest has stopped using what is in the slot and lets it go. Called only for ports that have a function. The vCPU
   * that wrote stays stopped until a promise settles; it must not reject.
   */
  readonly onEject: (port: RootPort) => void | Promise<void>
}

/** Saved state. */
export interface PciHotPlugState {
  readonly version: 1
  readonly inserted: number
  readonly removalRequested: number
}

/**
 * Hot plug by ACPI: 12 I/O ports through which the DSDT's methods learn what came and what is to go, and say what may.
 *
 * | offset | register | |
 * |---|---|---|
 * | 0 | inserted | a function was put into the slot; writing 1 clears the bit |
 * | 4 | removal requested | the guest is asked to let the function go; writing 1 clears the bit |
 * | 8 | eject | writing 1 lets it go; reads 0 |
 *
 * Writes are 32 bits wide, others are lost. The interrupt is an edge for each bit that becomes 1.
 */
export class PciHotPlug implements BusDevice, Stateful {
  readonly name = "PCI hot plug"
  readonly #options: PciHotPlugOptions
  #inserted = 0
  #removalRequested = 0

  constructor(options: PciHotPlugOptions) {
    if (options.ports.length > 32) {
      throw new ConfigError(`hot plug of ${options.ports.length} slots: 32 at most`)
    }
    this.#options = options
  }

  /** Tells the guest that there is a function in slot `slot` now. */
  inserted(slot: number): void {
    const bit = this.#bit(slot)
    const isNew = (this.#inserted & bit) === 0
    this.#inserted = (this.#inserted | bit) >>> 0
    if (isNew) this.#options.interrupt.signal()
  }

  /** Asks the guest to let go of what is in slot `slot`; it answers by `onEject`, when it likes. */
  requestRemoval(slot: number): void {
    const bit = this.#bit(slot)
    const isNew = (this.#removalRequested & bit) === 0
    this.#removalRequested = (this.#removalRequested | bit) >>> 0
    if (isNew) this.#options.interrupt.signal()
  }

  read(offset: number, size: AccessSize): number {
    let value = 0
    for (let byte = 0; byte < size; byte++) {
      const at = offset + byte
      const register = at < REMOVAL_REQUESTED ? this.#inserted : at < EJECT ? this.#removalRequested : 0
      value |= ((register >>> (8 * (at & 3))) & 0xff) << (8 * byte)
    }
    return value >>> 0
  }

  write(offset: number, size: AccessSize, value: number): void | Promise<void> {
    if (size !== 4) return undefined
    if (offset === INSERTED) this.#inserted = (this.#inserted & ~value) >>> 0
    if (offset === REMOVAL_REQUESTED) this.#removalRequested = (this.#removalRequested & ~value) >>> 0
    return offset === EJECT ? this.#eject(value) : undefined
  }

  state(): PciHotPlugState {
    return { version: 1, inserted: this.#inserted, removalRequested: this.#removalRequested }
  }

  restore(state: unknown): void {
    const { version, inserted, removalRequested } = (state ?? {}) as Partial<PciHotPlugState>
    if (version !== 1 || !this.#isSlots(inserted) || !this.#isSlots(removalRequested)) {
      throw new RestoreError("not a version 1 state of PCI hot plug with these slots")
    }
    this.#inserted = inserted
    this.#removalRequested = removalRequested
  }

  #eject(slots: number): void | Promise<void> {
    const pending: Promise<void>[] = []
    for (const [slot, port] of this.#options.ports.entries()) {
      if (((slots >>> slot) & 1) === 0 || port.function === undefined) continue
      const result = this.#options.onEject(port)
      if (result !== undefined) pending.push(result)
    }
    return pending.length === 0 ? undefined : Promise.all(pending).then(() => undefined)
  }

  #bit(slot: number): number {
    if (this.#options.ports[slot] === undefined) throw new ConfigError(`there is no PCI slot ${slot}`)
    return 1 << slot
  }

  #isSlots(bits: unknown): bits is number {
    const limit = 2 ** this.#options.ports.length
    return typeof bits === "number" && Number.isInteger(bits) && bits >= 0 && bits < limit
  }
}
