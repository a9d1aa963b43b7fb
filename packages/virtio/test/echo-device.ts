import type { DeviceContext, VirtioDevice } from "@virtkit/interface"
import { RestoreError } from "@virtkit/interface"
import { drainQueue } from "@virtkit/virtqueue"

export interface EchoOptions {
  queueMaxSizes?: readonly number[]
  features?: bigint
  config?: Uint8Array
}

/** Copies the readable part of each chain into its writable part. Remembers its calls; can misbehave on demand. */
export class EchoDevice implements VirtioDevice {
  readonly name = "echo0"
  readonly deviceType = 42
  readonly features: bigint
  readonly queueMaxSizes: readonly number[]
  readonly config: Uint8Array
  readonly calls: string[] = []
  context: DeviceContext | undefined
  /** When set, a reset waits for it. */
  resetGate: Promise<void> | undefined
  /** Name of the method that throws. */
  fails = ""
  /** Chains are kept and not answered while true. */
  holds = false

  constructor(options: EchoOptions = {}) {
    this.features = options.features ?? 1n
    this.queueMaxSizes = options.queueMaxSizes ?? [16, 8]
    this.config = options.config ?? Uint8Array.of(1, 2, 3, 4, 5, 6, 7)
  }

  writeConfig(offset: number, data: Uint8Array): void {
    this.#called("writeConfig")
    this.config.set(data, offset)
  }

  activate(context: DeviceContext): void {
    this.context = context
    this.#called("activate")
  }

  notify(queueIndex: number): void {
    this.#called(`notify ${queueIndex}`)
    const queue = this.context?.queues[queueIndex]
    if (queue === undefined) return
    const scratch = new Uint8Array(256)
    const result = drainQueue(queue, (chain) => {
      if (this.holds) return
      const bytes = chain.copyOut(0, scratch)
      queue.push(chain, chain.copyIn(0, scratch.subarray(0, bytes)))
    })
    if (result === "limit") this.context?.defer(() => this.notify(queueIndex))
  }

  async reset(): Promise<void> {
    this.#called("reset")
    await this.resetGate
    this.context = undefined
  }

  async close(): Promise<void> {
    this.#called("close")
  }

  state(): unknown {
    return { version: 1, config: Array.from(this.config) }
  }

  restore(state: unknown): void {
    const { config } = state as { config?: number[] }
    if (!Array.isArray(config)) throw new RestoreError("echo0: no config")
    this.config.set(config)
    this.#called("restore")
  }

  #called(what: string): void {
    this.calls.push(what)
    if (this.fails === what) throw new Error(`bug in ${what}`)
  }
}
