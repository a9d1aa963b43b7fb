import { Duplex } from "node:stream"

export interface SerialStreamOptions {
  /** Bytes of output held for a reader that is behind. */
  capacity: number
  /** More input is available than before. Not called from within a method of the guest's side. */
  onInput: () => void
  /** There is room for a full FIFO again, after there was not. Not called from within a method of the guest's side. */
  onRoom: () => void
}

/** `room` below this stops the transmitter: a guest may fill the FIFO without looking again. */
export const TRANSMIT_ROOM = 16

/**
 * The host's end of the line, as a Duplex. Guest output gathers in a fixed buffer and reaches the reader as one Buffer
 * for each turn of the event loop; host input stays in the chunk that the writer gave until the guest takes it, and the
 * writer's callback waits for that. Users' listeners never run inside a guest's register access.
 */
export class SerialStream extends Duplex {
  readonly #staging: Uint8Array
  readonly #onInput: () => void
  readonly #onRoom: () => void
  #staged = 0
  #full = false
  /** Finished or destroyed: nobody can read or write any more. */
  #closed = false
  #flush: NodeJS.Immediate | undefined
  #chunk: Uint8Array | undefined
  #position = 0
  #written: (() => void) | undefined

  constructor(options: SerialStreamOptions) {
    super({ decodeStrings: true })
    this.#staging = new Uint8Array(options.capacity)
    this.#onInput = options.onInput
    this.#onRoom = options.onRoom
  }

  // The guest's side.

  /** Bytes of output that can still be taken; without limit when nobody can read any more. */
  get room(): number {
    return this.#closed ? TRANSMIT_ROOM : this.#staging.length - this.#staged
  }

  /** Takes a byte of output; false when there is no room for it. */
  putByte(byte: number): boolean {
    if (this.#closed) return true
    if (this.#staged === this.#staging.length) return false
    this.#staging[this.#staged++] = byte
    if (this.room < TRANSMIT_ROOM) this.#full = true
    this.#flush ??= setImmediate(() => this.#deliver())
    return true
  }

  /** Bytes of input that can be taken now. */
  get available(): number {
    return this.#chunk === undefined ? 0 : this.#chunk.length - this.#position
  }

  /** The next byte of input; the caller has checked that one is available. */
  takeByte(): number {
    const chunk = this.#chunk!
    const byte = chunk[this.#position++]!
    if (this.#position === chunk.length) this.#finishChunk()
    return byte
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

  // The reader's and writer's side.

  override _read(): void {
    if (this.#staged > 0) this.#flush ??= setImmediate(() => this.#deliver())
  }

  override _write(chunk: Uint8Array, _encoding: BufferEncoding, callback: () => void): void {
    if (this.#closed || chunk.length === 0) {
      callback()
      return
    }
    this.#chunk = chunk
    this.#position = 0
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

  #finishChunk(): void {
    const written = this.#written
    this.#chunk = undefined
    this.#written = undefined
    // Later, since the callback may run the writer's code.
    if (written !== undefined) process.nextTick(written)
  }

  #release(): void {
    if (this.#flush !== undefined) clearImmediate(this.#flush)
    this.#flush = undefined
    this.#staged = 0
    this.#finishChunk()
    // Nobody reads any more: a transmitter that waited for room goes on, into nothing.
    this.#tellRoom()
  }
}
