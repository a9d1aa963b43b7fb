import type { Duplex } from "node:stream"
import type { NetSession, TransmitFrame } from "../backend.js"
import { FrameStream } from "./frame-stream.js"

/**
 * What backends over a byte stream have in common: a session that comes and goes with the guest's driver, and a stream
 * that comes and goes with the other end.
 */
export class StreamPort {
  #session: NetSession | undefined
  #stream: FrameStream | undefined
  readonly #lost: (reason: string) => void

  /** `lost` is called when the stream that was connected has ended; it calls {@link down}, then or later. */
  constructor(lost: (reason: string) => void) {
    this.#lost = lost
  }

  get connected(): boolean {
    return this.#stream !== undefined
  }

  start(session: NetSession): void {
    this.#session = session
  }

  stop(): void {
    this.#session = undefined
    // Frames for the driver of before are dropped from here on.
    this.#stream?.resume()
  }

  connect(duplex: Duplex, reason: string): void {
    const stream: FrameStream = new FrameStream(duplex, {
      frame: (bytes) => this.#session?.receive(0, bytes) ?? true,
      batch: () => this.#session?.received(0),
      room: () => this.#session?.transmitReady(0),
      ended: (why) => {
        if (this.#stream !== stream) return
        this.#stream = undefined
        // Frames that waited for room in it go nowhere now.
        this.#session?.transmitReady(0)
        this.#lost(why)
      },
    })
    this.#stream = stream
    this.#session?.linkChanged(true, reason)
  }

  /** Without a stream there is no link: frames are lost. */
  transmit(frame: TransmitFrame): boolean {
    return this.#stream?.send(frame) ?? true
  }

  commit(): void {
    this.#stream?.flush()
  }

  receiveReady(): void {
    this.#stream?.resume()
  }

  /** The other end is gone. */
  down(reason: string): void {
    this.#session?.linkChanged(false, reason)
  }

  close(): void {
    const stream = this.#stream
    this.#stream = undefined
    stream?.close("closed")
  }
}
