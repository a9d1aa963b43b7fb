import type { Chain } from "@virtkit/interface"
import { drainQueue } from "@virtkit/virtqueue"
import { VIRTIO_NET_ERR, VIRTIO_NET_OK } from "./constants.js"
import { type ControlCommand, parseControl } from "./control.js"
import type { NetCore } from "./core.js"

/** The control queue (5.1.6.5): reads commands, has them carried out, writes the one byte of the answer. */
export class ControlQueue {
  readonly #index: number
  readonly #core: NetCore
  readonly #execute: (command: ControlCommand) => boolean
  readonly #answer = new Uint8Array(1)
  #deferred = false

  /** `execute` returns whether the command could be carried out. */
  constructor(index: number, core: NetCore, execute: (command: ControlCommand) => boolean) {
    this.#index = index
    this.#core = core
    this.#execute = execute
  }

  notify(): void {
    const queue = this.#core.context.queues[this.#index]
    if (queue === undefined || this.#deferred) return
    const result = drainQueue(queue, (chain) => queue.push(chain, this.#handle(chain)))
    if (result !== "limit") return
    this.#deferred = true
    this.#core.context.defer(() => {
      this.#deferred = false
      this.notify()
    })
  }

  /** Returns the number of bytes written. */
  #handle(chain: Chain): number {
    const { counters } = this.#core
    // Not carried out either, since the driver could not learn of it.
    if (chain.writableBytes === 0) {
      counters.malformed++
      return 0
    }
    counters.controlCommands++
    const command = parseControl(chain)
    const done = command !== undefined && this.#execute(command)
    if (!done) counters.controlErrors++
    this.#answer[0] = done ? VIRTIO_NET_OK : VIRTIO_NET_ERR
    return chain.copyIn(0, this.#answer)
  }
}
