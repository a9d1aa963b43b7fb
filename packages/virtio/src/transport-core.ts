import {
  type AccessSize,
  type ExternalQueue,
  type ExternalQueues,
  type GuestMemory,
  StateError,
  type VirtioDevice,
} from "@virtkit/interface"
import type { DeviceQueue } from "@virtkit/virtqueue"
import { ActiveDevice } from "./active-device.js"
import { VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_F_RING_RESET } from "./constants.js"
import { DeviceStatus } from "./device-status.js"
import { FeatureNegotiation } from "./features.js"
import type { QueueConfig } from "./queue-config.js"
import { QueueSet } from "./queue-set.js"
import { parseTransportState, type TransportState } from "./state.js"

/** How a transport tells the driver, and keeps its registers current. None of these may throw. */
export interface TransportEvents {
  /** Used buffer notification of that queue. */
  queueInterrupt(index: number): void
  /**
   * Of a device with `external`: whenever the eventfd is signalled a `queueInterrupt` of that queue is due, which the kernel may
   * see to, as `ExternalQueue.connect` says; until that queue is disconnected. Absent: it never can.
   */
  connectQueue?(index: number, fd: number, changed: (direct: boolean) => void): void
  /** The device is being reset: signals of those eventfds must not reach the guest any more. */
  disconnectQueues?(): void
  /** Configuration change notification. */
  configInterrupt(): void
  /** Status, queues, configuration bytes or generation may have changed by something else than a register write. */
  registersChanged(): void
  /** The device was reset: selectors and interrupt causes of before are gone. `registersChanged` follows. */
  resetDone(): void
  /** The registers of that queue are as at the start again. `registersChanged` follows. */
  queueResetDone(index: number): void
  /** Around a change of the device configuration space: between the two no guest may read it. */
  beginConfigUpdate(): void
  endConfigUpdate(): void
}

export interface TransportCoreOptions {
  readonly device: VirtioDevice
  /** Asked for when a queue is enabled and when the device is activated, not before. */
  readonly memory: GuestMemory
  /** Feature bits that the transport offers by itself, those of `ringOffers` with them. Default: none. */
  readonly features?: bigint
  readonly events: TransportEvents
  /** The device broke its contract: it threw, or could not be reset. Must not throw. */
  readonly onError?: ((error: Error) => void) | undefined
  /** DEVICE_NEEDS_RESET was set, by a device, or by a queue that the driver broke. Must not throw. */
  readonly onNeedsReset?: ((reason: string) => void) | undefined
}

/**
 * What all virtio transports have in common: status, features, queues, activation, reset and saved state around one
 * {@link VirtioDevice}. A transport translates its registers into calls of this.
 */
export class TransportCore {
  readonly device: VirtioDevice
  readonly features: FeatureNegotiation
  /** Changes with every change of the device configuration space (2.5.1). 32 bits. */
  configGeneration = 0
  readonly #status = new DeviceStatus()
  readonly #events: TransportEvents
  readonly #options: TransportCoreOptions
  readonly #queues: QueueSet
  readonly #active: ActiveDevice
  /** Scratch for configuration writes, by size: no allocation per write. */
  readonly #configData: readonly Uint8Array[] = [0, 1, 2, 3, 4].map((size) => new Uint8Array(size))
  #resetting: Promise<void> | undefined
  #closed = false
  #needsResetReason: string | undefined

  /** Throws `ConfigError` for a device that cannot be. */
  constructor(options: TransportCoreOptions) {
    const { device } = options
    this.device = device
    this.features = new FeatureNegotiation(device, options.features)
    this.#events = options.events
    this.#options = options
    this.#queues = new QueueSet(device, () => options.memory, {
      queueInterrupt: (index) => options.events.queueInterrupt(index),
      queueBroken: (reason) => this.#needsReset(reason),
    })
    this.#active = new ActiveDevice(device, {
      isDead: () => this.#status.isDead,
      needsReset: (reason) => this.#needsReset(reason),
      updateConfig: (update, active) => this.#updateConfig(update, active),
      onError: (error) => options.onError?.(error),
    })
  }

  /** The device status as the driver reads it. It stays as it was until a reset is complete. */
  get status(): number {
    return this.#status.bits
  }

  /** Why DEVICE_NEEDS_RESET was set since the last reset. */
  get needsResetReason(): string | undefined {
    return this.#needsResetReason
  }

  /** The registers of a queue, or undefined where there is none. */
  queueConfig(index: number): QueueConfig | undefined {
    return this.#queues.get(index)
  }

  /** The registers of a queue while the driver may change them, else undefined: the write is lost. */
  writableQueue(index: number): QueueConfig | undefined {
    if (this.#isStopped || !(this.#status.inQueueSetup || this.#mayEnableLate)) return undefined
    const config = this.#queues.get(index)
    return config === undefined || config.ready || config.resetting !== undefined ? undefined : config
  }

  /** By index, the queues that the driver enabled. */
  get queues(): readonly (DeviceQueue | undefined)[] {
    return this.#queues.enabled
  }

  /** Features may be written between DRIVER and FEATURES_OK only (bad-input #2). */
  writeDriverFeatures(select: number, value: number): void {
    if (this.#status.inNegotiation && !this.#isStopped) this.features.setDriverWord(select, value)
  }

  /** A write to the status register. The promise of a reset settles, never rejects, when the reset is complete. */
  writeStatus(value: number): void | Promise<void> {
    if (this.#closed) return undefined
    // Another vCPU goes on while one resets: it waits for the same reset, or is not heard (bad-input #34).
    if (this.#resetting !== undefined) return value === 0 ? this.#resetting : undefined
    const action = this.#status.write(value, () => this.features.isAcceptable)
    if (action === "reset") return this.#reset()
    if (action === "activate") this.#activate()
    this.#events.registersChanged()
    return undefined
  }

  /** The driver enables (4.2.2 QueueReady) a queue whose registers it wrote. What is wrong with them shows here. */
  enableQueue(index: number): void {
    const config = this.writableQueue(index)
    if (config === undefined) return
    const wrong = this.#queues.enable(config, this.features.driver)
    if (wrong !== undefined) this.#needsReset(wrong)
    else if (this.#active.isActive) this.#startQueue(config)
  }

  /**
   * The driver resets one queue (2.6.1); lost unless VIRTIO_F_RING_RESET was negotiated and the queue is enabled. The
   * promise settles, never rejects, when the reset is complete; `QueueConfig.resetting` is set until then.
   */
  resetQueue(index: number): void | Promise<void> {
    const config = this.#queues.get(index)
    if (config === undefined || this.#isStopped || !this.#has(VIRTIO_F_RING_RESET)) return undefined
    // Another vCPU goes on meanwhile: it waits for the same reset (bad-input #34).
    if (config.resetting !== undefined) return config.resetting
    if (!config.ready) return undefined
    config.disable()
    const pending = this.#active.isActive ? this.#active.resetQueue(index) : undefined
    if (pending === undefined) {
      this.#finishQueueReset(config)
      return undefined
    }
    config.resetting = pending.then((current) => {
      config.resetting = undefined
      // A reset of the whole device that has begun meanwhile puts this queue back too.
      if (current) this.#finishQueueReset(config)
    })
    this.#events.registersChanged()
    return config.resetting
  }

  /** Before DRIVER_OK only; later it needs VIRTIO_F_RING_RESET or a reset of the device, and is ignored. */
  disableQueue(index: number): void {
    if (this.#status.inQueueSetup && !this.#isStopped) this.#queues.get(index)?.disable()
  }

  /** An available buffer notification; ignored unless that queue is in use (bad-input #4). */
  notify(index: number): void {
    if (!this.#active.isActive || this.#status.isDead) return
    const queue = this.#queues.get(index)?.queue
    if (queue === undefined || queue.broken) return
    queue.counters.notifications++
    this.#active.notify(index)
  }

  /** A write to the device configuration space; dropped unless all of it lies within (bad-input #5). */
  writeConfig(offset: number, size: AccessSize, value: number): void | Promise<void> {
    const data = this.#configData[size]
    if (data === undefined) return undefined
    if (this.#isStopped || offset < 0 || offset + data.length > this.device.config.length) return undefined
    for (let byte = 0; byte < size; byte++) data[byte] = value >>> (8 * byte)
    const pending = this.#active.writeConfig(offset, data)
    if (pending !== undefined) return pending.then(() => this.#events.registersChanged())
    this.#events.registersChanged()
    return undefined
  }

  /** Throws {@link StateError} during a reset. */
  state(): TransportState {
    if (this.#resetting !== undefined || this.#queues.resets.length > 0) {
      throw new StateError(`${this.device.name} is being reset`)
    }
    return {
      version: 1,
      deviceType: this.device.deviceType,
      status: this.#status.bits,
      driverFeatures: this.features.driver,
      configGeneration: this.configGeneration,
      queues: this.#queues.state(),
      device: this.device.state(),
    }
  }

  /**
   * Takes a state back, before the driver did anything: restores the device, then activates it if the driver had.
   * Chains that were in flight are popped again. Throws `RestoreError` and changes nothing if the state is wrong.
   */
  restore(state: unknown): void {
    if (this.#status.bits !== 0 || this.#isStopped) {
      throw new StateError(`${this.device.name} can be restored only before it is used`)
    }
    const saved = parseTransportState(state, {
      name: this.device.name,
      deviceType: this.device.deviceType,
      queueCount: this.#queues.count,
      isOffered: (features) => this.features.isOffered(features),
    })
    this.features.driver = saved.driverFeatures
    try {
      this.#queues.restore(saved.queues, saved.driverFeatures)
      this.#active.restore(saved.device)
    } catch (error) {
      this.#queues.reset()
      this.features.driver = 0n
      throw error
    }
    this.configGeneration = saved.configGeneration
    this.#status.restore(saved.status)
    if (this.#status.has(VIRTIO_CONFIG_S_DRIVER_OK) && !this.#status.isDead) this.#activate()
    this.#events.registersChanged()
  }

  /** Lets go of the queues and closes the device. Idempotent; register writes after it do nothing. */
  async close(): Promise<void> {
    this.#closed = true
    this.#deactivate()
    await Promise.all(this.#queues.resets)
    await this.device.close()
  }

  /** Neither register writes nor notifications are heard. */
  get #isStopped(): boolean {
    return this.#closed || this.#resetting !== undefined
  }

  /** With VIRTIO_F_RING_RESET a queue can be enabled at any time. */
  get #mayEnableLate(): boolean {
    return this.#active.isActive && !this.#status.isDead && this.#has(VIRTIO_F_RING_RESET)
  }

  #has(feature: bigint): boolean {
    return (this.features.driver & feature) !== 0n
  }

  #activate(): void {
    const { external } = this.device
    // The driver may offer buffers before DRIVER_OK, and notifies of none of them.
    const waiting = this.#queues.enableNotifications((index) => external?.kicks[index] === undefined)
    const handedOver = external && this.#externalQueues(external)
    this.#active.activate(this.#options.memory, this.features.driver, this.#queues.enabled, handedOver)
    for (const index of waiting) this.notify(index)
  }

  /** Those that the driver enabled and others work on. They reach the guest until the next deactivation. */
  #externalQueues(external: ExternalQueues): (ExternalQueue | undefined)[] {
    return this.#queues.enabled.map((_, index) => this.#externalQueue(external, index))
  }

  #externalQueue({ kicks }: ExternalQueues, index: number): ExternalQueue | undefined {
    const events = this.#events
    const config = this.#queues.get(index)!
    const { queue } = config
    if (queue === undefined || kicks[index] === undefined) return undefined
    // Nobody uses it, but as long as it is open the queue is the one that was handed over.
    const isCurrent = () => config.queue === queue
    return {
      size: queue.size,
      desc: config.address("desc"),
      avail: config.address("avail"),
      used: config.address("used"),
      interrupt: () => {
        if (isCurrent() && !this.#status.isDead) events.queueInterrupt(index)
      },
      connect: (fd, changed) => {
        if (isCurrent()) events.connectQueue?.(index, fd, changed)
      },
    }
  }

  /** The driver enabled a queue of an active device; there may be chains in it already. */
  #startQueue(config: QueueConfig): void {
    const { index, queue } = config
    const { external } = this.device
    const handedOver = external && this.#externalQueue(external, index)
    this.#active.addQueue(index, queue, handedOver)
    // Whoever works on the ring does that.
    if (handedOver === undefined) queue?.enableNotification()
    this.notify(index)
  }

  #finishQueueReset(config: QueueConfig): void {
    config.reset()
    this.#events.queueResetDone(config.index)
    this.#events.registersChanged()
  }

  /** From here on neither the device's queues nor its context reach the guest. */
  #deactivate(): void {
    if (this.device.external !== undefined) this.#events.disconnectQueues?.()
    this.#active.deactivate()
    this.#queues.disable()
  }

  #reset(): void | Promise<void> {
    this.#deactivate()
    if (!this.#active.isTouched) {
      this.#finishReset(false)
      return undefined
    }
    this.#resetting = this.#resetDevice()
    return this.#resetting
  }

  async #resetDevice(): Promise<void> {
    await Promise.all(this.#queues.resets)
    const clean = await this.#active.reset()
    this.#resetting = undefined
    this.#finishReset(!clean)
  }

  #finishReset(failed: boolean): void {
    this.#queues.reset()
    this.features.driver = 0n
    this.#status.clear(failed)
    this.#needsResetReason = undefined
    this.#events.resetDone()
    this.#events.registersChanged()
  }

  #updateConfig(update: () => void, interrupt: boolean): void {
    this.#events.beginConfigUpdate()
    try {
      update()
    } finally {
      this.configGeneration = (this.configGeneration + 1) >>> 0
      this.#events.endConfigUpdate()
    }
    if (interrupt) this.#events.configInterrupt()
  }

  /** 2.1.2: sets the bit and, once the driver said DRIVER_OK, tells it. */
  #needsReset(reason: string): void {
    if (!this.#status.setNeedsReset()) return
    this.#needsResetReason = reason
    this.#events.registersChanged()
    if (this.#status.has(VIRTIO_CONFIG_S_DRIVER_OK)) this.#events.configInterrupt()
    this.#options.onNeedsReset?.(reason)
  }
}
