import type { VirtioDevice } from "@virtkit/interface"
import { ActiveDevice, VIRTIO_F_VERSION_1 } from "@virtkit/virtio"
import { VhostUserError } from "./error.js"
import type { FrontEndMemory } from "./guest-memory.js"
import type { InflightRegion } from "./inflight-region.js"
import { Ring } from "./ring.js"

/** What a runner tells its session. None of these may throw. */
export interface RunnerEvents {
  /** The set of queues that run has changed. */
  queuesChanged(running: readonly boolean[]): void
  /** So many requests of that queue, which an earlier process had taken and not finished, are carried out now. */
  resumed(queue: number, requests: number): void
  /** The driver broke a ring, or the device gave up: it does nothing more before it is reset. */
  needsReset(reason: string): void
  /** The bytes of the device's configuration space have changed under a driver. */
  configChanged(): void
  /** The device broke its contract. */
  error(error: Error): void
}

/**
 * Runs a device on the rings of a front end, which come and go one by one: the device is activated with the first of them and
 * stays so, until a driver comes that took other features.
 */
export class Runner {
  readonly device: VirtioDevice
  readonly rings: readonly Ring[]
  /** Negotiated features of device and rings. */
  features = 0n
  inflight: InflightRegion | undefined
  readonly #memory: FrontEndMemory
  readonly #events: RunnerEvents
  readonly #active: ActiveDevice
  /** Those that the device was activated with. */
  #activeFeatures = 0n
  #needsReset = false
  #ended = false

  constructor(device: VirtioDevice, memory: FrontEndMemory, events: RunnerEvents) {
    this.device = device
    this.rings = device.queueMaxSizes.map((_, index) => new Ring(index))
    this.#memory = memory
    this.#events = events
    this.#active = new ActiveDevice(device, {
      isDead: () => this.#needsReset,
      needsReset: (reason) => this.#giveUp(reason),
      updateConfig: (update, active) => {
        update()
        if (active) events.configChanged()
      },
      onError: (error) => events.error(error),
    })
  }

  get isRunning(): boolean {
    return this.rings.some(({ running }) => running !== undefined)
  }

  get needsReset(): boolean {
    return this.#needsReset
  }

  writeConfig(offset: number, data: Uint8Array): void {
    this.#active.writeConfig(offset, data)
  }

  /** The front end made buffers available in that queue. */
  kicked(index: number): void {
    const running = this.rings[index]?.running
    if (running === undefined || running.broken || this.#needsReset) return
    running.inner.counters.notifications++
    this.#active.notify(index)
  }

  /** Runs or stops a ring, as the front end wants it now. Rejects with {@link VhostUserError} if it cannot run. */
  async update(ring: Ring): Promise<void> {
    if (!ring.isReady) await this.stop(ring)
    else if (ring.running === undefined) await this.#run(ring)
  }

  /** Resolves when neither ring nor device has anything of it in hand; where to go on is in `ring.base`. */
  async stop(ring: Ring): Promise<void> {
    if (ring.running === undefined) return
    // A device that cannot let go of one queue lets go of all.
    const all = this.device.resetQueue === undefined
    const stopped = all ? this.rings.filter(({ running }) => running !== undefined) : [ring]
    for (const one of stopped) {
      await one.stop()
      if (this.#ended) return
      await this.#active.resetQueue(one.index)
      if (this.#ended) return
    }
    if (all) await this.#resetDevice()
    this.#queuesChanged()
    for (const other of stopped) if (other !== ring) await this.update(other)
  }

  /** Stops the rings that run, changes what is under them, and has them go on. */
  async paused(change: () => void): Promise<void> {
    const running = this.rings.filter((ring) => ring.running !== undefined)
    for (const ring of running) await this.stop(ring)
    // Nobody would ever let go of what is changed now.
    if (this.#ended) return
    change()
    for (const ring of running) await this.update(ring)
  }

  /** The device is as at the start; no ring runs. */
  async reset(): Promise<void> {
    for (const ring of this.rings) {
      ring.enabled = false
      await this.stop(ring)
    }
    await this.#resetDevice()
    this.#needsReset = false
  }

  /** Lets go of rings and device without waiting for what is in flight, which stays written down. */
  async end(): Promise<void> {
    this.#ended = true
    for (const ring of this.rings) ring.reset()
    await this.#resetDevice()
    this.inflight?.close()
    this.#queuesChanged()
  }

  async #run(ring: Ring): Promise<void> {
    const { index } = ring
    const { features } = this
    if ((features & VIRTIO_F_VERSION_1) === 0n) {
      throw new VhostUserError(`queue ${index} was started without VIRTIO_F_VERSION_1`)
    }
    const first = !this.isRunning
    const queue = ring.run({
      memory: this.#memory,
      features,
      inflight: this.inflight,
      onBroken: (reason) => {
        ring.err?.signal()
        this.#giveUp(`queue ${index}: ${reason}`)
      },
    })
    if (queue.resumed > 0) this.#events.resumed(index, queue.resumed)
    queue.enableNotification()
    if (this.#active.isActive && this.#activeFeatures === features && !(first && this.#needsReset)) {
      this.#active.addQueue(index, queue)
    } else {
      // A driver that took other features is another driver: nothing that the last one set applies to it.
      await this.#resetDevice()
      if (this.#ended) return
      this.#activeFeatures = features
      this.#needsReset = false
      this.#active.activate(
        this.#memory,
        features,
        this.rings.map(({ running }) => running),
      )
    }
    this.#queuesChanged()
    // What became available before, and an interrupt that a killed process was about to send.
    this.kicked(index)
    ring.interrupt()
  }

  async #resetDevice(): Promise<void> {
    this.#active.deactivate()
    if (this.#active.isTouched) await this.#active.reset()
  }

  #queuesChanged(): void {
    this.#events.queuesChanged(this.rings.map(({ running }) => running !== undefined))
  }

  #giveUp(reason: string): void {
    if (this.#needsReset) return
    this.#needsReset = true
    this.#events.needsReset(reason)
  }
}
