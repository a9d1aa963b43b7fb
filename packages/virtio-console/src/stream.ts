import { Duplex } from "node:stream"
import type { Chain } from "@virtkit/interface"

export interface ConsoleStreamOptions {
  /** Bytes of guest output held for a reader that is behind. */
  capacity: number
  /** The host wrote: `input` has bytes. */
  onInput: () => void
  /** There is room for output again, after there was too little. */
  onRoom: () => void
}

/**
 * The host's end of the console as a Duplex, with memory that no guest can make grow: output gathers in a fixed buffer
 * and reaches the reader as one Buffer for each turn of the event loop; input stays in the chunk that the writer gave
 * until the guest has taken it all. Listeners of the host never run inside a guest's notification.
 */
export class ConsoleStream extends Duplex {
  readonly #staging: Uint8Array
  readonly #onInput: () => void
  readonly #onRoom: () => void
  #staged = 0
  #full = false
  /** Finished or destroyed: nobody can read or write any more. */
  #closed = false
  #flush: NodeJS.Immediate | undefined
  #input: Uint8Array | undefined
  #written: (() => void) | undefined

  constructor(options: ConsoleStreamOptions) {
    super({ decodeStrings: true })
    this.#staging = new Uint8Array(options.capacity)
    this.#onInput = options.onInput
    this.#onRoom = options.onRoom
  }

  // The guest's side.

  /** Copies from the readable part of `chain`, starting at `offset`, what there is room for; returns how much. */
  takeOutput(chain: Chain, offset: number): number {
    const wanted = Math.max(0, chain.readableBytes - offset)
    // Nobody can read any more: it goes nowhere, at once.
    if (this.#closed) return wanted
    const taken = chain.copyOut(offset, this.#staging.subarray(this.#staged))
    this.#staged += taken
    if (taken < wanted) this.#full = true
    if (this.#staged > 0) this.#flush ??= setImmediate(() => this.#deliver())
    return taken
  }

  /** Takes a byte of output, or drops it when there is no room. */
  putOutput(byte: number): void {
    if (this.#closed || this.#staged === this.#staging.length) return
    this.#staging[this.#staged++] = byte
    this.#flush ??= setImmediate(() => this.#deliver())
  }

  /** Bytes that the host wrote and the guest has not taken. */
  get input(): Uint8Array | undefined {
    return this.#input
  }

  /** The guest took the first `count` bytes of `input`. */
  consumeInput(count: number): void {
    const input = this.#input
    if (input === undefined) return
    if (count < input.length) this.#input = input.subarray(count)
    else this.#finishInput()
  }

  /** Delivers what is left and ends both directions. Later output and input are discarded. Idempotent. */
  finish(): void {
    if (this.#closed) return
    if (this.#staged > 0) this.push(Buffer.from(this.#staging.subarray(0, this.#staged)))
    this.push(null)
    this.end()
    this.#closed = true
    this.#release()
  }

  // The host's side.

  override _read(): void {
    if (this.#staged > 0) this.#flush ??= setImmediate(() => this.#deliver())
  }

  override _write(chunk: Uint8Array, _encoding: BufferEncoding, callback: () => void): void {
    if (this.#closed || chunk.length === 0) {
      callback()
      return
    }
    this.#input = chunk
    this.#written = callback
    this.#onInput()
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    this.#closed = true
    this.#release()
    callback(error)
  }

  #deliver(): void {
    this.#flush = undefined
    // A reader that is behind gets nothing until it asks (_read): that is what bounds the memory.
    if (this.#staged === 0 || this.readableLength >= this.readableHighWaterMark) return
    const data = Buffer.from(this.#staging.subarray(0, this.#staged))
    this.#staged = 0
    this.#tellRoom()
    this.push(data)
  }

  #tellRoom(): void {
    if (!this.#full) return
    this.#full = false
    this.#onRoom()
  }

  #finishInput(): void {
    const written = this.#written
    this.#input = undefined
    this.#written = undefined
    // Later, since the callback may run the writer's code.
    if (written !== undefined) process.nextTick(written)
  }

  #release(): void {
    if (this.#flush !== undefined) clearImmediate(this.#flush)
    this.#flush = undefined
    this.#staged = 0
    this.#finishInput()
    this.#tellRoom()
  }
}
