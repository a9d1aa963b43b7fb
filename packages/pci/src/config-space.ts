import { type AccessSize, RestoreError } from "@virtkit/interface"
import { PCI_CFG_SPACE_EXP_SIZE, PCI_CFG_SPACE_SIZE } from "./constants.js"

/** Registers next to each other. Bits that neither mask names are read-only to the guest. */
export interface ConfigField {
  readonly offset: number
  /** The bytes after a reset. */
  readonly value: Uint8Array
  /** By byte, the bits that the guest may write. */
  readonly writable?: Uint8Array
  /** By byte, the bits that the guest clears by writing 1. */
  readonly clear?: Uint8Array
  /** By byte, the bits that the device changes by itself: a saved state may have them either way. */
  readonly volatile?: Uint8Array
  /** The guest wrote to `[offset, offset + size)`, which lies within the field; the bytes have changed already. */
  readonly written?: (offset: number, size: number) => void | Promise<void>
  /** Called before a read of `[offset, offset + size)` that exits. */
  readonly beforeRead?: (offset: number, size: number) => void
}

const WORDS = PCI_CFG_SPACE_SIZE / 4

/**
 * The configuration space of a function as bytes with write masks (PCI 3.0, 6.1), and what writes cause.
 *
 * The bytes are private or in a page that the guest reads without an exit. Each write of the guest changes its 32-bit
 * word in one store.
 */
export class ConfigSpace {
  #words: Uint32Array = new Uint32Array(WORDS)
  #bytes: Uint8Array = new Uint8Array(this.#words.buffer)
  readonly #initial: Uint8Array = new Uint8Array(PCI_CFG_SPACE_SIZE)
  readonly #writable: Uint32Array = new Uint32Array(WORDS)
  readonly #clear: Uint32Array = new Uint32Array(WORDS)
  readonly #volatile: Uint8Array = new Uint8Array(PCI_CFG_SPACE_SIZE)
  /** By byte, the field with side effects that it belongs to. */
  readonly #active: (ConfigField | undefined)[] = new Array(PCI_CFG_SPACE_SIZE).fill(undefined)

  declare(field: ConfigField): void {
    const { offset, value, writable, clear } = field
    this.#initial.set(value, offset)
    this.#bytes.set(value, offset)
    if (writable !== undefined) new Uint8Array(this.#writable.buffer).set(writable, offset)
    if (clear !== undefined) new Uint8Array(this.#clear.buffer).set(clear, offset)
    if (field.volatile !== undefined) this.#volatile.set(field.volatile, offset)
    if (field.written === undefined && field.beforeRead === undefined) return
    this.#active.fill(field, offset, offset + value.length)
  }

  get8(offset: number): number {
    return this.#bytes[offset]!
  }

  get16(offset: number): number {
    return this.#bytes[offset]! | (this.#bytes[offset + 1]! << 8)
  }

  get32(offset: number): number {
    return this.#words[offset >>> 2]!
  }

  /** Changes bytes from the device's side, whatever the masks. */
  set(offset: number, bytes: Uint8Array): void {
    for (let i = 0; i < bytes.length; i++) this.#bytes[offset + i] = bytes[i]!
  }

  set16(offset: number, value: number): void {
    const word = this.#words[offset >>> 2]!
    const shift = (offset & 2) * 8
    Atomics.store(this.#words, offset >>> 2, (word & ~(0xffff << shift)) | (value << shift))
  }

  /** A copy. */
  slice(offset: number, length: number): Uint8Array {
    return this.#bytes.slice(offset, offset + length)
  }

  /** As the guest reads, at any offset: bytes that do not exist are 0 (bad-input #5). */
  read(offset: number, size: AccessSize): number {
    if (offset >= PCI_CFG_SPACE_SIZE) return 0
    this.#prepare(offset, size)
    let value = 0
    for (let byte = 0; byte < size; byte++) value |= (this.#bytes[offset + byte] ?? 0) << (8 * byte)
    return value >>> 0
  }

  /** As the guest writes. What crosses a 32-bit boundary cannot be a configuration write and is lost (bad-input #5). */
  write(offset: number, size: AccessSize, value: number): void | Promise<void> {
    const shift = (offset & 3) * 8
    if (offset >= PCI_CFG_SPACE_SIZE || shift + 8 * size > 32) return undefined
    const index = offset >>> 2
    const accessed = (size === 4 ? 0xffff_ffff : (1 << (8 * size)) - 1) << shift
    const wanted = value << shift
    const writable = this.#writable[index]! & accessed
    const cleared = this.#clear[index]! & accessed & wanted
    const word = (this.#words[index]! & ~writable & ~cleared) | (wanted & writable)
    Atomics.store(this.#words, index, word)
    return this.#tell(offset, size)
  }

  /** Moves the bytes into `page`, or back into private memory. */
  attach(page: DataView | undefined): void {
    const words =
      page === undefined ? new Uint32Array(WORDS) : new Uint32Array(page.buffer, page.byteOffset, WORDS)
    const bytes = new Uint8Array(words.buffer, words.byteOffset, PCI_CFG_SPACE_SIZE)
    bytes.set(this.#bytes)
    if (page !== undefined) {
      const extended = PCI_CFG_SPACE_EXP_SIZE - PCI_CFG_SPACE_SIZE
      new Uint8Array(page.buffer, page.byteOffset + PCI_CFG_SPACE_SIZE, extended).fill(0)
    }
    this.#words = words
    this.#bytes = bytes
  }

  /** Everything as it was declared. */
  reset(): void {
    this.#bytes.set(this.#initial)
  }

  state(): Uint8Array {
    return this.#bytes.slice()
  }

  /** Throws {@link RestoreError} unless `saved` is a state of a space declared like this one (bad-input #31). */
  check(name: string, saved: unknown): void {
    if (!(saved instanceof Uint8Array) || saved.length !== PCI_CFG_SPACE_SIZE) {
      throw new RestoreError(`${name}: no ${PCI_CFG_SPACE_SIZE} bytes of configuration space`)
    }
    const writable = new Uint8Array(this.#writable.buffer)
    const clear = new Uint8Array(this.#clear.buffer)
    for (let i = 0; i < PCI_CFG_SPACE_SIZE; i++) {
      const fixed = ~(writable[i]! | clear[i]! | this.#volatile[i]!) & 0xff
      if (((saved[i]! ^ this.#initial[i]!) & fixed) === 0) continue
      throw new RestoreError(`${name}: byte ${i} of configuration space is not that of this function`)
    }
  }

  /** `saved` has passed {@link check}. */
  restore(saved: Uint8Array): void {
    this.#bytes.set(saved)
  }

  #prepare(offset: number, size: number): void {
    let last: ConfigField | undefined
    for (let byte = offset; byte < offset + size; byte++) {
      const field = this.#active[byte]
      if (field === undefined || field === last) continue
      last = field
      if (field.beforeRead !== undefined) {
        const [from, length] = within(field, offset, size)
        field.beforeRead(from, length)
      }
    }
  }

  /** One call for each field that the write touched. */
  #tell(offset: number, size: number): void | Promise<void> {
    let last: ConfigField | undefined
    let pending: Promise<void> | undefined
    for (let byte = offset; byte < offset + size; byte++) {
      const field = this.#active[byte]
      if (field?.written === undefined || field === last) continue
      last = field
      const [from, length] = within(field, offset, size)
      const result = field.written(from, length)
      if (result === undefined) continue
      pending = pending === undefined ? result : Promise.all([pending, result]).then(() => undefined)
    }
    return pending
  }
}

/** The part of an access that lies within a field. */
function within(field: ConfigField, offset: number, size: number): [number, number] {
  const from = Math.max(offset, field.offset)
  return [from, Math.min(offset + size, field.offset + field.value.length) - from]
}

/** The little-endian bytes of one register, for {@link ConfigField}. */
export function le(size: 1 | 2 | 3 | 4, value: number): Uint8Array {
  const bytes = new Uint8Array(size)
  for (let i = 0; i < size; i++) bytes[i] = value >>> (8 * i)
  return bytes
}
