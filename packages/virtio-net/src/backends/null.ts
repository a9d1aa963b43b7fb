import type { NetBackend, NetBackendInfo } from "../backend.js"
import { OFFLOAD_ALL } from "../offloads.js"

/** A network without anybody: takes every frame, gives none. For measurements of the device itself. */
export function nullBackend(): NetBackend {
  return new NullBackend()
}

class NullBackend implements NetBackend {
  readonly info: NetBackendInfo = {
    description: "null",
    maxQueuePairs: 256,
    transmitOffloads: OFFLOAD_ALL,
    receiveOffloads: OFFLOAD_ALL,
    linkUp: true,
  }

  start(): void {}

  stop(): void {}

  transmit(): boolean {
    return true
  }

  async close(): Promise<void> {}
}
