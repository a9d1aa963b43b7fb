/*
 * Frames between the host and the lab's agent (agent/agent.c is the other end): a header of three little-endian
 * 32-bit words (command id, type, payload length), then the payload.
 */
export const HEADER_SIZE = 12
export const MAX_FRAME: number = 64 * 1024
export const VERSION = 1

/** Host to lab. */
export const START = 1
export const STDIN = 2
export const KILL = 3
export const RESIZE = 4
export const CREDIT = 5
export const SHUTDOWN = 6
export const PING = 7
/** Lab to host. */
export const READY = 64
export const STDOUT = 65
export const STDERR = 66
export const EXIT = 67
export const FAILED = 68
export const STDIN_CREDIT = 69
export const PONG = 70

/** Flags of START. */
export const TTY = 1

/** What START carries. */
export interface StartRequest {
  args: readonly string[]
  /** "NAME=value", all of the command's environment. */
  env: readonly string[]
  cwd: string
  tty?: { rows: number; columns: number }
}

export function encodeFrame(id: number, type: number, payload: Uint8Array): Buffer {
  const frame = Buffer.allocUnsafe(HEADER_SIZE + payload.length)
  frame.writeUInt32LE(id, 0)
  frame.writeUInt32LE(type, 4)
  frame.writeUInt32LE(payload.length, 8)
  frame.set(payload, HEADER_SIZE)
  return frame
}

/** Two 32-bit words: the payload of KILL (signal, 0), RESIZE (rows, columns), CREDIT (stream, bytes). */
export function encodePair(id: number, type: number, a: number, b: number): Buffer {
  const payload = Buffer.allocUnsafe(8)
  payload.writeUInt32LE(a, 0)
  payload.writeUInt32LE(b, 4)
  return encodeFrame(id, type, payload)
}

/** @throws RangeError when the request does not fit a frame, TypeError when a string holds a zero byte */
export function encodeStart(id: number, request: StartRequest): Buffer {
  const words = [request.cwd, ...request.args, ...request.env]
  if (words.some((word) => word.includes("\0")))
    throw new TypeError("a command's arguments cannot hold a zero byte")
  const fixed = Buffer.alloc(16)
  fixed.writeUInt32LE(request.tty ? TTY : 0, 0)
  if (request.tty)
    fixed.writeUInt32LE(((request.tty.columns & 0xffff) * 0x10000 + (request.tty.rows & 0xffff)) >>> 0, 4)
  fixed.writeUInt32LE(request.args.length, 8)
  fixed.writeUInt32LE(request.env.length, 12)
  const payload = Buffer.concat([fixed, ...words.map((word) => Buffer.from(`${word}\0`))])
  if (payload.length > MAX_FRAME)
    throw new RangeError(`a command's arguments and environment are limited to ${MAX_FRAME} bytes`)
  return encodeFrame(id, START, payload)
}

/** Cuts a byte stream into frames. */
export class FrameReader {
  readonly #onFrame: (id: number, type: number, payload: Buffer) => void
  #pending: Buffer = Buffer.alloc(0)

  constructor(onFrame: (id: number, type: number, payload: Buffer) => void) {
    this.#onFrame = onFrame
  }

  /** Payloads are views of what is written here: who keeps one, copies it. @throws RangeError on a frame too long */
  write(chunk: Buffer): void {
    const bytes = this.#pending.length ? Buffer.concat([this.#pending, chunk]) : chunk
    let at = 0
    while (bytes.length - at >= HEADER_SIZE) {
      const length = bytes.readUInt32LE(at + 8)
      if (length > MAX_FRAME) throw new RangeError(`frame of ${length} bytes from the lab`)
      if (bytes.length - at < HEADER_SIZE + length) break
      const end = at + HEADER_SIZE + length
      this.#onFrame(bytes.readUInt32LE(at), bytes.readUInt32LE(at + 4), bytes.subarray(at + HEADER_SIZE, end))
      at = end
    }
    this.#pending = bytes.subarray(at)
  }
}
