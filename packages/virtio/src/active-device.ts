import {
  type DeviceContext,
  type ExternalQueue,
  type GuestMemory,
  type Queue,
  type VirtioDevice,
  VirtkitError,
} from "@virtkit/interface"

/** What a device asks of its transport, and what goes wrong in it. None of these may throw. */
export interface ActiveDeviceOwner {
  /** FAILED or DEVICE_NEEDS_RESET: nothing is run in the device any more. */
  isDead(): boolean
  needsReset(reason: string): void
  /** `active`: the driver is to be told. */
  updateConfig(update: () => void, active: boolean): void
  /** The device broke its contract. */
  onError(error: Error): void
}

/**
 * The calls of a device by its transport, and the context that it works in. Devices promise not to throw; if one does,
 * that ends the device, not the VM.
 */
export class ActiveDevice {
  readonly #device: VirtioDevice
  readonly #owner: ActiveDeviceOwner
  /** Of the present activation: `DeviceContext.queues`. */
  #queues: (Queue | undefined)[] = []
  /** Of the present activation: `DeviceContext.external`. */
  #external: (ExternalQueue | undefined)[] | undefined
  /** Changes at each activation and deactivation: what an older context asks for is dropped (bad-input #27). */
  #generation = 0
  #active = false
  /** Whether the device may hold anything that `reset` has to clear. */
  #touched = false

  constructor(device: VirtioDevice, owner: ActiveDeviceOwner) {
    this.#device = device
    this.#owner = owner
  }

  /** Between activation and reset. */
  get isActive(): boolean {
    return this.#active
  }

  get isTouched(): boolean {
    return this.#touched
  }

  /** `external`: of a device that has its queues worked on by others. */
  activate(
    memory: GuestMemory,
    features: bigint,
    queues: (Queue | undefined)[],
    external?: (ExternalQueue | undefined)[],
  ): void {
    this.#active = true
    this.#touched = true
    this.#generation++
    this.#queues = queues
    this.#external = external
    try {
      this.#device.activate({
        ...this.#context(memory, features),
        ...(external !== undefined && { external }),
      })
    } catch (error) {
      this.#fail("activate", error)
    }
  }

  /** From here on its context reaches nobody. */
  deactivate(): void {
    this.#active = false
    this.#generation++
  }

  notify(queueIndex: number): void {
    try {
      this.#device.notify(queueIndex)
    } catch (error) {
      this.#fail("notify", error)
    }
  }

  /** The promise, if there is one, never rejects. */
  writeConfig(offset: number, data: Uint8Array): void | Promise<void> {
    this.#touched = true
    try {
      const pending = this.#device.writeConfig?.(offset, data)
      return pending?.catch((error: unknown) => this.#fail("writeConfig", error))
    } catch (error) {
      return this.#fail("writeConfig", error)
    }
  }

  restore(state: unknown): void {
    this.#device.restore(state)
    this.#touched = true
  }

  /** The driver enabled a queue of the active device; `external`: others work on it. */
  addQueue(queueIndex: number, queue: Queue | undefined, external?: ExternalQueue): void {
    this.#queues[queueIndex] = queue
    if (this.#external !== undefined) this.#external[queueIndex] = external
  }

  /**
   * The driver reset a queue of the active device. Undefined when the device is done with it. Otherwise the promise, which
   * never rejects, tells when it is, and whether the device is still in the same activation.
   */
  resetQueue(queueIndex: number): Promise<boolean> | undefined {
    this.addQueue(queueIndex, undefined)
    try {
      const pending = this.#device.resetQueue?.(queueIndex)
      return pending === undefined ? undefined : this.#awaitQueue(pending)
    } catch (error) {
      this.#fail("resetQueue", error)
      return undefined
    }
  }

  /** Resolves, never rejects, when the device is quiet; to whether it is as after construction. */
  async reset(): Promise<boolean> {
    try {
      await this.#device.reset()
      this.#touched = false
    } catch (error) {
      this.#report("reset", error)
    }
    return !this.#touched
  }

  async #awaitQueue(pending: Promise<void>): Promise<boolean> {
    const generation = this.#generation
    try {
      await pending
    } catch (error) {
      // A reset of the whole device heals this too.
      if (this.#generation === generation) this.#fail("resetQueue", error)
    }
    return this.#generation === generation
  }

  #context(memory: GuestMemory, features: bigint): DeviceContext {
    const generation = this.#generation
    const isCurrent = (): boolean => this.#generation === generation && this.#active
    return {
      memory,
      features,
      queues: this.#queues,
      updateConfig: (update) => this.#owner.updateConfig(update, isCurrent()),
      needsReset: (reason) => {
        if (isCurrent()) this.#owner.needsReset(reason)
      },
      defer: (task) => {
        setImmediate(() => {
          if (isCurrent() && !this.#owner.isDead()) this.#runDeferred(task)
        })
      },
    }
  }

  #runDeferred(task: () => void): void {
    try {
      task()
    } catch (error) {
      this.#fail("a deferred task", error)
    }
  }

  #fail(what: string, error: unknown): void {
    this.#report(what, error)
    this.#owner.needsReset(`${this.#device.name} failed in ${what}`)
  }

  #report(what: string, cause: unknown): void {
    const message = `${this.#device.name} failed in ${what}: ${cause instanceof Error ? cause.message : cause}`
    this.#owner.onError(new VirtkitError("ERR_VIRTKIT_DEVICE", message, { cause }))
  }
}
