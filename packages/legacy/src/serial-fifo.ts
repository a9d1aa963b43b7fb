import { FIFO_SIZE } from "./serial-constants.js"

/** The receiver FIFO: characters, each with the LSR error bits that came with it. */
export class ReceiverFifo {
  readonly #characters = new Uint8Array(FIFO_SIZE)
  readonly #errors = new Uint8Array(FIFO_SIZE)
  #head = 0
  #count = 0

  get count(): number {
    return this.#count
  }

  /** The caller has checked that there is room. */
  push(character: number, errors: number): void {
    const tail = (this.#head + this.#count) % FIFO_SIZE
    this.#characters[tail] = character
    this.#errors[tail] = errors
    this.#count++
  }

  /** The oldest character; the caller has checked that there is one. */
  shift(): number {
    const character = this.#characters[this.#head]!
    this.#head = (this.#head + 1) % FIFO_SIZE
    this.#count--
    return character
  }

  /** The error bits of the oldest character, which are then forgotten: LSR shows them from here on. */
  takeErrors(): number {
    if (this.#count === 0) return 0
    const errors = this.#errors[this.#head]!
    this.#errors[this.#head] = 0
    return errors
  }

  get hasErrors(): boolean {
    for (let i = 0; i < this.#count; i++) if (this.#errors[(this.#head + i) % FIFO_SIZE] !== 0) return true
    return false
  }

  clear(): void {
    this.#head = 0
    this.#count = 0
  }

  /** Character and error bits by turns, oldest first. */
  save(): Uint8Array {
    const saved = new Uint8Array(this.#count * 2)
    for (let i = 0; i < this.#count; i++) {
      const at = (this.#head + i) % FIFO_SIZE
      saved[i * 2] = this.#characters[at]!
      saved[i * 2 + 1] = this.#errors[at]!
    }
    return saved
  }

  load(saved: Uint8Array): void {
    this.clear()
    for (let i = 0; i + 1 < saved.length; i += 2) this.push(saved[i]!, saved[i + 1]!)
  }
}
