import type { Duplex } from "node:stream"
import { VirtkitError } from "@virtkit/interface"
import { encodeFrame, FrameReader, PING, PONG, READY, SHUTDOWN, VERSION } from "./protocol.js"

/** Who gets the frames of one command. */
export interface FrameHandler {
  frame(type: number, payload: Buffer): void
  /** The lab is gone; no frame follows. */
  lost(reason: Error): void
}

/** The host's end of the agent's port: hands each frame to the command that it belongs to. */
export class Channel {
  /** Resolves when the agent is there. Rejects when the stream ends first. */
  readonly ready: Promise<void>
  /** Pings that the agent has not answered. */
  unanswered = 0
  /** Bytes that may be under way in each direction of each command. Known once `ready`. */
  window = 0
  readonly #stream: Duplex
  readonly #handlers = new Map<number, FrameHandler>()
  #nextId = 1
  #lost: Error | undefined
  #becomeReady: () => void = () => {}
  #failReady: (reason: Error) => void = () => {}

  /** `ended` tells why the stream has closed, once that is known; commands that run fail with it. */
  constructor(stream: Duplex, ended: Promise<string> = Promise.resolve("the lab ended")) {
    this.#stream = stream
    this.ready = new Promise((resolve, reject) => {
      this.#becomeReady = resolve
      this.#failReady = reject
    })
    this.ready.catch(() => {}) // whoever starts the lab awaits it; nobody else has to
    const reader = new FrameReader((id, type, payload) => this.#frame(id, type, payload))
    stream.on("data", (chunk: Buffer) => {
      try {
        reader.write(chunk)
      } catch (error) {
        this.lose(error as Error)
      }
    })
    stream.on("error", (error) => this.lose(error))
    stream.on("close", async () => this.lose(new VirtkitError("ERR_VIRTKIT_LAB_GONE", await ended)))
  }

  /** Number of commands that are running. */
  get active(): number {
    return this.#handlers.size
  }

  /** Takes an id for a command. @throws the reason when the lab is gone */
  register(handler: FrameHandler): number {
    if (this.#lost) throw this.#lost
    const id = this.#nextId++
    this.#handlers.set(id, handler)
    return id
  }

  release(id: number): void {
    this.#handlers.delete(id)
  }

  /** Sends a frame. Windows bound what can pile up, so that nobody has to wait here. */
  send(frame: Buffer): void {
    if (!this.#lost) this.#stream.write(frame)
  }

  /** Asks the machine to write its disks and power off. */
  shutdown(): void {
    this.send(encodeFrame(0, SHUTDOWN, new Uint8Array(0)))
  }

  /** Asks the agent whether it is there: see `unanswered`. */
  ping(): void {
    this.unanswered++
    this.send(encodeFrame(0, PING, new Uint8Array(0)))
  }

  /** Ends every command with `reason`. Idempotent. */
  lose(reason: Error): void {
    if (this.#lost) return
    this.#lost = reason
    this.#failReady(reason)
    const handlers = [...this.#handlers.values()]
    this.#handlers.clear()
    for (const handler of handlers) handler.lost(reason)
    this.#stream.destroy()
  }

  #frame(id: number, type: number, payload: Buffer): void {
    if (id === 0 && type === READY && payload.length >= 8) {
      if (payload.readUInt32LE(0) !== VERSION) {
        this.lose(
          new VirtkitError(
            "ERR_VIRTKIT_LAB",
            "the lab's agent is of another version; remove the cache directory",
          ),
        )
        return
      }
      this.window = payload.readUInt32LE(4)
      this.#becomeReady()
      return
    }
    if (id === 0 && type === PONG) this.unanswered = 0
    else this.#handlers.get(id)?.frame(type, payload)
  }
}
