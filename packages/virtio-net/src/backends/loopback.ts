import type { NetBackend, NetBackendInfo, NetSession, TransmitFrame } from "../backend.js"
import { MAX_FRAME_BYTES } from "../constants.js"
import { OFFLOAD_ALL } from "../offloads.js"

/** Gives every frame back to the guest, on the pair of queues that it came from, offloads and all. */
export function loopbackBackend(): NetBackend {
  return new LoopbackBackend()
}

class LoopbackBackend implements NetBackend {
  readonly info: NetBackendInfo = {
    description: "loopback",
    maxQueuePairs: 256,
    transmitOffloads: OFFLOAD_ALL,
    receiveOffloads: OFFLOAD_ALL,
    linkUp: true,
  }
  readonly #bytes = new Uint8Array(MAX_FRAME_BYTES)
  #session: NetSession | undefined

  start(session: NetSession): void {
    this.#session = session
  }

  stop(): void {
    this.#session = undefined
  }

  // A guest that sends more than it has room for loses it.
  transmit(pair: number, frame: TransmitFrame): boolean {
    const { header } = frame
    const length = frame.copyTo(this.#bytes)
    if (!this.#session!.receive(pair, this.#bytes.subarray(0, length), header)) this.#session!.dropped(1)
    return true
  }

  commit(pair: number): void {
    this.#session!.received(pair)
  }

  async close(): Promise<void> {}
}
