import { ConfigError, type GuestMemory, RestoreError, type VirtioDevice } from "@virtkit/interface"
import { createQueue, type DeviceQueue, isQueueSize, ringFeatures } from "@virtkit/virtqueue"
import { QueueConfig } from "./queue-config.js"
import type { QueueConfigState } from "./state.js"

/** Whom the queues tell; both as in `QueueOptions` of @virtkit/virtqueue. */
export interface QueueSetEvents {
  queueInterrupt(index: number): void
  queueBroken(reason: string): void
}

/** The queues of a device: the registers of all of them, and the rings of those that the driver enabled. */
export class QueueSet {
  readonly #configs: readonly QueueConfig[]
  readonly #memory: () => GuestMemory
  readonly #events: QueueSetEvents

  /** `memory` is asked when a queue is enabled. Throws {@link ConfigError} for sizes that a queue cannot have. */
  constructor(device: VirtioDevice, memory: () => GuestMemory, events: QueueSetEvents) {
    for (const size of device.queueMaxSizes) {
      if (!isQueueSize(size)) throw new ConfigError(`${device.name}: ${size} is not a queue size`)
    }
    this.#configs = device.queueMaxSizes.map((size, index) => new QueueConfig(index, size))
    this.#memory = memory
    this.#events = events
  }

  get count(): number {
    return this.#configs.length
  }

  /** The registers of a queue, or undefined where there is none (bad-input #3). */
  get(index: number): QueueConfig | undefined {
    return this.#configs[index]
  }

  /** By index, the queues that the driver enabled. */
  get enabled(): (DeviceQueue | undefined)[] {
    return this.#configs.map((config) => config.queue)
  }

  /** Makes a ring of what the registers say; returns what is wrong with them, if anything. */
  enable(config: QueueConfig, features: bigint): string | undefined {
    const made = this.#make(config, features)
    if (typeof made === "string") return made
    config.queue = made
    return undefined
  }

  /** Asks for notifications on every queue that `isOurs`; returns those where chains wait already. */
  enableNotifications(isOurs: (index: number) => boolean): number[] {
    const ours = this.#configs.filter(({ index }) => isOurs(index))
    const waiting = ours.filter((config) => config.queue?.enableNotification())
    return waiting.map((config) => config.index)
  }

  /** What has to be waited for until no single queue is being reset. */
  get resets(): Promise<void>[] {
    return this.#configs.flatMap((config) => config.resetting ?? [])
  }

  /** From here on no queue reaches the guest. */
  disable(): void {
    for (const config of this.#configs) config.disable()
  }

  reset(): void {
    for (const config of this.#configs) config.reset()
  }

  state(): QueueConfigState[] {
    return this.#configs.map((config) => ({
      size: config.size,
      addressHalves: config.addressHalves,
      ring: config.queue?.state() ?? null,
    }))
  }

  /** Throws {@link RestoreError}, after which {@link reset} is due. `states` has as many entries as there are queues. */
  restore(states: readonly QueueConfigState[], features: bigint): void {
    for (const [index, state] of states.entries()) {
      const config = this.#configs[index]!
      config.size = state.size
      config.addressHalves = state.addressHalves
      if (state.ring === null) continue
      const made = this.#make(config, features)
      if (typeof made === "string") throw new RestoreError(made)
      made.restore(state.ring)
      config.queue = made
    }
  }

  #make(config: QueueConfig, features: bigint): DeviceQueue | string {
    const { index, size, maxSize } = config
    if (size > maxSize) return `queue ${index}: size ${size} is above the maximum, ${maxSize}`
    const made = createQueue({
      index,
      size,
      desc: config.address("desc"),
      avail: config.address("avail"),
      used: config.address("used"),
      memory: this.#memory(),
      ...ringFeatures(features),
      onInterrupt: () => this.#events.queueInterrupt(index),
      onBroken: (reason) => this.#events.queueBroken(`queue ${index}: ${reason}`),
    })
    return made.queue ?? made.reason
  }
}
