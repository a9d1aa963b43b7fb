import { TraceError } from "./record-format.js"

/** Collects the fields of records. Grows to the longest block and stays. */
export class FieldWriter {
  #bytes = Buffer.allocUnsafe(4096)
  #length = 0

  get length(): number {
    return this.#length
  }

  /** Valid until the next call of this object. */
  get written(): Uint8Array {
    return this.#bytes.subarray(0, this.#length)
  }

  clear(): void {
    this.#length = 0
  }

  /** An unsigned integer below 2^53: seven bits a byte, the lowest first, bit 7 of all but the last set. */
  number(value: number): void {
    this.#reserve(8)
    let rest = value
    while (rest >= 0x80) {
      this.#bytes[this.#length++] = (rest % 0x80) | 0x80
      rest = Math.floor(rest / 0x80)
    }
    this.#bytes[this.#length++] = rest
  }

  /** Length and contents. */
  bytes(value: Uint8Array): void {
    this.number(value.length)
    this.#reserve(value.length)
    this.#bytes.set(value, this.#length)
    this.#length += value.length
  }

  text(value: string): void {
    this.bytes(Buffer.from(value))
  }

  #reserve(count: number): void {
    if (this.#length + count <= this.#bytes.length) return
    const bytes = Buffer.allocUnsafe(Math.max(this.#bytes.length * 2, this.#length + count))
    bytes.set(this.written)
    this.#bytes = bytes
  }
}

/** Takes fields out of a block. Throws {@link TraceError} where there are none. */
export class FieldReader {
  readonly #bytes: Uint8Array
  #at = 0

  constructor(bytes: Uint8Array) {
    // A Buffer's slices would be Buffers, and share their memory.
    this.#bytes = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }

  get isAtEnd(): boolean {
    return this.#at === this.#bytes.length
  }

  number(): number {
    let value = 0
    for (let factor = 1; factor < 2 ** 53; factor *= 0x80) {
      const byte = this.#bytes[this.#at++]
      if (byte === undefined) throw new TraceError("corrupt trace: a record goes beyond its block")
      value += (byte & 0x7f) * factor
      if (byte < 0x80) {
        if (value > Number.MAX_SAFE_INTEGER) break
        return value
      }
    }
    throw new TraceError("corrupt trace: a number is too large")
  }

  /** A number of things to come, each of which takes a byte at least. */
  count(): number {
    const count = this.number()
    if (count > this.#bytes.length - this.#at) {
      throw new TraceError("corrupt trace: a record goes beyond its block")
    }
    return count
  }

  bytes(): Uint8Array {
    const length = this.count()
    const value = this.#bytes.slice(this.#at, this.#at + length)
    this.#at += length
    return value
  }

  text(): string {
    return Buffer.from(this.bytes()).toString()
  }
}
