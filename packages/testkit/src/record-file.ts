import { closeSync, openSync, readSync, writeSync } from "node:fs"
import { getSystemErrorName } from "node:util"
import { crc32, deflateRawSync, inflateRawSync } from "node:zlib"
import { SystemError } from "@virtkit/interface"
import { decodeRecord, encodeRecord } from "./record-encoding.js"
import { FieldReader, FieldWriter } from "./record-fields.js"
import {
  BLOCK_BYTES,
  BLOCK_HEADER_BYTES,
  MAX_BLOCK_BYTES,
  TRACE_MAGIC,
  TRACE_VERSION,
  TraceError,
  type TraceEvent,
  type TraceHeader,
  type TraceRecord,
} from "./record-format.js"

const PREFIX_BYTES = TRACE_MAGIC.length + 2

/** Writes a trace to a file, a block at a time, so that it holds one block in memory however long the trace becomes. */
export class TraceWriter {
  readonly #fields = new FieldWriter()
  readonly #now: () => number
  #fd: number | undefined
  #lastTime: number
  #count = 0

  /** `now`: milliseconds. Throws {@link SystemError}. */
  constructor(path: string, header: TraceHeader, now: () => number) {
    this.#now = now
    this.#lastTime = now()
    this.#fd = system("open", () => openSync(path, "w"))
    const prefix = Buffer.alloc(PREFIX_BYTES)
    prefix.write(TRACE_MAGIC, "latin1")
    prefix.writeUInt16LE(TRACE_VERSION, TRACE_MAGIC.length)
    try {
      this.#write(prefix)
      this.#writeBlock(Buffer.from(JSON.stringify(header)))
    } catch (error) {
      this.abandon()
      throw error
    }
  }

  /** Adds a record. Throws {@link SystemError}, after which the trace is cut short here. Does nothing once closed. */
  add(event: TraceEvent): void {
    if (this.#fd === undefined) return
    const now = this.#now()
    const elapsed = Math.max(0, Math.round((now - this.#lastTime) * 1000))
    this.#lastTime = now
    encodeRecord(this.#fields, event, elapsed)
    this.#count++
    if (this.#fields.length >= BLOCK_BYTES) this.#closeBlock()
  }

  /** Writes the end mark. Idempotent. Throws {@link SystemError}; call {@link abandon} then. */
  close(): void {
    const fd = this.#fd
    if (fd === undefined) return
    if (this.#fields.length > 0) this.#closeBlock()
    const end = Buffer.alloc(BLOCK_HEADER_BYTES)
    end.writeUInt32LE(this.#count >>> 0, 8)
    this.#write(end)
    this.#fd = undefined
    system("close", () => closeSync(fd))
  }

  /** Closes the file as it is, after an error, and so without one of its own. */
  abandon(): void {
    const fd = this.#fd
    this.#fd = undefined
    try {
      if (fd !== undefined) closeSync(fd)
    } catch {
      // The first error is the one to tell.
    }
  }

  #closeBlock(): void {
    this.#writeBlock(this.#fields.written)
    this.#fields.clear()
  }

  #writeBlock(bytes: Uint8Array): void {
    const packed = deflateRawSync(bytes)
    const header = Buffer.alloc(BLOCK_HEADER_BYTES)
    header.writeUInt32LE(packed.length, 0)
    header.writeUInt32LE(bytes.length, 4)
    header.writeUInt32LE(crc32(bytes), 8)
    this.#write(header)
    this.#write(packed)
  }

  #write(bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      done += system("write", () => writeSync(this.#fd!, bytes, done))
    }
  }
}

/** Where {@link readTrace} takes a trace from: `length` bytes at most, fewer at the end only. */
type Source = (length: number) => Buffer

/** A trace that is being read. */
export interface Trace {
  readonly header: TraceHeader
  /** Can be gone through once. Throws {@link TraceError} where the trace cannot be read. */
  readonly records: IterableIterator<TraceRecord>
}

/**
 * Opens a trace: a path, or its bytes. Holds one block of it in memory. Throws {@link TraceError}, and
 * {@link SystemError} when the file cannot be read.
 */
export function readTrace(from: string | Uint8Array): Trace {
  if (typeof from !== "string") {
    const source = sourceOfBytes(from)
    return { header: readHeader(source), records: readRecords(source) }
  }
  const fd = system("open", () => openSync(from, "r"))
  const source = sourceOfFile(fd)
  let header: TraceHeader
  try {
    header = readHeader(source)
  } catch (error) {
    closeSync(fd)
    throw error
  }
  return { header, records: readRecords(source, () => closeSync(fd)) }
}

function* readRecords(source: Source, close?: () => void): IterableIterator<TraceRecord> {
  let number = 0
  let time = 0
  try {
    for (;;) {
      const block = readBlock(source)
      if (typeof block === "number") {
        if (block !== number >>> 0) throw new TraceError("corrupt trace: records are missing")
        if (source(1).length > 0) throw new TraceError("corrupt trace: it goes on after its end")
        return
      }
      const fields = new FieldReader(block)
      while (!fields.isAtEnd) {
        const record = decodeRecord(fields, number++, time)
        time = record.time
        yield record
      }
    }
  } finally {
    close?.()
  }
}

function readHeader(source: Source): TraceHeader {
  const prefix = source(PREFIX_BYTES)
  if (prefix.length < PREFIX_BYTES || prefix.toString("latin1", 0, TRACE_MAGIC.length) !== TRACE_MAGIC) {
    throw new TraceError("not a trace")
  }
  const version = prefix.readUInt16LE(TRACE_MAGIC.length)
  if (version !== TRACE_VERSION) throw new TraceError(`a trace of version ${version}, not ${TRACE_VERSION}`)
  const block = readBlock(source)
  if (typeof block === "number") throw new TraceError("corrupt trace: no header")
  return parseHeader(Buffer.from(block).toString())
}

function parseHeader(text: string): TraceHeader {
  try {
    const { name, deviceType, features, queueMaxSizes, config } = JSON.parse(text) as TraceHeader
    const isHeader =
      typeof name === "string" &&
      Number.isInteger(deviceType) &&
      /^0x[0-9a-f]+$/.test(features) &&
      queueMaxSizes.every((size) => Number.isInteger(size)) &&
      /^([0-9a-f]{2})*$/.test(config)
    if (isHeader) return { name, deviceType, features, queueMaxSizes, config }
  } catch {
    // Not JSON, or not of that shape.
  }
  throw new TraceError("corrupt trace: the header does not describe a device")
}

/** Contents of the next block, or of the end mark the number of records. */
function readBlock(source: Source): Uint8Array | number {
  const header = source(BLOCK_HEADER_BYTES)
  if (header.length < BLOCK_HEADER_BYTES) throw new TraceError("the trace is cut short")
  const packedLength = header.readUInt32LE(0)
  const length = header.readUInt32LE(4)
  const check = header.readUInt32LE(8)
  if (packedLength === 0 && length === 0) return check
  if (length > MAX_BLOCK_BYTES || packedLength > MAX_BLOCK_BYTES) {
    throw new TraceError("corrupt trace: a block is too large")
  }
  const packed = source(packedLength)
  if (packed.length < packedLength) throw new TraceError("the trace is cut short")
  let bytes: Buffer
  try {
    bytes = inflateRawSync(packed, { maxOutputLength: Math.max(length, 1) })
  } catch (error) {
    throw new TraceError("corrupt trace: a block cannot be unpacked", { cause: error })
  }
  if (bytes.length !== length || crc32(bytes) !== check) {
    throw new TraceError("corrupt trace: a block is not as it was written")
  }
  return bytes
}

function sourceOfBytes(bytes: Uint8Array): Source {
  let at = 0
  return (length) => {
    const piece = Buffer.from(bytes.buffer, bytes.byteOffset + at, Math.min(length, bytes.length - at))
    at += piece.length
    return piece
  }
}

function sourceOfFile(fd: number): Source {
  return (length) => {
    const piece = Buffer.alloc(length)
    let done = 0
    while (done < length) {
      const count = system("read", () => readSync(fd, piece, done, length - done, null))
      if (count === 0) break
      done += count
    }
    return piece.subarray(0, done)
  }
}

/** Runs a system call of `node:fs`. */
function system<T>(name: string, call: () => T): T {
  try {
    return call()
  } catch (error) {
    const { errno = 0, message } = error as NodeJS.ErrnoException
    const code = errno === 0 ? "EIO" : getSystemErrorName(errno)
    throw new SystemError(code, Math.abs(errno), name, message, { cause: error })
  }
}
