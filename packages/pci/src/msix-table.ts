import type { AcceleratedBusDevice, AccessSize, BusDevice, RegisterPage } from "@virtkit/interface"
import { PCI_MSIX_ENTRY_CTRL_MASKBIT, PCI_MSIX_ENTRY_SIZE } from "./constants.js"
import type { Segment } from "./placement.js"

const PAGE_SIZE = 4096
export const VECTORS_PER_PAGE: number = PAGE_SIZE / PCI_MSIX_ENTRY_SIZE
const WORDS_PER_ENTRY = PCI_MSIX_ENTRY_SIZE / 4

/** The 32-bit fields of an entry (PCI 3.0, 6.8.2.6 to 6.8.2.9), in their order. */
export const ENTRY_ADDRESS = 0
export const ENTRY_ADDRESS_UPPER = 1
export const ENTRY_DATA = 2
export const ENTRY_CONTROL = 3

/** By field, the bits that can be set: addresses are of 32-bit words, vector control has the mask bit alone. */
const WRITABLE: readonly number[] = [0xffff_fffc, 0xffff_ffff, 0xffff_ffff, PCI_MSIX_ENTRY_CTRL_MASKBIT]

/** Up to 256 entries of an MSI-X table. Reads have no side effects, so they can come from a register page. */
export class MsixTablePage implements AcceleratedBusDevice {
  readonly name: string
  readonly doorbells: readonly [] = []
  readonly pageSize: number = PAGE_SIZE
  readonly #count: number
  readonly #written: (index: number, field: number) => void
  #words: Uint32Array = new Uint32Array(PAGE_SIZE / 4)

  /** `written` is called after each write of a whole field. */
  constructor(name: string, count: number, written: (index: number, field: number) => void) {
    this.name = name
    this.#count = count
    this.#written = written
    this.reset()
  }

  get(index: number, field: number): number {
    return this.#words[index * WORDS_PER_ENTRY + field]!
  }

  read(offset: number, size: AccessSize): number {
    if (size === 4 && (offset & 3) === 0) return this.#words[offset >>> 2]!
    let value = 0
    for (let byte = 0; byte < size; byte++) {
      const at = offset + byte
      value |= (((this.#words[at >>> 2] ?? 0) >>> (8 * (at & 3))) & 0xff) << (8 * byte)
    }
    return value >>> 0
  }

  /** Anything but whole, aligned fields is undefined by the specification and lost here (bad-input #5). */
  write(offset: number, size: AccessSize, value: number): void {
    if (size !== 4 || (offset & 3) !== 0) return
    const word = offset >>> 2
    const index = Math.floor(word / WORDS_PER_ENTRY)
    if (index >= this.#count) return
    const field = word % WORDS_PER_ENTRY
    Atomics.store(this.#words, word, value & WRITABLE[field]!)
    this.#written(index, field)
  }

  setRegisterPage(page: RegisterPage | undefined): void {
    const words =
      page === undefined
        ? new Uint32Array(PAGE_SIZE / 4)
        : new Uint32Array(page.view.buffer, page.view.byteOffset, PAGE_SIZE / 4)
    words.set(this.#words)
    this.#words = words
  }

  /** Its part of a BAR at `offset`: a whole page if nothing else is in that, else its entries, without a register page. */
  segment(offset: number, barSize: number, others: readonly { offset: number; size: number }[]): Segment {
    const end = offset + PAGE_SIZE
    const whole =
      offset % PAGE_SIZE === 0 &&
      end <= barSize &&
      others.every((other) => other.offset >= end || other.offset + other.size <= offset)
    if (whole) return { offset, size: PAGE_SIZE, device: this }
    const plain: BusDevice = {
      name: this.name,
      read: this.read.bind(this),
      write: this.write.bind(this),
    }
    return { offset, size: this.#count * PCI_MSIX_ENTRY_SIZE, device: plain }
  }

  reset(): void {
    this.#words.fill(0)
    for (let index = 0; index < this.#count; index++) {
      this.#words[index * WORDS_PER_ENTRY + ENTRY_CONTROL] = PCI_MSIX_ENTRY_CTRL_MASKBIT
    }
  }

  /** The bytes of its entries. */
  state(): Uint8Array {
    const { buffer, byteOffset } = this.#words
    return new Uint8Array(buffer, byteOffset, this.#count * PCI_MSIX_ENTRY_SIZE).slice()
  }

  /** Takes its entries out of `table`, from `offset` on. Bits that cannot be set are dropped. */
  restore(table: Uint8Array, offset: number): void {
    const view = new DataView(table.buffer, table.byteOffset, table.length)
    for (let word = 0; word < this.#count * WORDS_PER_ENTRY; word++) {
      this.#words[word] = view.getUint32(offset + 4 * word, true) & WRITABLE[word % WORDS_PER_ENTRY]!
    }
  }
}
