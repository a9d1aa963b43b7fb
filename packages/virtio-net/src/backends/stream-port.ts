import type { Duplex } from "node:stream"
import type { NetBackend, NetBackendInfo, NetSession, TransmitFrame } from "../backend.js"
import { FrameStream } from "./frame-stream.js"

/**
 * A backend over a byte stream: a session that comes and goes with the guest's driver, and a stream that comes and goes
 * with the other end. How that is made is for those that extend it.
 */
export abstract class StreamPort implements NetBackend {
  #session: NetSession | undefined
  #stream: FrameStream | undefined

  /** For messages. */
  protected abstract get description(): string
  /** The stream that was connected has ended: {@link down} must follow, then or later. */
  protected abstract lost(reason: string): void
  abstract close(): Promise<void>

  get info(): NetBackendInfo {
    return {
      description: this.description,
      maxQueuePairs: 1,
      transmitOffloads: 0,
      receiveOffloads: 0,
      linkUp: this.connected,
    }
  }

  start(session: NetSession): void {
    this.#session = session
  }

  stop(): void {
    this.#session = undefined
    // Frames for the driver of before are dropped from here on.
    this.#stream?.resume()
  }

  protected get connected(): boolean {
    return this.#stream !== undefined
  }

  protected connect(duplex: Duplex, reason: string): void {
    const stream: FrameStream = new FrameStream(duplex, {
      frame: (bytes) => this.#session?.receive(0, bytes) ?? true,
      batch: () => this.#session?.received(0),
      room: () => this.#session?.transmitReady(0),
      ended: (why) => {
        if (this.#stream !== stream) return
        this.#stream = undefined
        // Frames that waited for room in it go nowhere now.
        this.#session?.transmitReady(0)
        this.lost(why)
      },
    })
    this.#stream = stream
    this.#session?.linkChanged(true, reason)
  }

  /** Without a stream there is no link: frames are lost. */
  transmit(_pair: number, frame: TransmitFrame): boolean {
    return this.#stream?.send(frame) ?? true
  }

  commit(): void {
    this.#stream?.flush()
  }

  receiveReady(): void {
    this.#stream?.resume()
  }

  /** The other end is gone. */
  protected down(reason: string): void {
    this.#session?.linkChanged(false, reason)
  }

  /** Ends the stream, and {@link lost} does not follow. */
  protected hangUp(): void {
    const stream = this.#stream
    this.#stream = undefined
    stream?.close("closed")
  }
}
