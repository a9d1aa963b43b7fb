import type { AccessSize, BusDevice, Interrupt, Stateful } from "@virtkit/interface"
import { readBytes, writeBytes } from "./bytes.js"
import { B_24_HOURS, isTimeRegister, loadTime, nextAlarm, storeTime } from "./rtc-time.js"
import { StateReader } from "./state.js"

export interface CmosRtcOptions {
  /** Interrupt of the alarm, the update and the periodic timer (GSI 8). Without it they only show in register C. */
  interrupt?: Interrupt
  /** The time in ms since 1970, UTC; `Date.now` unless told. */
  clock?: () => number
  /**
   * What the memory holds at first, by register from 0x0e to 0x7f, in the place of zeros: what a BIOS finds there about
   * the machine. The century (0x32) is the clock's.
   */
  memory?: ReadonlyMap<number, number>
  /** For messages; "rtc" unless told. */
  name?: string
}

const INDEX = 0
const DATA = 1

const REGISTER_A = 0x0a
const REGISTER_B = 0x0b
const REGISTER_C = 0x0c
const REGISTER_D = 0x0d

const A_UPDATE_IN_PROGRESS = 0x80
/** Divider bits that hold the clock. */
const A_DIVIDER_RESET = 0x60
const A_RATE = 0x0f
const B_SET = 0x80
const C_INTERRUPT = 0x80
/** The flags of register C are at the places of their enable bits in register B. */
const PERIODIC = 0x40
const ALARM = 0x20
const UPDATE = 0x10
const D_VALID = 0x80

const MAX_TIMEOUT_MS = 2 ** 31 - 1
/** More than the registers can express (255 centuries and 255 years, in binary); within what Date can. */
const MAX_OFFSET_MS = 2 ** 50

/**
 * The PC's real-time clock (MC146818) with its 128 bytes of CMOS memory, on 2 ports.
 *
 * The time is the host's, in UTC. A guest that sets it changes an offset of its own. Bit 7 of the index port, which masks
 * NMIs on a PC, is ignored. The memory is all zero at first, the bytes in which a BIOS finds the memory size included,
 * unless `memory` says otherwise.
 *
 * Alarm, update and periodic interrupts are made from one timer, which exists while one of them is enabled and does not
 * keep the process alive. Periodic interrupts come at most 1000 times per second.
 */
export class CmosRtc implements BusDevice, Stateful {
  readonly name: string
  readonly #interrupt: Interrupt | undefined
  readonly #clock: () => number
  readonly #memory = new Uint8Array(128)
  #index = 0
  /** Guest time minus host time, ms. */
  #offset = 0
  /** While the clock is held, the guest wrote a part of the time. */
  #timeWritten = false
  /** Flags of register C without C_INTERRUPT. */
  #flags = 0
  #asserted = false
  /** The guest time up to which `#flags` are complete: in s, and for the periodic one in ms. */
  #seenSecond = 0
  #seenPeriod = 0
  #timer: NodeJS.Timeout | undefined
  #closed = false
  readonly #readPort = (offset: number): number => this.#read(offset)
  readonly #writePort = (offset: number, value: number): void => this.#write(offset, value)

  constructor(options: CmosRtcOptions = {}) {
    this.name = options.name ?? "rtc"
    this.#interrupt = options.interrupt
    this.#clock = options.clock ?? Date.now
    for (const [register, value] of options.memory ?? []) {
      if (register > REGISTER_D) this.#memory[register] = value
    }
    this.#memory[REGISTER_A] = 0x26 // 32768 Hz time base, periodic rate 1024 Hz
    this.#memory[REGISTER_B] = B_24_HOURS
    this.#forgetPast()
  }

  /** Stops the timer: no interrupt comes any more. Idempotent. */
  close(): void {
    this.#closed = true
    this.#schedule()
  }

  read(offset: number, size: AccessSize): number {
    return readBytes(this.#readPort, offset, size)
  }

  write(offset: number, size: AccessSize, value: number): void {
    writeBytes(this.#writePort, offset, size, value)
  }

  #read(offset: number): number {
    // The index port is write-only on a PC.
    if (offset !== DATA) return 0xff
    const index = this.#index
    if (index === REGISTER_A) return this.#memory[REGISTER_A]! | (this.#updating ? A_UPDATE_IN_PROGRESS : 0)
    if (index === REGISTER_C) return this.#readFlags()
    if (index === REGISTER_D) return D_VALID
    if (isTimeRegister(index) && !this.#held) storeTime(this.#memory, this.#now, this.#memory[REGISTER_B]!)
    return this.#memory[index]!
  }

  #write(offset: number, value: number): void {
    if (offset === INDEX) {
      this.#index = value & 0x7f
      return
    }
    const index = this.#index
    if (offset !== DATA || index === REGISTER_C || index === REGISTER_D) return
    this.#collect()
    if (index === REGISTER_A || index === REGISTER_B) this.#writeControl(index, value)
    else if (isTimeRegister(index)) this.#writeTime(index, value)
    else this.#memory[index] = value
    this.#settle()
  }

  // The time.

  get #now(): number {
    return this.#clock() + this.#offset
  }

  /** The guest has stopped the clock to set it. */
  get #held(): boolean {
    return (
      (this.#memory[REGISTER_B]! & B_SET) !== 0 ||
      (this.#memory[REGISTER_A]! & A_DIVIDER_RESET) === A_DIVIDER_RESET
    )
  }

  /** True shortly before a second ends, so that a guest which sees false has 1 ms to read a consistent time. */
  get #updating(): boolean {
    return !this.#held && ((this.#now % 1000) + 1000) % 1000 >= 999
  }

  #writeTime(index: number, value: number): void {
    const b = this.#memory[REGISTER_B]!
    if (this.#held) {
      this.#memory[index] = value
      this.#timeWritten = true
      return
    }
    const now = this.#now
    storeTime(this.#memory, now, b)
    this.#memory[index] = value
    // The part of the second stays.
    this.#setTime(loadTime(this.#memory, b) + (((now % 1000) + 1000) % 1000))
  }

  #writeControl(index: number, value: number): void {
    const wasHeld = this.#held
    // In the format that is valid up to now: a guest that holds the clock reads what it showed.
    if (!wasHeld) storeTime(this.#memory, this.#now, this.#memory[REGISTER_B]!)
    this.#memory[index] = index === REGISTER_A ? value & ~A_UPDATE_IN_PROGRESS : value
    const held = this.#held
    if (held === wasHeld) return
    if (held) this.#timeWritten = false
    else if (this.#timeWritten) this.#setTime(loadTime(this.#memory, this.#memory[REGISTER_B]!))
    else this.#forgetPast()
  }

  #setTime(ms: number): void {
    this.#offset = ms - this.#clock()
    this.#forgetPast()
  }

  // Flags and interrupts.

  /** From now on only what happens later sets flags. */
  #forgetPast(): void {
    this.#seenPeriod = this.#now
    this.#seenSecond = Math.floor(this.#seenPeriod / 1000)
  }

  /** Period in ms, or 0 for none. */
  get #period(): number {
    const rate = this.#memory[REGISTER_A]! & A_RATE
    if (rate === 0) return 0
    return 1000 / (rate <= 2 ? 512 >> rate : 65536 >> rate)
  }

  /** Sets the flags of what happened since the last time. */
  #collect(): void {
    const now = this.#now
    const second = Math.floor(now / 1000)
    // The host's clock was set back: nothing happened.
    if (this.#held || second < this.#seenSecond) {
      this.#forgetPast()
      return
    }
    if (second > this.#seenSecond) {
      this.#flags |= UPDATE
      const alarm = nextAlarm(this.#memory, this.#seenSecond, this.#memory[REGISTER_B]!)
      if (alarm !== undefined && alarm <= second) this.#flags |= ALARM
      this.#seenSecond = second
    }
    const period = this.#period
    if (period > 0 && now - this.#seenPeriod >= period) {
      this.#flags |= PERIODIC
      this.#seenPeriod = now - ((now - this.#seenPeriod) % period)
    }
  }

  #readFlags(): number {
    this.#collect()
    this.#settle()
    const value = this.#flags | (this.#asserted ? C_INTERRUPT : 0)
    this.#flags = 0
    this.#settle()
    return value
  }

  /** Brings the interrupt line and the timer in line with the flags and register B. */
  #settle(): void {
    const asserted = (this.#flags & this.#memory[REGISTER_B]! & (PERIODIC | ALARM | UPDATE)) !== 0
    if (asserted && !this.#asserted) this.#interrupt?.signal()
    this.#asserted = asserted
    this.#schedule()
  }

  #schedule(): void {
    if (this.#timer !== undefined) clearTimeout(this.#timer)
    this.#timer = undefined
    // While the line is asserted nothing can make an edge: so a guest that does not read C costs nothing.
    if (this.#closed || this.#interrupt === undefined || this.#asserted || this.#held) return
    const due = this.#nextEvent()
    if (due === undefined) return
    const delay = Math.min(MAX_TIMEOUT_MS, Math.max(1, Math.ceil(due - this.#now)))
    this.#timer = setTimeout(() => {
      this.#timer = undefined
      this.#collect()
      this.#settle()
    }, delay)
    this.#timer.unref()
  }

  /** Guest time in ms of the next enabled event. */
  #nextEvent(): number | undefined {
    const b = this.#memory[REGISTER_B]!
    let due = Number.POSITIVE_INFINITY
    if ((b & UPDATE) !== 0) due = (this.#seenSecond + 1) * 1000
    if ((b & ALARM) !== 0) {
      const alarm = nextAlarm(this.#memory, this.#seenSecond, b)
      if (alarm !== undefined) due = Math.min(due, alarm * 1000)
    }
    if ((b & PERIODIC) !== 0 && this.#period > 0) due = Math.min(due, this.#seenPeriod + this.#period)
    return due === Number.POSITIVE_INFINITY ? undefined : due
  }

  state(): unknown {
    return {
      version: 1,
      memory: Uint8Array.from(this.#memory),
      index: this.#index,
      offset: this.#offset,
      timeWritten: this.#timeWritten,
      flags: this.#flags,
    }
  }

  restore(state: unknown): void {
    const saved = new StateReader("RTC", 1, state)
    const memory = saved.bytes("memory", 128)
    const index = saved.integer("index", 0x7f)
    const offset = saved.number("offset", MAX_OFFSET_MS)
    const timeWritten = saved.boolean("timeWritten")
    const flags = saved.integer("flags", PERIODIC | ALARM | UPDATE)
    this.#memory.set(memory)
    this.#memory[REGISTER_A]! &= ~A_UPDATE_IN_PROGRESS
    this.#index = index
    this.#offset = offset
    this.#timeWritten = timeWritten
    this.#flags = flags
    this.#asserted = false
    this.#forgetPast()
    this.#settle()
  }
}
