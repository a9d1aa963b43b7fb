import type { AccessSize, BusDevice, Stateful } from "@virtkit/interface"
import { StateReader } from "./state.js"

export interface ResetControlOptions {
  /** The guest asked for a reset. A guest may ask any number of times: the first is what counts. */
  onReset: () => void
  /** What has the other ports: PCI's configuration ports, from 0xcf8 on. */
  shared: BusDevice
}

/** Of the port within the range from 0xcf8 on. */
const REGISTER = 1
const SYSTEM_RESET = 0x02
const RESET_CPU = 0x04
const FULL_RESET = 0x08

/**
 * The reset control register of PC chipsets, port 0xcf9, by which firmware and some kernels reset the machine: when
 * RST_CPU goes from 0 to 1. It lies in the middle of PCI's CONFIG_ADDRESS, which takes 32-bit accesses only, so this one
 * takes 8-bit ones and hands on all others.
 */
export class ResetControl implements BusDevice, Stateful {
  readonly name: string
  readonly #onReset: () => void
  readonly #shared: BusDevice
  #value = 0

  constructor({ onReset, shared }: ResetControlOptions) {
    this.name = shared.name
    this.#onReset = onReset
    this.#shared = shared
  }

  read(offset: number, size: AccessSize): number {
    return offset === REGISTER && size === 1 ? this.#value : this.#shared.read(offset, size)
  }

  write(offset: number, size: AccessSize, value: number): void | Promise<void> {
    if (offset !== REGISTER || size !== 1) return this.#shared.write(offset, size, value)
    const isReset = (value & RESET_CPU) !== 0 && (this.#value & RESET_CPU) === 0
    this.#value = value & (SYSTEM_RESET | RESET_CPU | FULL_RESET)
    if (isReset) this.#onReset()
  }

  /** Without that of the shared device. */
  state(): unknown {
    return { version: 1, value: this.#value }
  }

  restore(state: unknown): void {
    this.#value = new StateReader("reset control", 1, state).integer("value", 0x0e) & 0x0e
  }
}
