import type { AccessSize, BusDevice, Interrupt, Stateful } from "@virtkit/interface"
import { readBytes, writeBytes } from "./bytes.js"
import { StateReader } from "./state.js"

export interface AcpiPmOptions {
  /** Interrupt of the generic event device (GSI 9), whose handler reads the event status. */
  interrupt: Interrupt
  /** The guest entered S5. It may do so any number of times: the first is what counts. */
  onPowerOff: () => void
  /** The guest wrote the reset register; any number of times, likewise. */
  onReset: () => void
  /** For messages; "acpi-pm" unless told. */
  name?: string
}

/** Offsets of {@link AcpiPm}'s registers, for the FADT and the DSDT. */
export const ACPI_PM_REGISTERS: {
  readonly sleepControl: 0
  readonly sleepStatus: 1
  readonly reset: 2
  readonly eventStatus: 4
  /** Ports that the device occupies. */
  readonly length: 16
} = { sleepControl: 0, sleepStatus: 1, reset: 2, eventStatus: 4, length: 16 }

/** The FADT's RESET_VALUE. */
export const ACPI_RESET_VALUE = 1
/** SLP_TYP of S5, for the DSDT's \_S5 package. */
export const ACPI_S5_SLEEP_TYPE = 5
/** The event status bit of the power button. */
export const ACPI_EVENT_POWER_BUTTON = 0x01
/** The event status bit of the PCI hot-plug controller, whose own registers have the details. */
export const ACPI_EVENT_PCI_HOT_PLUG = 0x02
const ALL_EVENTS = 0xff

const SLEEP_ENABLE = 0x20
const SLEEP_TYPE_SHIFT = 2
const SLEEP_TYPE_MASK = 0x07
/** All of the sleep control register that reads back: SLP_EN is write-only (ACPI 6.5, section 4.8.3.7). */
const SLEEP_CONTROL_READABLE = SLEEP_TYPE_MASK << SLEEP_TYPE_SHIFT

/**
 * Power management registers of a hardware-reduced ACPI machine: sleep control and status (ACPI 6.5, section 4.8.3.7),
 * the reset register (section 4.8.3.6), and the event status of the generic event device: a bit an event, set until the
 * guest writes it as 1. All registers are one byte wide; wider accesses are several of them.
 */
export class AcpiPm implements BusDevice, Stateful {
  readonly name: string
  readonly #interrupt: Interrupt
  readonly #onPowerOff: () => void
  readonly #onReset: () => void
  #sleepControl = 0
  #events = 0
  readonly #readRegister = (offset: number): number => this.#read(offset)
  readonly #writeRegister = (offset: number, value: number): void => this.#write(offset, value)

  constructor(options: AcpiPmOptions) {
    this.name = options.name ?? "acpi-pm"
    this.#interrupt = options.interrupt
    this.#onPowerOff = options.onPowerOff
    this.#onReset = options.onReset
  }

  /** Asks the guest to shut down. What it makes of that, and when, is its own decision. */
  pressPowerButton(): void {
    this.raiseEvent(ACPI_EVENT_POWER_BUTTON)
  }

  /** Sets bits of the event status (0x01 to 0x80) and tells the guest; what they mean is in the DSDT. */
  raiseEvent(bits: number): void {
    this.#events |= bits & ALL_EVENTS
    this.#interrupt.signal()
  }

  read(offset: number, size: AccessSize): number {
    return readBytes(this.#readRegister, offset, size)
  }

  write(offset: number, size: AccessSize, value: number): void {
    writeBytes(this.#writeRegister, offset, size, value)
  }

  #read(offset: number): number {
    if (offset === ACPI_PM_REGISTERS.sleepControl) return this.#sleepControl
    if (offset === ACPI_PM_REGISTERS.eventStatus) return this.#events
    // Sleep status among them: the machine has no sleep from which it could wake (WAK_STS).
    return 0
  }

  #write(offset: number, value: number): void {
    if (offset === ACPI_PM_REGISTERS.sleepControl) {
      this.#sleepControl = value & SLEEP_CONTROL_READABLE
      const type = (value >> SLEEP_TYPE_SHIFT) & SLEEP_TYPE_MASK
      if ((value & SLEEP_ENABLE) !== 0 && type === ACPI_S5_SLEEP_TYPE) this.#onPowerOff()
    } else if (offset === ACPI_PM_REGISTERS.reset) {
      if (value === ACPI_RESET_VALUE) this.#onReset()
    } else if (offset === ACPI_PM_REGISTERS.eventStatus) {
      this.#events &= ~value
    }
  }

  state(): unknown {
    return { version: 1, sleepControl: this.#sleepControl, events: this.#events }
  }

  restore(state: unknown): void {
    const saved = new StateReader("ACPI PM", 1, state)
    const sleepControl = saved.integer("sleepControl", SLEEP_CONTROL_READABLE)
    const events = saved.integer("events", ALL_EVENTS)
    this.#sleepControl = sleepControl
    this.#events = events
  }
}
