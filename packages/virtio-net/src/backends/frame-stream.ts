import type { Duplex } from "node:stream"
import type { TransmitFrame } from "../backend.js"
import { MAX_FRAME_BYTES } from "../constants.js"

/** Each frame follows its length: four bytes, most significant first. As QEMU's `-netdev stream` and passt have it. */
const LENGTH_BYTES = 4
const CHUNK_BYTES: number = 256 * 1024
/** Chunks on their way to the other end; more wait in the guest's queue. */
const CHUNKS = 4

export interface FrameStreamHandlers {
  /** A frame came; false: keep it, and ask again after {@link FrameStream.resume}. */
  frame(bytes: Uint8Array): boolean
  /** The frames of a piece of input are over. */
  batch(): void
  /** After {@link FrameStream.send} returned false: there is room again. */
  room(): void
  /** The stream ended; called once. */
  ended(reason: string): void
}

/** Frames over a byte stream, with back-pressure both ways. Owns the stream. */
export class FrameStream {
  readonly #stream: Duplex
  readonly #handlers: FrameStreamHandlers
  readonly #idle: Buffer[] = []
  #made = 0
  #chunk: Buffer | undefined
  #used = 0
  #refused = false
  /** Input that was not looked at, because the guest has no room. */
  #input: Uint8Array | undefined
  /** A frame in the making: `#partialLength` bytes of it are there, of `#partialWanted`, length included (0: unknown). */
  readonly #partial = new Uint8Array(LENGTH_BYTES + MAX_FRAME_BYTES)
  #partialLength = 0
  #partialWanted = 0
  #ended = false

  constructor(stream: Duplex, handlers: FrameStreamHandlers) {
    this.#stream = stream
    this.#handlers = handlers
    stream.on("data", (input: Uint8Array) => this.#take(input))
    stream.on("error", (error) => this.#end(error.message))
    stream.on("close", () => this.#end("the other end closed the connection"))
    stream.on("end", () => this.close("the other end closed the connection"))
  }

  /** Takes a frame, to be sent with the next {@link flush} at the latest; false: there is no room for it. */
  send(frame: TransmitFrame): boolean {
    const needed = LENGTH_BYTES + frame.byteLength
    if (this.#used + needed > CHUNK_BYTES) this.flush()
    const chunk = this.#chunk ?? this.#nextChunk()
    if (chunk === undefined) {
      this.#refused = true
      return false
    }
    chunk.writeUInt32BE(frame.byteLength, this.#used)
    frame.copyTo(chunk, this.#used + LENGTH_BYTES)
    this.#used += needed
    return true
  }

  flush(): void {
    const chunk = this.#chunk
    if (chunk === undefined || this.#used === 0) return
    const bytes = chunk.subarray(0, this.#used)
    this.#chunk = undefined
    this.#used = 0
    // The chunk is theirs until then.
    this.#stream.write(bytes, () => {
      this.#idle.push(chunk)
      if (!this.#refused || this.#ended) return
      this.#refused = false
      this.#handlers.room()
    })
  }

  /** There is room for a frame that was refused. */
  resume(): void {
    const input = this.#input
    if (input === undefined || this.#ended) return
    this.#input = undefined
    this.#take(input)
    if (this.#input === undefined) this.#stream.resume()
  }

  close(reason: string): void {
    this.#end(reason)
    this.#stream.destroy()
  }

  #nextChunk(): Buffer | undefined {
    this.#chunk = this.#idle.pop()
    if (this.#chunk === undefined && this.#made < CHUNKS) {
      this.#made++
      this.#chunk = Buffer.allocUnsafeSlow(CHUNK_BYTES)
    }
    return this.#chunk
  }

  #end(reason: string): void {
    if (this.#ended) return
    this.#ended = true
    this.#handlers.ended(reason)
  }

  #take(input: Uint8Array): void {
    let at = 0
    while (!this.#ended) {
      const refusedAt = at
      if (this.#partialWanted > 0 && this.#partialLength === this.#partialWanted) {
        if (!this.#handlers.frame(this.#partial.subarray(LENGTH_BYTES, this.#partialWanted))) {
          this.#wait(input, at)
          break
        }
        this.#partialLength = 0
        this.#partialWanted = 0
      }
      if (at === input.length) break
      at = this.#partialLength > 0 ? this.#fill(input, at) : this.#whole(input, at)
      if (at < 0) {
        this.#wait(input, refusedAt)
        break
      }
    }
    this.#handlers.batch()
  }

  #wait(input: Uint8Array, at: number): void {
    this.#input = input.subarray(at)
    this.#stream.pause()
  }

  /** A frame at `at`, if all of it is there; returns where to go on, or -1 when it was refused. */
  #whole(input: Uint8Array, at: number): number {
    if (input.length - at >= LENGTH_BYTES) {
      const length = this.#lengthAt(input, at)
      if (length < 0) return input.length
      const end = at + LENGTH_BYTES + length
      if (end <= input.length) {
        return this.#handlers.frame(input.subarray(at + LENGTH_BYTES, end)) ? end : -1
      }
    }
    return this.#fill(input, at)
  }

  /** Keeps what is there of a frame's length, or of a frame; returns where to go on. */
  #fill(input: Uint8Array, at: number): number {
    const wanted = this.#partialWanted || LENGTH_BYTES
    const part = Math.min(wanted - this.#partialLength, input.length - at)
    this.#partial.set(input.subarray(at, at + part), this.#partialLength)
    this.#partialLength += part
    if (this.#partialWanted === 0 && this.#partialLength === LENGTH_BYTES) {
      const length = this.#lengthAt(this.#partial, 0)
      if (length >= 0) this.#partialWanted = LENGTH_BYTES + length
    }
    return at + part
  }

  /** The length at `at`; -1, and the end of the stream, when no frame is that long: what follows would be rubbish. */
  #lengthAt(bytes: Uint8Array, at: number): number {
    const length = bytes[at]! * 0x1000000 + ((bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!)
    if (length <= MAX_FRAME_BYTES) return length
    this.close(`the other end sent a frame of ${length} bytes`)
    return -1
  }
}
