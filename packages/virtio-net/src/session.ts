import type { GuestMemory } from "@virtkit/interface"
import type { NetSession, ReceiveBuffers } from "./backend.js"
import type { NetCore } from "./core.js"
import type { NetHeader } from "./header.js"
import type { ReceiveQueue } from "./receive.js"
import type { TransmitQueue } from "./transmit.js"

/** What a backend gets hold of, from activation to reset; afterwards every call does nothing. */
export class Session implements NetSession {
  readonly memory: GuestMemory
  /** By pair; undefined where the driver has set up no queue. */
  readonly receiveQueues: (ReceiveQueue | undefined)[] = []
  readonly transmitQueues: (TransmitQueue | undefined)[] = []
  readonly #core: NetCore
  readonly #linkChanged: (up: boolean, reason: string) => void
  #open = true

  constructor(core: NetCore, linkChanged: (up: boolean, reason: string) => void) {
    this.#core = core
    this.memory = core.context.memory
    this.#linkChanged = linkChanged
  }

  get queuePairs(): number {
    return this.#core.queuePairs
  }

  close(): void {
    this.#open = false
    for (const queue of [...this.receiveQueues, ...this.transmitQueues]) queue?.close()
    this.receiveQueues.length = 0
    this.transmitQueues.length = 0
  }

  receive(pair: number, frame: Uint8Array, header?: NetHeader): boolean {
    const queue = this.receiveQueues[pair]
    if (queue !== undefined) return queue.receive(frame, header)
    this.#core.counters.rxDropped++
    return true
  }

  received(pair: number): void {
    this.receiveQueues[pair]?.flush()
  }

  dropped(frames: number): void {
    this.#core.counters.rxDropped += frames
  }

  buffers(pair: number): ReceiveBuffers | undefined {
    return this.receiveQueues[pair]
  }

  defer(task: () => void): void {
    this.#core.context.defer(() => {
      if (this.#open) task()
    })
  }

  transmitReady(pair: number): void {
    this.transmitQueues[pair]?.ready()
  }

  linkChanged(up: boolean, reason: string): void {
    if (this.#open) this.#linkChanged(up, reason)
  }

  transmitFailed(frames: number, errno: number): void {
    this.#core.counters.txErrors += frames
    this.#core.counters.lastErrno = errno
  }
}
