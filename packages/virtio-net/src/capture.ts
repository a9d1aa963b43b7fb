import { type FileHandle, open } from "node:fs/promises"
import { ConfigError, type GuestMemory } from "@virtkit/interface"
import type { ReceiveBuffers, TransmitFrame } from "./backend.js"
import { HEADER_BYTES, MAX_FRAME_BYTES } from "./constants.js"
import type { NetHeader } from "./header.js"
import { fileHeader, packetBytes, writePacket } from "./pcapng.js"

const CHUNK_BYTES: number = 1024 * 1024
/** What is captured and not yet written. More is lost, and counted in the file. */
const MAX_CHUNKS = 16

/** Where copies of frames go. */
export interface Capture {
  /** "in" is towards the guest. The bytes may be reused when it returns. */
  frame(direction: "in" | "out", bytes: Uint8Array, header: NetHeader): void
  transmitted(frame: TransmitFrame): void
  /** The first `buffers` of `source` hold a frame of `length` bytes after its header. */
  chains(
    memory: GuestMemory,
    source: ReceiveBuffers,
    buffers: number,
    length: number,
    header: NetHeader,
  ): void
}

export interface CaptureFileOptions {
  readonly path: string
  /** Bytes kept of each frame. Default: all. */
  readonly snapLength?: number
  /** Name of the interface in the file. Default "net". */
  readonly name?: string
}

/** A capture in a pcapng file, which Wireshark and tcpdump read while it grows. */
export interface CaptureFile extends Capture {
  readonly path: string
  /** Frames in the file, and lost because the disk did not keep up or failed. */
  readonly frames: number
  readonly dropped: number
  /** Errors of writing, if there was one: nothing is captured any more. */
  readonly error: Error | undefined
  /** Writes what is left. Idempotent. */
  close(): Promise<void>
}

/** Opens, and empties, the file. Throws ConfigError. */
export async function captureFile(options: CaptureFileOptions): Promise<CaptureFile> {
  const { path, snapLength = MAX_FRAME_BYTES, name = "net" } = options
  if (!Number.isInteger(snapLength) || snapLength < 1 || snapLength > MAX_FRAME_BYTES) {
    throw new ConfigError(`snapLength must be from 1 to ${MAX_FRAME_BYTES}, not ${snapLength}`)
  }
  let file: FileHandle
  try {
    file = await open(path, "w", 0o600)
  } catch (error) {
    throw new ConfigError(`cannot write capture ${path}: ${(error as Error).message}`, { cause: error })
  }
  return new PcapngFile(file, path, snapLength, fileHeader(name, snapLength))
}

class PcapngFile implements CaptureFile {
  readonly path: string
  frames = 0
  dropped = 0
  error: Error | undefined
  readonly #file: FileHandle
  readonly #snapLength: number
  /** The one that is filled, of {@link MAX_CHUNKS}: others are on their way to the file, or were and can be used again. */
  #chunk: Uint8Array<ArrayBuffer> = new Uint8Array(CHUNK_BYTES)
  #view = new DataView(this.#chunk.buffer)
  #used: number
  #chunks = 1
  #full: Uint8Array<ArrayBuffer>[] = []
  readonly #free: ArrayBuffer[] = []
  #writing: Promise<void> | undefined
  #scheduled = false
  #droppedSince = 0
  #closed: Promise<void> | undefined

  constructor(file: FileHandle, path: string, snapLength: number, header: Uint8Array) {
    this.#file = file
    this.path = path
    this.#snapLength = snapLength
    this.#chunk.set(header)
    this.#used = header.length
    this.#schedule()
  }

  frame(direction: "in" | "out", bytes: Uint8Array, header: NetHeader): void {
    const place = this.#place(direction, bytes.length, header)
    if (place === undefined) return
    place.set(bytes.length === place.length ? bytes : bytes.subarray(0, place.length))
  }

  transmitted(frame: TransmitFrame): void {
    const place = this.#place("out", frame.byteLength, frame.header)
    if (place !== undefined) frame.chain.copyOut(frame.offset, place)
  }

  chains(
    memory: GuestMemory,
    source: ReceiveBuffers,
    buffers: number,
    length: number,
    header: NetHeader,
  ): void {
    const place = this.#place("in", length, header)
    if (place === undefined) return
    let skip = HEADER_BYTES
    let done = 0
    for (let i = 0; i < buffers; i++) {
      const chain = source.at(i)
      for (let k = chain.readable; k < chain.count && done < place.length; k++) {
        const size = chain.lengths[k]!
        const from = Math.min(skip, size)
        skip -= from
        const part = Math.min(size - from, place.length - done)
        if (part === 0) continue
        memory.read(chain.addresses[k]! + from, place.subarray(done, done + part))
        done += part
      }
    }
  }

  close(): Promise<void> {
    this.#closed ??= this.#finish()
    return this.#closed
  }

  /** Where the captured bytes of a frame go; undefined when there is no room. */
  #place(direction: "in" | "out", length: number, header: NetHeader): Uint8Array | undefined {
    if (this.#closed !== undefined) return undefined
    const captured = Math.min(length, this.#snapLength)
    const needed = packetBytes(captured)
    if (this.error !== undefined || (this.#used + needed > CHUNK_BYTES && !this.#nextChunk())) {
      this.dropped++
      this.#droppedSince++
      return undefined
    }
    const time = Math.floor((performance.timeOrigin + performance.now()) * 1000)
    const dropped = this.#droppedSince
    const at = writePacket(this.#view, this.#used, { time, direction, captured, length, header, dropped })
    this.#droppedSince = 0
    this.#used += needed
    this.frames++
    this.#schedule()
    return this.#chunk.subarray(at, at + captured)
  }

  /** Writes at the end of this turn of the event loop, unless a write is under way: then after it. */
  #schedule(): void {
    if (this.#scheduled || this.#writing !== undefined) return
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      this.#write()
    })
  }

  /** False when all are full. */
  #nextChunk(): boolean {
    if (this.#free.length === 0 && this.#chunks === MAX_CHUNKS) return false
    const buffer = this.#free.pop() ?? this.#anotherChunk()
    if (this.#used > 0) this.#full.push(this.#chunk.subarray(0, this.#used))
    this.#chunk = new Uint8Array(buffer)
    this.#view = new DataView(buffer)
    this.#used = 0
    return true
  }

  #anotherChunk(): ArrayBuffer {
    this.#chunks++
    return new ArrayBuffer(CHUNK_BYTES)
  }

  #write(): void {
    if (this.#writing !== undefined) return
    // When there is no other to go on with, this one is filled up meanwhile.
    if (this.#used > 0) this.#nextChunk()
    const full = this.#full
    if (full.length === 0) return
    this.#full = []
    this.#writing = this.#append(full)
      .catch((error: Error) => {
        this.error = error
      })
      .then(() => {
        for (const { buffer } of full) this.#free.push(buffer)
        this.#writing = undefined
        this.#write()
      })
  }

  async #append(chunks: readonly Uint8Array[]): Promise<void> {
    for (const chunk of chunks) await this.#file.appendFile(chunk)
  }

  async #finish(): Promise<void> {
    this.#write()
    while (this.#writing !== undefined) await this.#writing
    await this.#file.close()
  }
}
