import type { Duplex } from "node:stream"
import type { NetBackend } from "../backend.js"
import { StreamPort } from "./stream-port.js"

/**
 * One wire over a stream that exists already, such as a WebSocket or a pipe: each frame follows its length, as
 * `streamBackend` has it. Owns the stream; when that ends the link is down, for good.
 */
export function duplexBackend(stream: Duplex): NetBackend {
  return new DuplexBackend(stream)
}

class DuplexBackend extends StreamPort {
  protected readonly description: string = "duplex stream"

  constructor(stream: Duplex) {
    super()
    this.connect(stream, "connected")
  }

  protected lost(reason: string): void {
    this.down(reason)
  }

  async close(): Promise<void> {
    this.hangUp()
  }
}
