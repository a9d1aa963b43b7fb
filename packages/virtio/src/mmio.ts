import {
  type AcceleratedBusDevice,
  type AccessSize,
  ConfigError,
  type Doorbell,
  type GuestMemory,
  type Interrupt,
  type RegisterPage,
  RestoreError,
  type Stateful,
  type VirtioDevice,
} from "@virtkit/interface"
import type { DeviceQueue } from "@virtkit/virtqueue"
import * as reg from "./constants.js"
import { type RingOffers, ringOffers } from "./features.js"
import { RegisterFile } from "./registers.js"
import { isUint32, type TransportState } from "./state.js"
import { TransportCore, type TransportEvents } from "./transport-core.js"

export interface VirtioMmioOptions extends RingOffers {
  readonly device: VirtioDevice
  readonly memory: GuestMemory
  /** Raised for used buffers and configuration changes; edge-triggered. */
  readonly interrupt: Interrupt
  /**
   * Offer VIRTIO_F_NOTIFICATION_DATA. Default false: the kernel cannot match doorbells by such values, so that each
   * notification is an exit.
   */
  readonly notificationData?: boolean
  /** The device broke its contract (it threw, or its reset rejected): a bug of the host. Must not throw. */
  readonly onError?: (error: Error) => void
  /** DEVICE_NEEDS_RESET was set, mostly because the driver broke the rules. Must not throw. */
  readonly onNeedsReset?: (reason: string) => void
}

/** VIRTIO_F_NOTIFICATION_DATA as the number of its bit. */
const NOTIFICATION_DATA = 38

/** Saved state of the transport and all that is behind it. */
export interface VirtioMmioState {
  readonly version: 1
  readonly kind: "mmio"
  readonly queueSelect: number
  readonly deviceFeaturesSelect: number
  readonly driverFeaturesSelect: number
  readonly interruptStatus: number
  readonly transport: TransportState
}

/**
 * Virtio over MMIO, version 2 (virtio 1.3, section 4.2), around any virtio device. The legacy interface is not there.
 *
 * Control registers are 32 bits wide and written as such; other writes to them are lost. Registers that are write-only
 * or do not exist read as 0.
 */
export class VirtioMmio implements AcceleratedBusDevice, Stateful {
  readonly name: string
  readonly device: VirtioDevice
  readonly doorbells: readonly Doorbell[]
  readonly #core: TransportCore
  readonly #interrupt: Interrupt
  readonly #registers = new RegisterFile()
  #queueSelect = 0
  #deviceFeaturesSelect = 0
  #driverFeaturesSelect = 0

  /** Throws {@link ConfigError} for a device that does not fit this transport. */
  constructor(options: VirtioMmioOptions) {
    const { device } = options
    if (device.config.length > reg.MAX_CONFIG_BYTES) {
      throw new ConfigError(
        `${device.name}: a configuration space of more than ${reg.MAX_CONFIG_BYTES} bytes`,
      )
    }
    this.name = device.name
    this.device = device
    this.#interrupt = options.interrupt
    this.#core = new TransportCore({
      device,
      memory: options.memory,
      features: ringOffers(options) | (options.notificationData ? reg.VIRTIO_F_NOTIFICATION_DATA : 0n),
      events: this.#events(),
      onError: options.onError,
      onNeedsReset: options.onNeedsReset,
    })
    this.doorbells = device.queueMaxSizes.map((_, index) => ({
      offset: reg.VIRTIO_MMIO_QUEUE_NOTIFY,
      length: 4,
      datamatch: index,
      ...doorbellFd(device, index),
      ring: () => this.#core.notify(index),
    }))
    this.#setConstants()
    this.#refresh()
  }

  /** The device status as the driver reads it. */
  get status(): number {
    return this.#core.status
  }

  /** Why DEVICE_NEEDS_RESET was set since the last reset. */
  get needsResetReason(): string | undefined {
    return this.#core.needsResetReason
  }

  /** By index, the queues that the driver enabled; for statistics. */
  get queues(): readonly (DeviceQueue | undefined)[] {
    return this.#core.queues
  }

  setRegisterPage(page: RegisterPage | undefined): void {
    this.#registers.attach(page)
  }

  read(offset: number, size: AccessSize): number {
    return this.#registers.read(offset, size)
  }

  write(offset: number, size: AccessSize, value: number): void | Promise<void> {
    if (offset >= reg.VIRTIO_MMIO_CONFIG) {
      return this.#core.writeConfig(offset - reg.VIRTIO_MMIO_CONFIG, size, value)
    }
    if (size !== 4) return undefined
    if (offset === reg.VIRTIO_MMIO_STATUS) return this.#core.writeStatus(value)
    if (offset === reg.VIRTIO_MMIO_QUEUE_RESET) {
      return value === 1 ? this.#core.resetQueue(this.#queueSelect) : undefined
    }
    this.#writeControl(offset, value)
    return undefined
  }

  state(): VirtioMmioState {
    return {
      version: 1,
      kind: "mmio",
      queueSelect: this.#queueSelect,
      deviceFeaturesSelect: this.#deviceFeaturesSelect,
      driverFeaturesSelect: this.#driverFeaturesSelect,
      interruptStatus: this.#registers.get(reg.VIRTIO_MMIO_INTERRUPT_STATUS),
      transport: this.#core.state(),
    }
  }

  restore(state: unknown): void {
    const saved = parseMmioState(this.name, state)
    this.#core.restore(saved.transport)
    this.#queueSelect = saved.queueSelect
    this.#deviceFeaturesSelect = saved.deviceFeaturesSelect
    this.#driverFeaturesSelect = saved.driverFeaturesSelect
    // The device may have raised one already, while it was activated.
    this.#setInterruptStatus(this.#interruptStatus | saved.interruptStatus)
    this.#refresh()
  }

  /** Closes the device. Idempotent. */
  close(): Promise<void> {
    return this.#core.close()
  }

  #writeControl(offset: number, value: number): void {
    const core = this.#core
    switch (offset) {
      case reg.VIRTIO_MMIO_QUEUE_NOTIFY:
        if (core.features.driverHas(NOTIFICATION_DATA)) core.notify(value & reg.VIRTIO_MMIO_NOTIFY_QUEUE)
        else core.notify(value)
        break
      case reg.VIRTIO_MMIO_INTERRUPT_ACK:
        this.#setInterruptStatus(this.#interruptStatus & ~value)
        break
      case reg.VIRTIO_MMIO_DEVICE_FEATURES_SEL:
        this.#deviceFeaturesSelect = value
        this.#refresh()
        break
      case reg.VIRTIO_MMIO_DRIVER_FEATURES_SEL:
        this.#driverFeaturesSelect = value
        break
      case reg.VIRTIO_MMIO_DRIVER_FEATURES:
        core.writeDriverFeatures(this.#driverFeaturesSelect, value)
        break
      case reg.VIRTIO_MMIO_QUEUE_SEL:
        this.#queueSelect = value
        this.#refresh()
        break
      case reg.VIRTIO_MMIO_QUEUE_READY:
        if (value === 1) core.enableQueue(this.#queueSelect)
        else if (value === 0) core.disableQueue(this.#queueSelect)
        this.#refresh()
        break
      default:
        this.#writeQueue(offset, value)
    }
  }

  /** Registers of the selected queue. There is none to write to when they are frozen (bad-input #1, #3). */
  #writeQueue(offset: number, value: number): void {
    const queue = this.#core.writableQueue(this.#queueSelect)
    if (queue === undefined) return
    switch (offset) {
      case reg.VIRTIO_MMIO_QUEUE_SIZE:
        queue.size = value
        break
      case reg.VIRTIO_MMIO_QUEUE_DESC_LOW:
        queue.setAddressHalf("desc", 0, value)
        break
      case reg.VIRTIO_MMIO_QUEUE_DESC_HIGH:
        queue.setAddressHalf("desc", 1, value)
        break
      case reg.VIRTIO_MMIO_QUEUE_DRIVER_LOW:
        queue.setAddressHalf("avail", 0, value)
        break
      case reg.VIRTIO_MMIO_QUEUE_DRIVER_HIGH:
        queue.setAddressHalf("avail", 1, value)
        break
      case reg.VIRTIO_MMIO_QUEUE_DEVICE_LOW:
        queue.setAddressHalf("used", 0, value)
        break
      case reg.VIRTIO_MMIO_QUEUE_DEVICE_HIGH:
        queue.setAddressHalf("used", 1, value)
        break
    }
  }

  #setConstants(): void {
    const registers = this.#registers
    registers.set(reg.VIRTIO_MMIO_MAGIC_VALUE, reg.VIRTIO_MMIO_MAGIC)
    registers.set(reg.VIRTIO_MMIO_VERSION, 2)
    registers.set(reg.VIRTIO_MMIO_DEVICE_ID, this.#core.device.deviceType)
    registers.set(reg.VIRTIO_MMIO_VENDOR_ID, reg.VIRTIO_MMIO_VENDOR)
    // There are no shared memory regions, whichever is selected: length -1 says so.
    registers.set(reg.VIRTIO_MMIO_SHM_LEN_LOW, 0xffff_ffff)
    registers.set(reg.VIRTIO_MMIO_SHM_LEN_HIGH, 0xffff_ffff)
    registers.set(reg.VIRTIO_MMIO_SHM_BASE_LOW, 0xffff_ffff)
    registers.set(reg.VIRTIO_MMIO_SHM_BASE_HIGH, 0xffff_ffff)
  }

  /** Brings every register that can change up to date, but for InterruptStatus. */
  #refresh(): void {
    const core = this.#core
    const registers = this.#registers
    const queue = core.queueConfig(this.#queueSelect)
    registers.set(reg.VIRTIO_MMIO_STATUS, core.status)
    registers.set(reg.VIRTIO_MMIO_DEVICE_FEATURES, core.features.offeredWord(this.#deviceFeaturesSelect))
    registers.set(reg.VIRTIO_MMIO_QUEUE_SIZE_MAX, queue?.maxSize ?? 0)
    registers.set(reg.VIRTIO_MMIO_QUEUE_READY, queue?.ready ? 1 : 0)
    registers.set(reg.VIRTIO_MMIO_QUEUE_RESET, queue?.resetting === undefined ? 0 : 1)
    registers.set(reg.VIRTIO_MMIO_CONFIG_GENERATION, core.configGeneration)
    if (!registers.hasConfig(core.device.config)) registers.setConfig(core.device.config)
  }

  get #interruptStatus(): number {
    return this.#registers.get(reg.VIRTIO_MMIO_INTERRUPT_STATUS)
  }

  #setInterruptStatus(value: number): void {
    this.#registers.set(reg.VIRTIO_MMIO_INTERRUPT_STATUS, value)
  }

  /** The cause must be there to read when the interrupt arrives. */
  #raise(cause: number): void {
    this.#setInterruptStatus(this.#interruptStatus | cause)
    this.#interrupt.signal()
  }

  #events(): TransportEvents {
    return {
      queueInterrupt: () => this.#raise(reg.VIRTIO_INTERRUPT_QUEUE),
      configInterrupt: () => this.#raise(reg.VIRTIO_INTERRUPT_CONFIG),
      registersChanged: () => this.#refresh(),
      resetDone: () => {
        this.#setInterruptStatus(0)
        this.#queueSelect = 0
        this.#deviceFeaturesSelect = 0
        this.#driverFeaturesSelect = 0
      },
      queueResetDone: () => {},
      beginConfigUpdate: () => this.#registers.hide(),
      endConfigUpdate: () => {
        this.#refresh()
        this.#registers.show()
      },
    }
  }
}

function doorbellFd({ external }: VirtioDevice, index: number): { fd?: number } {
  const fd = external?.kicks[index]
  return fd === undefined ? {} : { fd }
}

function parseMmioState(name: string, state: unknown): VirtioMmioState {
  const saved = (state ?? {}) as Partial<VirtioMmioState>
  if (saved.version !== 1 || saved.kind !== "mmio") {
    throw new RestoreError(`${name}: not a version 1 state of virtio-mmio`)
  }
  const numbers = [saved.queueSelect, saved.deviceFeaturesSelect, saved.driverFeaturesSelect]
  if (!numbers.every(isUint32)) throw new RestoreError(`${name}: a selector is not a 32-bit number`)
  const causes = reg.VIRTIO_INTERRUPT_QUEUE | reg.VIRTIO_INTERRUPT_CONFIG
  if (!isUint32(saved.interruptStatus) || saved.interruptStatus > causes) {
    throw new RestoreError(`${name}: impossible interrupt status`)
  }
  return saved as VirtioMmioState
}
