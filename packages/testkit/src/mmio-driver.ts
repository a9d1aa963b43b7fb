import type { BusDevice } from "@virtkit/interface"
import { INTERRUPT, MMIO, MMIO_MAGIC } from "./spec.js"
import type { RingAddresses } from "./transport-driver.js"
import { VirtioDriver, type VirtioDriverOptions } from "./virtio-driver.js"

export interface MmioDriverOptions extends VirtioDriverOptions {
  /** The transport, as the bus sees it. */
  readonly device: BusDevice
}

/** The driver side of virtio over MMIO (virtio 1.3, section 4.2), through the register interface alone. */
export class MmioDriver extends VirtioDriver {
  readonly #device: BusDevice

  constructor(options: MmioDriverOptions) {
    super(options)
    this.#device = options.device
  }

  read32(register: number): number {
    return this.#device.read(register, 4)
  }

  write32(register: number, value: number): void | Promise<void> {
    return this.#device.write(register, 4, value >>> 0)
  }

  write64(lowRegister: number, value: number): void {
    void this.write32(lowRegister, value >>> 0)
    void this.write32(lowRegister + 4, Math.floor(value / 2 ** 32))
  }

  get status(): number {
    return this.read32(MMIO.STATUS)
  }

  writeStatus(value: number): void | Promise<void> {
    return this.write32(MMIO.STATUS, value)
  }

  /** 3.1.1 steps 1 to 3. Throws when there is no device. */
  override async begin(): Promise<void> {
    if (this.read32(MMIO.MAGIC_VALUE) !== MMIO_MAGIC) throw new Error("no virtio magic value")
    if (this.read32(MMIO.VERSION) !== 2) throw new Error("not a version 2 device")
    if (this.read32(MMIO.DEVICE_ID) === 0) throw new Error("no device behind the transport")
    await super.begin()
  }

  protected readDeviceFeatures(word: number): number {
    void this.write32(MMIO.DEVICE_FEATURES_SEL, word)
    return this.read32(MMIO.DEVICE_FEATURES)
  }

  protected writeDriverFeatures(word: number, value: number): void {
    void this.write32(MMIO.DRIVER_FEATURES_SEL, word)
    void this.write32(MMIO.DRIVER_FEATURES, value)
  }

  queueSizeMax(index: number): number {
    return this.#readQueue(index, MMIO.QUEUE_SIZE_MAX)
  }

  queueReady(index: number): boolean {
    return this.#readQueue(index, MMIO.QUEUE_READY) === 1
  }

  /** 4.2.3.2, with any values. */
  writeQueue(index: number, size: number, at: RingAddresses): void {
    void this.write32(MMIO.QUEUE_SEL, index)
    void this.write32(MMIO.QUEUE_SIZE, size)
    this.write64(MMIO.QUEUE_DESC_LOW, at.desc)
    this.write64(MMIO.QUEUE_DRIVER_LOW, at.avail)
    this.write64(MMIO.QUEUE_DEVICE_LOW, at.used)
    void this.write32(MMIO.QUEUE_READY, 1)
  }

  queueResetting(index: number): boolean {
    return this.#readQueue(index, MMIO.QUEUE_RESET) === 1
  }

  writeQueueReset(index: number): void | Promise<void> {
    void this.write32(MMIO.QUEUE_SEL, index)
    return this.write32(MMIO.QUEUE_RESET, 1)
  }

  notify(index: number): void {
    void this.write32(MMIO.QUEUE_NOTIFY, this.notification(index, index))
  }

  /** Reads InterruptStatus and acknowledges what it shows, as an interrupt handler does. */
  handleInterrupt(): { usedBuffer: boolean; configChange: boolean } {
    const status = this.read32(MMIO.INTERRUPT_STATUS)
    void this.write32(MMIO.INTERRUPT_ACK, status)
    return {
      usedBuffer: (status & INTERRUPT.USED_BUFFER) !== 0,
      configChange: (status & INTERRUPT.CONFIG_CHANGE) !== 0,
    }
  }

  get configGeneration(): number {
    return this.read32(MMIO.CONFIG_GENERATION)
  }

  readConfigAt(offset: number, size: 1 | 2 | 4): number {
    return this.#device.read(MMIO.CONFIG + offset, size)
  }

  writeConfig(offset: number, value: number, size: 1 | 2 | 4): void {
    void this.#device.write(MMIO.CONFIG + offset, size, value)
  }

  #readQueue(index: number, register: number): number {
    void this.write32(MMIO.QUEUE_SEL, index)
    return this.read32(register)
  }
}
