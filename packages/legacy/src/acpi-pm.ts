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
  /** PM1 status and, 2 above, PM1 enable; 16 bits each. */
  readonly pm1Event: 8
  /** PM1 control; 16 bits. */
  readonly pm1Control: 12
  /** Ports that the device occupies. */
  readonly length: 16
} = { sleepControl: 0, sleepStatus: 1, reset: 2, eventStatus: 4, pm1Event: 8, pm1Control: 12, length: 16 }

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

/** The upper byte of PM1 enable. */
const PM1_ENABLE_HIGH = ACPI_PM_REGISTERS.pm1Event + 3
const PM1_ENABLE_LOW = ACPI_PM_REGISTERS.pm1Event + 2
/** GBL_EN; PWRBTN_EN, SLPBTN_EN and RTC_EN. They read back as written, though the events never come. */
const PM1_ENABLE_LOW_BITS = 0x20
const PM1_ENABLE_HIGH_BITS = 0x07
/** In the lower byte of PM1 control: the machine is in ACPI mode, and has no other. */
const SCI_EN = 0x01
/** The sleep type and enable of PM1 control are in its upper byte, where sleep control has them (section 4.8.3.2.1). */
const PM1_CONTROL_HIGH = ACPI_PM_REGISTERS.pm1Control + 1

/**
 * Power management registers of an ACPI machine, hardware-reduced or not. Hardware-reduced: sleep control and status
 * (ACPI 6.5, section 4.8.3.7), the reset register (section 4.8.3.6), and the event status of the generic event device: a
 * bit an event, set until the guest writes it as 1. Beside them the PM1 registers of an ordinary machine (sections
 * 4.8.3.1 and 4.8.3.2), without events of their own. Wider accesses are several of one byte.
 */
export class AcpiPm implements BusDevice, Stateful {
  readonly name: string
  readonly #interrupt: Interrupt
  readonly #onPowerOff: () => void
  readonly #onReset: () => void
  #sleepControl = 0
  #pm1EnableLow = 0
  #pm1EnableHigh = 0
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
    switch (offset) {
      case ACPI_PM_REGISTERS.sleepControl:
      case PM1_CONTROL_HIGH:
        return this.#sleepControl
      case ACPI_PM_REGISTERS.eventStatus:
        return this.#events
      case PM1_ENABLE_LOW:
        return this.#pm1EnableLow
      case PM1_ENABLE_HIGH:
        return this.#pm1EnableHigh
      case ACPI_PM_REGISTERS.pm1Control:
        return SCI_EN
      default:
        // Sleep status among them: the machine has no sleep from which it could wake (WAK_STS).
        return 0
    }
  }

  #write(offset: number, value: number): void {
    switch (offset) {
      case ACPI_PM_REGISTERS.sleepControl:
      case PM1_CONTROL_HIGH:
        this.#sleep(value)
        break
      case ACPI_PM_REGISTERS.reset:
        if (value === ACPI_RESET_VALUE) this.#onReset()
        break
      case ACPI_PM_REGISTERS.eventStatus:
        this.#events &= ~value
        break
      case PM1_ENABLE_LOW:
        this.#pm1EnableLow = value & PM1_ENABLE_LOW_BITS
        break
      case PM1_ENABLE_HIGH:
        this.#pm1EnableHigh = value & PM1_ENABLE_HIGH_BITS
        break
    }
  }

  #sleep(value: number): void {
    this.#sleepControl = value & SLEEP_CONTROL_READABLE
    const type = (value >> SLEEP_TYPE_SHIFT) & SLEEP_TYPE_MASK
    if ((value & SLEEP_ENABLE) !== 0 && type === ACPI_S5_SLEEP_TYPE) this.#onPowerOff()
  }

  state(): unknown {
    return {
      version: 2,
      sleepControl: this.#sleepControl,
      events: this.#events,
      pm1Enable: (this.#pm1EnableHigh << 8) | this.#pm1EnableLow,
    }
  }

  restore(state: unknown): void {
    const saved = new StateReader("ACPI PM", 2, state)
    const sleepControl = saved.integer("sleepControl", SLEEP_CONTROL_READABLE)
    const events = saved.integer("events", ALL_EVENTS)
    const pm1Enable = saved.integer("pm1Enable", 0xffff)
    this.#sleepControl = sleepControl
    this.#events = events
    this.#pm1EnableLow = pm1Enable & PM1_ENABLE_LOW_BITS
    this.#pm1EnableHigh = (pm1Enable >> 8) & PM1_ENABLE_HIGH_BITS
  }
}
