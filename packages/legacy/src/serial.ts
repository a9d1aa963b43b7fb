import type { Duplex } from "node:stream"
import {
  type AccessSize,
  type BusDevice,
  ConfigError,
  type Interrupt,
  type Stateful,
} from "@virtkit/interface"
import { readBytes, writeBytes } from "./bytes.js"
import * as uart from "./serial-constants.js"
import { ReceiverFifo } from "./serial-fifo.js"
import { ModemLines } from "./serial-modem.js"
import { SerialStream, TRANSMIT_ROOM } from "./serial-stream.js"
import { StateReader } from "./state.js"

export interface SerialOptions {
  /** The interrupt line (GSI 4 for COM1), edge-triggered as on ISA. */
  interrupt: Interrupt
  /** For messages; "serial0" unless told. */
  name?: string
  /** Bytes of guest output held while the stream's reader is behind, at least 16; 65536 unless told. */
  outputBuffer?: number
}

/** What a serial port has seen since it was made. */
export interface SerialCounters {
  /** Bytes that the guest transmitted. */
  readonly transmitted: number
  /** Bytes that the guest received. */
  readonly received: number
  /** Bytes that the guest transmitted although the transmitter was not empty, and which are lost as on real hardware. */
  readonly overrun: number
}

/**
 * A 16550A UART with 8 ports. The line has no baud rate: a character is on the other side at once.
 *
 * `stream` is the other side: what the guest transmits can be read from it, what is written to it the guest receives.
 * A reader that is behind stops the guest's transmitter (LSR.THRE stays clear) when `outputBuffer` is full, a guest that
 * does not read delays the writer's callbacks. So somebody has to read it; `stream.resume()` reads and discards.
 *
 * The interrupt is not gated by MCR.OUT2, so that simple guests need not know about that wire of the PC.
 */
export class Serial16550 implements BusDevice, Stateful {
  readonly name: string
  readonly #interrupt: Interrupt
  readonly #stream: SerialStream
  readonly #fifo = new ReceiverFifo()
  readonly #modem = new ModemLines()
  #ier = 0
  #lcr = 0
  #scr = 0
  #divisor = 0x000c
  #fifosEnabled = false
  #trigger = 0
  /** LSR bits that stay until it is read. */
  #lineErrors = 0
  /** "Transmitter empty" is due: since it became empty, neither was IIR read for it nor a character written. */
  #transmitterEmptied = false
  /** The conditions that were pending at the last look, as bits of IER. */
  #pending = 0
  #transmitted = 0
  #received = 0
  #overrun = 0
  readonly #readRegister = (offset: number): number => this.#read(offset)
  readonly #writeRegister = (offset: number, value: number): void => this.#write(offset, value)

  constructor(options: SerialOptions) {
    const capacity = options.outputBuffer ?? 65536
    if (!Number.isInteger(capacity) || capacity < TRANSMIT_ROOM || capacity > 2 ** 30) {
      throw new ConfigError(`outputBuffer is ${capacity}, it must be an integer from 16 to 2^30 bytes`)
    }
    this.name = options.name ?? "serial0"
    this.#interrupt = options.interrupt
    this.#stream = new SerialStream({
      capacity,
      onInput: () => this.#update(),
      onRoom: () => {
        this.#transmitterEmptied = true
        this.#update()
      },
    })
  }

  /** The host's end of the line. It lives as long as the port: `close` ends it. */
  get stream(): Duplex {
    return this.#stream
  }

  get counters(): SerialCounters {
    return { transmitted: this.#transmitted, received: this.#received, overrun: this.#overrun }
  }

  /** Sends a break condition to the guest: with `console=ttyS0` the next character is a SysRq key. */
  sendBreak(): void {
    this.#receive(0, uart.LSR_BREAK)
    this.#update()
  }

  /** Ends `stream` after what the guest transmitted so far. The registers go on working. Idempotent. */
  close(): void {
    this.#stream.finish()
  }

  read(offset: number, size: AccessSize): number {
    return size === 1 ? this.#read(offset) : readBytes(this.#readRegister, offset, size)
  }

  write(offset: number, size: AccessSize, value: number): void {
    if (size === 1) this.#write(offset, value & 0xff)
    else writeBytes(this.#writeRegister, offset, size, value)
  }

  #read(offset: number): number {
    const dlab = (this.#lcr & uart.LCR_DLAB) !== 0
    switch (offset) {
      case uart.RBR_THR:
        return dlab ? this.#divisor & 0xff : this.#readReceiver()
      case uart.IER:
        return dlab ? this.#divisor >> 8 : this.#ier
      case uart.IIR_FCR:
        return this.#readIdentification()
      case uart.LCR:
        return this.#lcr
      case uart.MCR:
        return this.#modem.control
      case uart.LSR:
        return this.#readLineStatus()
      case uart.MSR:
        return this.#readModemStatus()
      case uart.SCR:
        return this.#scr
      default:
        return 0
    }
  }

  #write(offset: number, value: number): void {
    const dlab = (this.#lcr & uart.LCR_DLAB) !== 0
    switch (offset) {
      case uart.RBR_THR:
        if (dlab) this.#divisor = (this.#divisor & 0xff00) | value
        else this.#transmit(value)
        break
      case uart.IER:
        if (dlab) this.#divisor = (this.#divisor & 0x00ff) | (value << 8)
        else this.#writeInterruptEnable(value)
        break
      case uart.IIR_FCR:
        this.#writeFifoControl(value)
        break
      case uart.LCR:
        this.#lcr = value
        break
      case uart.MCR:
        this.#modem.writeControl(value)
        this.#update()
        break
      case uart.SCR:
        this.#scr = value
        break
      default: // LSR and MSR cannot be written.
    }
  }

  // The receiver. Host input counts as received when the guest takes it: until then it is still on the wire, so that
  // clearing the FIFO (as Linux does several times while it probes) loses nothing.

  /** Characters that can be read, more than the FIFO holds perhaps. */
  get #receivable(): number {
    return this.#fifo.count + (this.#modem.loopback ? 0 : this.#stream.available)
  }

  #readReceiver(): number {
    let character = 0
    if (this.#fifo.count > 0) {
      character = this.#fifo.shift()
      this.#lineErrors |= this.#fifo.takeErrors()
    } else if (!this.#modem.loopback && this.#stream.available > 0) {
      character = this.#stream.takeByte()
      this.#received++
    }
    this.#update()
    return character
  }

  /** A character that arrives by the loop, or a break. */
  #receive(character: number, errors: number): void {
    if (this.#fifo.count >= (this.#fifosEnabled ? uart.FIFO_SIZE : 1)) {
      this.#lineErrors |= uart.LSR_OVERRUN
      // Without FIFOs the new character replaces the old one, with them it is lost.
      if (this.#fifosEnabled) return
      this.#fifo.clear()
    }
    this.#fifo.push(character, errors)
    if (this.#fifo.count === 1) this.#lineErrors |= this.#fifo.takeErrors()
  }

  // The transmitter.

  get #transmitterEmpty(): boolean {
    return this.#modem.loopback || this.#stream.room >= TRANSMIT_ROOM
  }

  #transmit(character: number): void {
    if (this.#modem.loopback) this.#receive(character, 0)
    else if (this.#stream.putByte(character)) this.#transmitted++
    else this.#overrun++
    this.#transmitterEmptied = this.#transmitterEmpty
    // Without FIFOs every character makes an edge. With them, a batch of 16 makes one: the first of it.
    if (!this.#fifosEnabled) this.#pending &= ~uart.IER_TRANSMITTER_EMPTY
    this.#update()
  }

  // Interrupts.

  #writeInterruptEnable(value: number): void {
    const enabled = value & ~this.#ier
    this.#ier = value & uart.IER_MASK
    // Enabling the interrupt while the transmitter is empty makes it due; drivers start transmission that way.
    if ((enabled & uart.IER_TRANSMITTER_EMPTY) !== 0 && this.#transmitterEmpty)
      this.#transmitterEmptied = true
    this.#update()
  }

  #readIdentification(): number {
    const fifos = this.#fifosEnabled ? uart.IIR_FIFOS_ENABLED : 0
    const pending = this.#pending
    if ((pending & uart.IER_LINE_STATUS) !== 0) return fifos | uart.IIR_LINE_STATUS
    if ((pending & uart.IER_RECEIVED_DATA) !== 0) {
      const reached = !this.#fifosEnabled || this.#receivable >= uart.TRIGGER_LEVELS[this.#trigger]!
      return fifos | (reached ? uart.IIR_RECEIVED_DATA : uart.IIR_CHARACTER_TIMEOUT)
    }
    if ((pending & uart.IER_TRANSMITTER_EMPTY) !== 0) {
      this.#transmitterEmptied = false
      this.#update()
      return fifos | uart.IIR_TRANSMITTER_EMPTY
    }
    return fifos | ((pending & uart.IER_MODEM_STATUS) !== 0 ? uart.IIR_MODEM_STATUS : uart.IIR_NONE)
  }

  /**
   * To be called after every change of a condition. A condition that becomes pending makes an edge even while another
   * one holds the line, so that a driver which serves one condition per interrupt misses none.
   */
  #update(): void {
    let pending = 0
    if (this.#lineErrors !== 0) pending |= uart.IER_LINE_STATUS
    // Below the trigger level the character timeout is due, at once since the line has no speed.
    if (this.#receivable > 0) pending |= uart.IER_RECEIVED_DATA
    if (this.#transmitterEmptied) pending |= uart.IER_TRANSMITTER_EMPTY
    if (this.#modem.deltas !== 0) pending |= uart.IER_MODEM_STATUS
    pending &= this.#ier
    const risen = pending & ~this.#pending
    this.#pending = pending
    if (risen !== 0) this.#interrupt.signal()
  }

  #readModemStatus(): number {
    const status = this.#modem.readStatus()
    this.#update()
    return status
  }

  #writeFifoControl(value: number): void {
    const enabled = (value & uart.FCR_ENABLE) !== 0
    if (enabled !== this.#fifosEnabled || (value & uart.FCR_CLEAR_RECEIVER) !== 0) this.#fifo.clear()
    this.#fifosEnabled = enabled
    this.#trigger = enabled ? value >> 6 : 0
    // FCR.2 clears the transmitter's FIFO, which is always empty: characters are on the other side at once.
    this.#update()
  }

  #readLineStatus(): number {
    let status = this.#lineErrors
    this.#lineErrors = 0
    if (this.#receivable > 0) status |= uart.LSR_DATA_READY
    if (this.#transmitterEmpty) status |= uart.LSR_TRANSMITTER_EMPTY
    if (this.#fifosEnabled && ((status & uart.LSR_BREAK) !== 0 || this.#fifo.hasErrors)) {
      status |= uart.LSR_FIFO_ERROR
    }
    this.#update()
    return status
  }

  /** The registers. What the host wrote and the guest has not taken, and the reverse, belongs to the stream. */
  state(): unknown {
    return {
      version: 1,
      ier: this.#ier,
      lcr: this.#lcr,
      mcr: this.#modem.control,
      scr: this.#scr,
      divisor: this.#divisor,
      fifosEnabled: this.#fifosEnabled,
      trigger: this.#trigger,
      receiver: this.#fifo.save(),
      lineErrors: this.#lineErrors,
      modemDeltas: this.#modem.deltas,
      transmitterEmptied: this.#transmitterEmptied,
    }
  }

  restore(state: unknown): void {
    const saved = new StateReader("serial port", 1, state)
    const fifosEnabled = saved.boolean("fifosEnabled")
    const registers = {
      ier: saved.integer("ier", uart.IER_MASK),
      lcr: saved.integer("lcr"),
      mcr: saved.integer("mcr", uart.MCR_MASK),
      scr: saved.integer("scr"),
      divisor: saved.integer("divisor", 0xffff),
      trigger: saved.integer("trigger", 3),
      lineErrors: saved.integer("lineErrors") & uart.LSR_STICKY,
      modemDeltas: saved.integer("modemDeltas", 0x0f),
      transmitterEmptied: saved.boolean("transmitterEmptied"),
      receiver: saved.bytes("receiver", 0, 2 * (fifosEnabled ? uart.FIFO_SIZE : 1)),
    }
    this.#ier = registers.ier
    this.#lcr = registers.lcr
    this.#modem.control = registers.mcr
    this.#scr = registers.scr
    this.#divisor = registers.divisor
    this.#fifosEnabled = fifosEnabled
    this.#trigger = registers.trigger
    this.#lineErrors = registers.lineErrors
    this.#modem.deltas = registers.modemDeltas
    this.#transmitterEmptied = registers.transmitterEmptied
    this.#fifo.load(registers.receiver)
    // Its edge may have been lost on the way: one too many is harmless.
    this.#pending = 0
    this.#update()
  }
}
