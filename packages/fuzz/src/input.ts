/** Takes an input apart into the numbers that a target asks for; when nothing is left they are 0. Little-endian. */
export class Input {
  readonly #bytes: Uint8Array
  #at = 0

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
  }

  /** Bytes not taken yet. */
  get left(): number {
    return this.#bytes.length - this.#at
  }

  u8(): number {
    return this.#bytes[this.#at++] ?? 0
  }

  u16(): number {
    return this.u8() | (this.u8() << 8)
  }

  u32(): number {
    return (this.u16() | (this.u16() << 16)) >>> 0
  }

  /** One of the list, by the next byte. */
  pick<Value>(list: readonly Value[]): Value {
    return list[this.u8() % list.length]!
  }

  /** Up to `length` bytes: fewer at the end. */
  bytes(length: number): Uint8Array {
    const taken = this.#bytes.subarray(this.#at, this.#at + length)
    this.#at += taken.length
    return taken
  }
}

/** Puts inputs together that an {@link Input} takes apart: for seeds. */
export class Output {
  readonly #bytes: number[] = []

  u8(...values: number[]): this {
    for (const value of values) this.#bytes.push(value & 0xff)
    return this
  }

  u16(...values: number[]): this {
    for (const value of values) this.u8(value, value >>> 8)
    return this
  }

  u32(...values: number[]): this {
    for (const value of values) this.u16(value, value >>> 16)
    return this
  }

  bytes(values: ArrayLike<number>): this {
    return this.u8(...Array.from(values))
  }

  get input(): Uint8Array {
    return Uint8Array.from(this.#bytes)
  }
}
