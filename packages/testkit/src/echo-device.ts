import {
  type Chain,
  type DeviceContext,
  type Queue,
  RestoreError,
  type VirtioDevice,
} from "@virtkit/interface"

export interface EchoDeviceOptions {
  /** Default [16, 8]. */
  readonly queueMaxSizes?: readonly number[]
  /** Default: bit 0. */
  readonly features?: bigint
  /** Default: the bytes 1 to 7. */
  readonly config?: Uint8Array
  /** It can reset single queues. Default: false. */
  readonly queueReset?: boolean
}

/**
 * A virtio device for testing what is around one: it copies the readable part of each chain into the writable part. It
 * remembers how it was called and misbehaves on demand.
 */
export class EchoDevice implements VirtioDevice {
  readonly name = "echo0"
  readonly deviceType = 42
  readonly features: bigint
  readonly queueMaxSizes: readonly number[]
  readonly config: Uint8Array
  /** Its calls in order, such as "activate", "notify 1", "reset". */
  readonly calls: string[] = []
  /** What it was activated with, kept over a reset on purpose. */
  context: DeviceContext | undefined
  /** Entry of `calls` at which it throws, against its contract. */
  failAt: string | undefined
  /** Set: a reset, of a queue too, is complete only when this is. */
  resetGate: Promise<void> | undefined
  /** Keep chains in `held` instead of answering them. */
  holds = false
  readonly held: { queue: Queue; chain: Chain }[] = []

  constructor(options: EchoDeviceOptions = {}) {
    this.features = options.features ?? 1n
    this.queueMaxSizes = options.queueMaxSizes ?? [16, 8]
    this.config = options.config ?? Uint8Array.of(1, 2, 3, 4, 5, 6, 7)
    if (options.queueReset) this.resetQueue = (index) => this.#resetQueue(index)
  }

  resetQueue?: (queueIndex: number) => void | Promise<void>

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
    for (let taken = 0; taken < queue.size; taken++) {
      const chain = queue.pop()
      if (chain === undefined) break
      if (this.holds) this.held.push({ queue, chain })
      else queue.push(chain, echo(chain))
    }
    queue.flush()
    if (queue.enableNotification()) this.context?.defer(() => this.notify(queueIndex))
  }

  /** Answers the chains that were held. */
  release(): void {
    for (const { queue, chain } of this.held.splice(0)) {
      queue.push(chain, echo(chain))
      queue.flush()
    }
  }

  async reset(): Promise<void> {
    this.#called("reset")
    await this.resetGate
  }

  #resetQueue(queueIndex: number): void | Promise<void> {
    this.#called(`resetQueue ${queueIndex}`)
    return this.resetGate
  }

  async close(): Promise<void> {
    this.#called("close")
  }

  state(): unknown {
    return { version: 1, config: Array.from(this.config) }
  }

  restore(state: unknown): void {
    this.#called("restore")
    const { config } = (state ?? {}) as { config?: number[] }
    if (config?.length !== this.config.length) throw new RestoreError("echo0: no config")
    this.config.set(config)
  }

  #called(what: string): void {
    this.calls.push(what)
    if (this.failAt === what) throw new Error(`a bug in ${what}`)
  }
}

function echo(chain: Chain): number {
  const bytes = new Uint8Array(chain.readableBytes)
  chain.copyOut(0, bytes)
  return chain.copyIn(0, bytes)
}
