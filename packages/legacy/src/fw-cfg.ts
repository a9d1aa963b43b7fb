import type { AccessSize, BusDevice, GuestMemory, Stateful } from "@virtkit/interface"
import { readBytes } from "./bytes.js"
import { directory, FIRST_FILE, type FwCfgFiles, swap32 } from "./fw-cfg-items.js"
import { StateReader } from "./state.js"

export interface FwCfgOptions {
  /** Served by name; firmware finds them in the directory. At most 16 MiB each. */
  readonly files?: FwCfgFiles
  /** Served by number: the items that are older than files. Numbers below 0x20, or from 0x8000 up. */
  readonly items?: ReadonlyMap<number, Uint8Array>
  /** Where the guest's DMA goes. Without it there is none, and firmware reads byte by byte. */
  readonly memory?: GuestMemory
  /** For messages; "fw-cfg" unless told. */
  readonly name?: string
}

/** Ports that the device occupies. */
export const FW_CFG_PORTS = 12
/** Number of processors (16 bits) that firmware waits for. */
export const FW_CFG_CPUS = 0x05
/** Whether to show a boot menu (16 bits). */
export const FW_CFG_BOOT_MENU = 0x0e
/** One more than the highest APIC ID (16 bits). */
export const FW_CFG_MAX_CPUS = 0x0f

const SELECTOR = 0
const DATA = 1
const DMA_HIGH = 4
const DMA_LOW = 8

const SIGNATURE = 0x00
const ID = 0x01
const FILE_DIRECTORY = 0x19
/** Selects the item for writing, which nothing here is. */
const WRITE_CHANNEL = 0x4000

const ID_TRADITIONAL = 1
const ID_DMA = 2
/** "QEMU CFG", as two little-endian words: what the DMA address reads as. */
const DMA_SIGNATURE_HIGH = 0x554d4551
const DMA_SIGNATURE_LOW = 0x47464320

const CONTROL_ERROR = 1
const CONTROL_READ = 2
const CONTROL_SKIP = 4
const CONTROL_SELECT = 8
const CONTROL_WRITE = 16

const NOTHING = new Uint8Array(0)
/** Bytes that one DMA moves at most: more than any item has (bad-input #12). */
const DMA_LIMIT = 16 * 1024 * 1024

/**
 * The interface by which QEMU hands configuration to firmware (docs/specs/fw_cfg in its tree): numbered items, some of
 * them files with a name, on 12 ports from 0x510: selector (16 bits), data (8 bits, one port up), address of a DMA
 * request (64 bits, big-endian, four ports up).
 *
 * Everything is read-only: a write by DMA ends with the error bit, one to the data port is ignored. Reads past the end
 * of an item, and of items that do not exist, give zeros.
 */
export class FwCfg implements BusDevice, Stateful {
  readonly name: string
  readonly #memory: GuestMemory | undefined
  readonly #items: ReadonlyMap<number, Uint8Array>
  #selector = SIGNATURE
  /** Of the next byte within the item. */
  #offset = 0
  #dmaHigh = 0
  readonly #request = new DataView(new ArrayBuffer(16))
  readonly #readPort = (offset: number): number => (offset === DATA ? this.#next() : 0)

  /** Throws ConfigError when a file or an item cannot be served. */
  constructor({ files = {}, items, memory, name }: FwCfgOptions = {}) {
    this.name = name ?? "fw-cfg"
    this.#memory = memory
    const { listing, contents } = directory(files)
    this.#items = new Map([
      ...(items ?? []),
      [SIGNATURE, Uint8Array.from("QEMU", (letter) => letter.charCodeAt(0))],
      [ID, Uint8Array.of(ID_TRADITIONAL | (memory ? ID_DMA : 0), 0, 0, 0)],
      [FILE_DIRECTORY, listing],
      ...contents.map((bytes, index): [number, Uint8Array] => [FIRST_FILE + index, bytes]),
    ])
  }

  read(offset: number, size: AccessSize): number {
    if (size === 4 && this.#memory !== undefined) {
      if (offset === DMA_HIGH) return DMA_SIGNATURE_HIGH
      if (offset === DMA_LOW) return DMA_SIGNATURE_LOW
    }
    return readBytes(this.#readPort, offset, size)
  }

  write(offset: number, size: AccessSize, value: number): void {
    if (offset === SELECTOR && size === 2) this.#select(value)
    else if (size === 4 && offset === DMA_HIGH) this.#dmaHigh = swap32(value)
    else if (size === 4 && offset === DMA_LOW) {
      const address = this.#dmaHigh * 2 ** 32 + swap32(value)
      this.#dmaHigh = 0
      this.#dma(address)
    }
  }

  #select(selector: number): void {
    this.#selector = selector & ~WRITE_CHANNEL
    this.#offset = 0
  }

  get #item(): Uint8Array {
    return this.#items.get(this.#selector) ?? NOTHING
  }

  #next(): number {
    const item = this.#item
    // Past the end the offset stays, so that no guest makes it grow without bound.
    return this.#offset < item.length ? item[this.#offset++]! : 0
  }

  /** Carries out the request at a guest physical address; one that is not in RAM has nowhere to put its result. */
  #dma(address: number): void {
    const memory = this.#memory
    if (memory === undefined || !memory.contains(address, 16)) return
    // Copied once: the guest may change it under our eyes (bad-input #18).
    memory.read(address, new Uint8Array(this.#request.buffer))
    const control = this.#request.getUint32(0)
    const length = this.#request.getUint32(4)
    const target = this.#request.getUint32(8) * 2 ** 32 + this.#request.getUint32(12)
    const isDone = this.#transfer(memory, control, length, target)
    memory.writeUint32(address, isDone ? 0 : swap32(CONTROL_ERROR))
  }

  /** False: the request cannot be met. */
  #transfer(memory: GuestMemory, control: number, length: number, target: number): boolean {
    if ((control & CONTROL_SELECT) !== 0) this.#select(control >>> 16)
    if ((control & CONTROL_READ) !== 0) {
      if (length === 0) return true
      if (length > DMA_LIMIT || !memory.contains(target, length)) return false
      const rest = this.#item.subarray(this.#offset, this.#offset + length)
      if (rest.length > 0) memory.write(target, rest)
      if (rest.length < length) memory.fill(target + rest.length, length - rest.length, 0)
      this.#offset += rest.length
      return true
    }
    if ((control & CONTROL_WRITE) !== 0) return false
    if ((control & CONTROL_SKIP) !== 0) this.#offset = Math.min(this.#item.length, this.#offset + length)
    return true
  }

  /** The items are options, not state. */
  state(): unknown {
    return { version: 1, selector: this.#selector, offset: this.#offset, dmaHigh: this.#dmaHigh }
  }

  restore(state: unknown): void {
    const saved = new StateReader("fw-cfg", 1, state)
    const selector = saved.integer("selector", 0xffff)
    const offset = saved.integer("offset", DMA_LIMIT)
    const dmaHigh = saved.integer("dmaHigh", 0xffffffff)
    this.#select(selector)
    this.#offset = Math.min(offset, this.#item.length)
    this.#dmaHigh = dmaHigh
  }
}
