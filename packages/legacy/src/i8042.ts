import type { AccessSize, BusDevice, Interrupt, Stateful } from "@virtkit/interface"
import { readBytes, writeBytes } from "./bytes.js"
import { StateReader } from "./state.js"

export interface I8042Options {
  /** The guest asked for a reset. A guest may ask any number of times: the first is what counts. */
  onReset: () => void
  /** The keyboard's interrupt line (GSI 1). Without it the controller answers polls only. */
  interrupt?: Interrupt
  /** For messages; "i8042" unless told. */
  name?: string
}

const DATA = 0
const STATUS_COMMAND = 4

const STATUS_OUTPUT_FULL = 0x01
const STATUS_SYSTEM = 0x04
const STATUS_LAST_WAS_COMMAND = 0x08
const STATUS_UNLOCKED = 0x10
const STATUS_AUX_DATA = 0x20
const STATUS_TIMEOUT = 0x40

/** Byte 0 of the controller's memory, the "command byte". */
const CTR_KEYBOARD_INTERRUPT = 0x01
const CTR_SYSTEM = 0x04
const CTR_KEYBOARD_DISABLED = 0x10
const CTR_AUX_DISABLED = 0x20
const CTR_TRANSLATE = 0x40

const READ_MEMORY = 0x20
const WRITE_MEMORY = 0x60
const DISABLE_AUX = 0xa7
const ENABLE_AUX = 0xa8
const TEST_AUX = 0xa9
const SELF_TEST = 0xaa
const TEST_KEYBOARD = 0xab
const DISABLE_KEYBOARD = 0xad
const ENABLE_KEYBOARD = 0xae
const READ_INPUT_PORT = 0xc0
const READ_OUTPUT_PORT = 0xd0
const WRITE_OUTPUT_PORT = 0xd1
const WRITE_KEYBOARD_BUFFER = 0xd2
const WRITE_AUX_BUFFER = 0xd3
const WRITE_AUX = 0xd4
const DISABLE_A20 = 0xdd
const ENABLE_A20 = 0xdf
const PULSE_OUTPUT_PORT = 0xf0

/** Output port: bit 0 low resets the processor, bit 1 is A20. */
const OUTPUT_NOT_RESET = 0x01
const OUTPUT_A20 = 0x02

const SELF_TEST_PASSED = 0x55
const TEST_PASSED = 0x00
const TEST_CLOCK_STUCK_LOW = 0x01
/** What the controller makes up when a device does not answer; the status then has the timeout bit. */
const NO_ANSWER = 0xfe

/**
 * The PC's keyboard controller, without a keyboard or a mouse: it exists for its reset line.
 *
 * It occupies 5 ports from 0x60, of which it uses 0x60 (data) and 0x64 (status and command); the others (0x61 belongs to
 * the timer) read as all ones. A driver that probes it finds a controller that passes its test, no second port, and a
 * first port on which every command times out at once.
 *
 * A20 is remembered, and does nothing: the address line is always on.
 */
export class I8042 implements BusDevice, Stateful {
  readonly name: string
  readonly #onReset: () => void
  readonly #interrupt: Interrupt | undefined
  readonly #memory = new Uint8Array(32)
  #status = STATUS_UNLOCKED
  #output = 0
  #outputPort = OUTPUT_NOT_RESET | OUTPUT_A20
  /** The command whose data byte is to come, or 0. */
  #command = 0
  readonly #readPort = (offset: number): number => this.#read(offset)
  readonly #writePort = (offset: number, value: number): void => this.#write(offset, value)

  constructor(options: I8042Options) {
    this.name = options.name ?? "i8042"
    this.#onReset = options.onReset
    this.#interrupt = options.interrupt
    this.#memory[0] = CTR_KEYBOARD_DISABLED | CTR_AUX_DISABLED | CTR_TRANSLATE
  }

  read(offset: number, size: AccessSize): number {
    return readBytes(this.#readPort, offset, size)
  }

  write(offset: number, size: AccessSize, value: number): void {
    writeBytes(this.#writePort, offset, size, value)
  }

  #read(offset: number): number {
    if (offset === STATUS_COMMAND) return this.#status
    if (offset !== DATA) return 0xff
    this.#status &= ~(STATUS_OUTPUT_FULL | STATUS_AUX_DATA | STATUS_TIMEOUT)
    return this.#output
  }

  #write(offset: number, value: number): void {
    if (offset === STATUS_COMMAND) {
      this.#status |= STATUS_LAST_WAS_COMMAND
      this.#command = 0
      this.#writeCommand(value)
    } else if (offset === DATA) {
      this.#status &= ~STATUS_LAST_WAS_COMMAND
      const command = this.#command
      this.#command = 0
      this.#writeData(command, value)
    }
  }

  #writeCommand(command: number): void {
    if (command >= PULSE_OUTPUT_PORT) {
      // The low 4 bits name the output port's lines that are not pulsed.
      if ((command & OUTPUT_NOT_RESET) === 0) this.#onReset()
      return
    }
    if (command >= READ_MEMORY && command < READ_MEMORY + 32) {
      this.#answer(this.#memory[command - READ_MEMORY]!)
      return
    }
    if (command >= WRITE_MEMORY && command < WRITE_MEMORY + 32) {
      this.#command = command
      return
    }
    switch (command) {
      case DISABLE_AUX:
        this.#memory[0]! |= CTR_AUX_DISABLED
        break
      case ENABLE_AUX:
        this.#memory[0]! &= ~CTR_AUX_DISABLED
        break
      case TEST_AUX:
        this.#answer(TEST_CLOCK_STUCK_LOW)
        break
      case SELF_TEST:
        this.#memory[0]! |= CTR_SYSTEM
        this.#status |= STATUS_SYSTEM
        this.#answer(SELF_TEST_PASSED)
        break
      case TEST_KEYBOARD:
        this.#answer(TEST_PASSED)
        break
      case DISABLE_KEYBOARD:
        this.#memory[0]! |= CTR_KEYBOARD_DISABLED
        break
      case ENABLE_KEYBOARD:
        this.#memory[0]! &= ~CTR_KEYBOARD_DISABLED
        break
      case READ_INPUT_PORT:
        this.#answer(0x80) // keyboard not locked
        break
      case READ_OUTPUT_PORT:
        this.#answer(this.#outputPort)
        break
      case DISABLE_A20:
        this.#outputPort &= ~OUTPUT_A20
        break
      case ENABLE_A20:
        this.#outputPort |= OUTPUT_A20
        break
      case WRITE_OUTPUT_PORT:
      case WRITE_KEYBOARD_BUFFER:
      case WRITE_AUX_BUFFER:
      case WRITE_AUX:
        this.#command = command
        break
      default: // Commands that do not exist do nothing.
    }
  }

  #writeData(command: number, value: number): void {
    switch (command) {
      case WRITE_OUTPUT_PORT:
        this.#outputPort = value | OUTPUT_NOT_RESET
        if ((value & OUTPUT_NOT_RESET) === 0) this.#onReset()
        break
      case WRITE_KEYBOARD_BUFFER:
        this.#answer(value)
        break
      case WRITE_AUX_BUFFER:
        // Not marked as auxiliary data: that is how a controller without a second port answers.
        this.#answer(value)
        break
      case WRITE_AUX:
        this.#answer(NO_ANSWER, STATUS_AUX_DATA | STATUS_TIMEOUT)
        break
      case 0:
        // For the keyboard, which is not there.
        this.#answer(NO_ANSWER, STATUS_TIMEOUT)
        break
      default:
        this.#memory[command - WRITE_MEMORY] = value
        if (command === WRITE_MEMORY) {
          this.#status = (this.#status & ~STATUS_SYSTEM) | (value & CTR_SYSTEM)
        }
    }
  }

  /** Puts a byte into the output buffer, over one that was not read. */
  #answer(value: number, flags = 0): void {
    this.#output = value
    this.#status = (this.#status & ~(STATUS_AUX_DATA | STATUS_TIMEOUT)) | STATUS_OUTPUT_FULL | flags
    if ((flags & STATUS_AUX_DATA) === 0 && (this.#memory[0]! & CTR_KEYBOARD_INTERRUPT) !== 0) {
      this.#interrupt?.signal()
    }
  }

  state(): unknown {
    return {
      version: 1,
      memory: Uint8Array.from(this.#memory),
      status: this.#status,
      output: this.#output,
      outputPort: this.#outputPort,
      command: this.#command,
    }
  }

  restore(state: unknown): void {
    const saved = new StateReader("i8042", 1, state)
    const memory = saved.bytes("memory", 32)
    const status = saved.integer("status")
    const output = saved.integer("output")
    const outputPort = saved.integer("outputPort")
    const command = saved.integer("command")
    this.#memory.set(memory)
    this.#status = status
    this.#output = output
    this.#outputPort = outputPort
    this.#command = command
  }
}
