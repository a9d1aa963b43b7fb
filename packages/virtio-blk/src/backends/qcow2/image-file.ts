import { close, fdatasync, fstat, ftruncate, read, write } from "node:fs"
import { promisify } from "node:util"
import { writeTogether } from "@virtkit/native"
import type { DirectAccess } from "../image.js"

const readAt = promisify(read)
const writeAt = promisify(write)

export interface ImageFileOptions {
  readonly path: string
  readonly fd: number
  readonly readonly: boolean
  /** A block device, which cannot grow. */
  readonly device: boolean
  /** Bytes. */
  readonly length: number
  /** Never wait for the disk. */
  readonly unsafe: boolean
}

/** Bytes, and where they go. */
export interface Piece {
  readonly offset: number
  readonly bytes: Uint8Array
}

/** Files grow in steps of this, without taking space. */
const GROWTH = 16 * 1024 * 1024

/** The file of an image: metadata is read and written here, by node:fs. Owns the descriptor. */
export class ImageFile {
  readonly path: string
  readonly fd: number
  readonly readonly: boolean
  /** Bytes. */
  length: number
  /** From here on nothing was ever written to the file: it reads as zeros. */
  virgin: number
  /** For data, where it is aligned. */
  direct: DirectAccess | undefined
  readonly #device: boolean
  readonly #unsafe: boolean
  /** End of what is in use, once the file was made longer than that. */
  #used: number
  #closed: Promise<void> | undefined

  constructor(options: ImageFileOptions) {
    this.path = options.path
    this.fd = options.fd
    this.readonly = options.readonly
    this.length = options.length
    this.virgin = options.device ? Number.POSITIVE_INFINITY : options.length
    this.#used = options.length
    this.#device = options.device
    this.#unsafe = options.unsafe
  }

  /** The bytes from `offset`; zeros where the file has ended. */
  async read(offset: number, length: number): Promise<Buffer> {
    const bytes = Buffer.alloc(length)
    for (let done = 0; done < length; ) {
      const { bytesRead } = await readAt(this.fd, bytes, done, length - done, offset + done)
      if (bytesRead === 0) break
      done += bytesRead
    }
    return bytes
  }

  async write(offset: number, bytes: Uint8Array): Promise<void> {
    this.#use(offset + bytes.length)
    for (let done = 0; done < bytes.length; ) {
      const { bytesWritten } = await writeAt(this.fd, bytes, done, bytes.length - done, offset + done)
      done += bytesWritten
    }
    this.length = Math.max(this.length, offset + bytes.length)
  }

  /** Writes pieces such that all or none of them are in the file when this process is killed (not when the machine fails). */
  async writeTogether(pieces: readonly Piece[]): Promise<void> {
    if (pieces.length === 0) return
    const end = Math.max(...pieces.map(({ offset, bytes }) => offset + bytes.length))
    this.#use(end)
    const places = pieces.flatMap(({ offset, bytes }) => [offset, bytes.length])
    await writeTogether(this.fd, Buffer.concat(pieces.map(({ bytes }) => bytes)), Float64Array.from(places))
    this.length = Math.max(this.length, end)
  }

  /** Makes what was written durable. */
  async sync(): Promise<void> {
    if (!this.#unsafe) await promisify(fdatasync)(this.fd)
  }

  /** Makes the file long enough to hold `end` bytes. */
  async ensure(end: number): Promise<void> {
    this.#use(end)
    if (end <= this.length) return
    if (this.#device)
      throw Object.assign(new Error(`device ${this.path} is full`), { errno: 28, code: "ENOSPC" })
    const length = Math.ceil(end / GROWTH) * GROWTH
    await promisify(ftruncate)(this.fd, length)
    this.length = Math.max(this.length, length)
  }

  /** What was never written begins behind `end`. */
  #use(end: number): void {
    this.virgin = Math.max(this.virgin, end)
    this.#used = Math.max(this.#used, end)
  }

  /** Cuts off what it has grown by in vain. */
  async trim(): Promise<void> {
    if (this.readonly || this.#device || this.#used >= this.length) return
    const { size } = await promisify(fstat)(this.fd)
    if (size === this.length) await promisify(ftruncate)(this.fd, this.#used)
    this.length = this.#used
  }

  /** Idempotent. */
  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    if (this.direct !== undefined) await promisify(close)(this.direct.fd)
    await promisify(close)(this.fd)
  }
}
