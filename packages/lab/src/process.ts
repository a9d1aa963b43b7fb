import { constants } from "node:os"
import { Readable, Writable } from "node:stream"
import { VirtkitError } from "@virtkit/interface"
import type { Channel, FrameHandler } from "./channel.js"
import {
  CREDIT,
  EXIT,
  encodeFrame,
  encodePair,
  encodeStart,
  FAILED,
  KILL,
  MAX_FRAME,
  RESIZE,
  STDERR,
  STDIN,
  STDIN_CREDIT,
  STDOUT,
  type StartRequest,
} from "./protocol.js"

/** How a command ended: `status` when it exited, else `signal`, which killed it. */
export interface ExitState {
  status: number | null
  signal: NodeJS.Signals | null
}

/** One output of a command. What its reader has taken goes back to the agent as credit. */
class OutputStream extends Readable {
  readonly #chunks: Buffer[] = []
  readonly #credit: (bytes: number) => void
  #wanted = false
  #ended = false
  #owed = 0

  constructor(credit: (bytes: number) => void) {
    super({ highWaterMark: MAX_FRAME })
    this.#credit = credit
  }

  receive(chunk: Buffer): void {
    // A reader that has gone away shall not stop the command: its output is dropped, as into /dev/null.
    if (this.destroyed) {
      this.#credit(chunk.length)
      return
    }
    this.#chunks.push(Buffer.from(chunk))
    if (this.#wanted) this._read()
  }

  finish(): void {
    this.#ended = true
    if (this.#wanted) this._read()
  }

  override _read(): void {
    this.#wanted = true
    while (this.#wanted) {
      const chunk = this.#chunks.shift()
      if (!chunk) break
      this.#owe(chunk.length)
      this.#wanted = this.push(chunk)
    }
    if (this.#wanted && this.#ended) {
      this.#wanted = false
      this.push(null)
    }
  }

  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    for (const chunk of this.#chunks.splice(0)) this.#credit(chunk.length)
    callback(error)
  }

  /** Credit goes back in pieces of a frame: one message for each read would double the traffic. */
  #owe(bytes: number): void {
    this.#owed += bytes
    if (this.#owed < MAX_FRAME / 2 && this.#chunks.length > 0) return
    this.#credit(this.#owed)
    this.#owed = 0
  }
}

/** A command that runs in the lab. Its streams have back-pressure both ways. */
export class LabProcess implements FrameHandler {
  readonly stdin: Writable
  readonly stdout: Readable
  /** Stays empty with a terminal: that has one output. */
  readonly stderr: Readable
  /** Settles when the command has ended and its output has arrived. Rejects when it could not start or the lab died. */
  readonly exited: Promise<ExitState>
  readonly #channel: Channel
  readonly #id: number
  readonly #out: OutputStream
  readonly #err: OutputStream
  readonly #name: string
  #credit: number
  #blocked: (() => void) | undefined
  #ended = false
  #settle: { resolve: (state: ExitState) => void; reject: (error: Error) => void } | undefined

  constructor(channel: Channel, request: StartRequest) {
    this.#channel = channel
    this.#credit = channel.window
    this.#name = request.args[0] ?? ""
    this.exited = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject }
    })
    this.exited.catch(() => {}) // a caller that only reads the streams sees their end
    this.#id = channel.register(this)
    this.#out = new OutputStream((bytes) => this.#send(encodePair(this.#id, CREDIT, STDOUT, bytes)))
    this.#err = new OutputStream((bytes) => this.#send(encodePair(this.#id, CREDIT, STDERR, bytes)))
    this.stdout = this.#out
    this.stderr = this.#err
    this.stdin = new Writable({
      highWaterMark: MAX_FRAME,
      write: (chunk: Buffer, _encoding, callback) => this.#write(chunk, callback),
      final: (callback) => {
        this.#send(encodeFrame(this.#id, STDIN, new Uint8Array(0)))
        callback()
      },
    })
    try {
      channel.send(encodeStart(this.#id, request))
    } catch (error) {
      channel.release(this.#id)
      throw error
    }
  }

  /** Sends a signal to the command's process group; SIGKILL ends everything that it started. */
  kill(signal: NodeJS.Signals = "SIGTERM"): void {
    this.#send(encodePair(this.#id, KILL, constants.signals[signal], 0))
  }

  /** Tells the command's terminal its new size, in characters. */
  resize(rows: number, columns: number): void {
    this.#send(encodePair(this.#id, RESIZE, rows, columns))
  }

  /** Called by the channel. */
  frame(type: number, payload: Buffer): void {
    if (type === STDOUT) this.#out.receive(payload)
    else if (type === STDERR) this.#err.receive(payload)
    else if (payload.length < 8) return
    else if (type === STDIN_CREDIT) this.#addCredit(payload.readUInt32LE(0))
    else if (type === EXIT) this.#exit(payload.readUInt32LE(0), payload.readUInt32LE(4))
    else if (type === FAILED) this.#fail(payload.readUInt32LE(0))
  }

  /** Called by the channel. */
  lost(reason: Error): void {
    this.#end()
    this.#settle?.reject(reason)
  }

  #send(frame: Buffer): void {
    if (!this.#ended) this.#channel.send(frame)
  }

  #write(chunk: Buffer, callback: () => void): void {
    let at = 0
    const step = (): void => {
      while (at < chunk.length && !this.#ended) {
        if (this.#credit === 0) {
          this.#blocked = step
          return
        }
        const piece = chunk.subarray(at, at + Math.min(this.#credit, MAX_FRAME))
        this.#credit -= piece.length
        at += piece.length
        this.#send(encodeFrame(this.#id, STDIN, piece))
      }
      callback()
    }
    step()
  }

  #addCredit(bytes: number): void {
    this.#credit += bytes
    const resume = this.#blocked
    this.#blocked = undefined
    resume?.()
  }

  #exit(status: number, signal: number): void {
    this.#channel.release(this.#id)
    this.#end()
    const name = Object.entries(constants.signals).find(([, number]) => number === signal)?.[0]
    this.#settle?.resolve(
      signal === 0
        ? { status, signal: null }
        : { status: null, signal: (name ?? "SIGKILL") as NodeJS.Signals },
    )
  }

  #fail(errno: number): void {
    this.#channel.release(this.#id)
    this.#end()
    const code =
      Object.entries(constants.errno).find(([, number]) => number === errno)?.[0] ?? `errno ${errno}`
    const why = code === "ENOENT" ? "no such command or directory" : code
    this.#settle?.reject(new VirtkitError(code, `cannot run ${this.#name} in the lab: ${why}`))
  }

  #end(): void {
    this.#ended = true
    this.#out.finish()
    this.#err.finish()
    this.#addCredit(0) // a writer that waits may go on, into nothing
    this.stdin.destroy()
  }
}
