import type { AcceleratedBusDevice, AccessSize, Doorbell, RegisterPage } from "@virtkit/interface"
import { RegisterFile, type TransportCore } from "@virtkit/virtio"
import * as reg from "./constants.js"
import type { PciInterrupts } from "./interrupts.js"

/** By offset, the width in bytes that a driver writes a register with (4.1.3.1); 64-bit ones as two halves. */
const WRITE_WIDTHS: ReadonlyMap<number, AccessSize> = new Map<number, AccessSize>([
  [reg.DEVICE_FEATURE_SELECT, 4],
  [reg.DRIVER_FEATURE_SELECT, 4],
  [reg.DRIVER_FEATURE, 4],
  [reg.CONFIG_MSIX_VECTOR, 2],
  [reg.DEVICE_STATUS, 1],
  [reg.QUEUE_SELECT, 2],
  [reg.QUEUE_SIZE, 2],
  [reg.QUEUE_MSIX_VECTOR, 2],
  [reg.QUEUE_ENABLE, 2],
  [reg.QUEUE_DESC, 4],
  [reg.QUEUE_DESC + 4, 4],
  [reg.QUEUE_DRIVER, 4],
  [reg.QUEUE_DRIVER + 4, 4],
  [reg.QUEUE_DEVICE, 4],
  [reg.QUEUE_DEVICE + 4, 4],
  [reg.QUEUE_RESET, 2],
])

/** VIRTIO_F_NOTIF_CONFIG_DATA as the number of its bit. */
const NOTIF_CONFIG_DATA = 39

/** What the driver selected. */
export interface Selectors {
  deviceFeature: number
  driverFeature: number
  queue: number
}

/** The page of the common (4.1.4.3) and the device configuration (4.1.4.6): all registers whose reads change nothing. */
export class PciRegisters implements AcceleratedBusDevice {
  readonly name: string
  readonly doorbells: readonly Doorbell[] = []
  readonly selectors: Selectors = { deviceFeature: 0, driverFeature: 0, queue: 0 }
  readonly #core: TransportCore
  readonly #interrupts: PciInterrupts
  readonly #file = new RegisterFile()

  constructor(core: TransportCore, interrupts: PciInterrupts) {
    this.name = `${core.device.name} registers`
    this.#core = core
    this.#interrupts = interrupts
    this.#file.set16(reg.NUM_QUEUES, core.device.queueMaxSizes.length)
    this.refresh()
  }

  setRegisterPage(page: RegisterPage | undefined): void {
    this.#file.attach(page)
  }

  /** Any width anywhere; bytes that no register has are 0 (bad-input #5). */
  read(offset: number, size: AccessSize): number {
    return this.#file.read(offset, size)
  }

  write(offset: number, size: AccessSize, value: number): void | Promise<void> {
    if (offset >= reg.DEVICE_OFFSET) {
      this.#core.writeConfig(offset - reg.DEVICE_OFFSET, size, value)
      return undefined
    }
    if (WRITE_WIDTHS.get(offset) !== size) return undefined
    if (offset === reg.DEVICE_STATUS) return this.#core.writeStatus(value)
    if (offset === reg.QUEUE_RESET) {
      return value === 1 ? this.#core.resetQueue(this.selectors.queue) : undefined
    }
    this.#writeControl(offset, value)
    this.refresh()
    return undefined
  }

  /** Around a change of the device configuration space: the guest must never see half of it. */
  hide(): void {
    this.#file.hide()
  }

  show(): void {
    this.#file.show()
  }

  /** Brings every register that can change up to date. */
  refresh(): void {
    const core = this.#core
    const file = this.#file
    const { selectors } = this
    file.set(reg.DEVICE_FEATURE_SELECT, selectors.deviceFeature)
    file.set(reg.DEVICE_FEATURE, core.features.offeredWord(selectors.deviceFeature))
    file.set(reg.DRIVER_FEATURE_SELECT, selectors.driverFeature)
    file.set(reg.DRIVER_FEATURE, core.features.driverWord(selectors.driverFeature))
    file.set16(reg.CONFIG_MSIX_VECTOR, this.#interrupts.configVector)
    file.set8(reg.DEVICE_STATUS, core.status)
    file.set8(reg.CONFIG_GENERATION, core.configGeneration)
    file.set16(reg.QUEUE_SELECT, selectors.queue)
    this.#refreshQueue(selectors.queue)
    if (!file.hasConfig(core.device.config)) file.setConfig(core.device.config)
  }

  /** bad-input #3: of a queue that is not there all read as 0, the vector as NO_VECTOR. */
  #refreshQueue(index: number): void {
    const file = this.#file
    const core = this.#core
    const queue = core.queueConfig(index)
    file.set16(reg.QUEUE_SIZE, queue?.size ?? 0)
    file.set16(reg.QUEUE_MSIX_VECTOR, this.#interrupts.queueVector(index))
    file.set16(reg.QUEUE_ENABLE, queue?.ready ? 1 : 0)
    file.set16(reg.QUEUE_NOTIFY_OFF, queue === undefined ? 0 : index)
    file.set(reg.QUEUE_DESC, queue?.addressHalf("desc", 0) ?? 0)
    file.set(reg.QUEUE_DESC + 4, queue?.addressHalf("desc", 1) ?? 0)
    file.set(reg.QUEUE_DRIVER, queue?.addressHalf("avail", 0) ?? 0)
    file.set(reg.QUEUE_DRIVER + 4, queue?.addressHalf("avail", 1) ?? 0)
    file.set(reg.QUEUE_DEVICE, queue?.addressHalf("used", 0) ?? 0)
    file.set(reg.QUEUE_DEVICE + 4, queue?.addressHalf("used", 1) ?? 0)
    // 4.1.4.3: there with VIRTIO_F_NOTIF_CONFIG_DATA only. The address says which queue it is: any value would do.
    const hasNotifyData = core.features.driverHas(NOTIF_CONFIG_DATA) && queue !== undefined
    file.set16(reg.QUEUE_NOTIF_CONFIG_DATA, hasNotifyData ? index : 0)
    file.set16(reg.QUEUE_RESET, queue?.resetting === undefined ? 0 : 1)
  }

  #writeControl(offset: number, value: number): void {
    const { selectors } = this
    switch (offset) {
      case reg.DEVICE_FEATURE_SELECT:
        selectors.deviceFeature = value
        break
      case reg.DRIVER_FEATURE_SELECT:
        selectors.driverFeature = value
        break
      case reg.DRIVER_FEATURE:
        this.#core.writeDriverFeatures(selectors.driverFeature, value)
        break
      case reg.CONFIG_MSIX_VECTOR:
        this.#interrupts.configVector = value
        break
      case reg.QUEUE_SELECT:
        selectors.queue = value
        break
      case reg.QUEUE_MSIX_VECTOR:
        this.#interrupts.setQueueVector(selectors.queue, value)
        break
      case reg.QUEUE_ENABLE:
        // 4.1.4.3.2: a driver must not write 0.
        if (value === 1) this.#core.enableQueue(selectors.queue)
        break
      default:
        this.#writeQueue(offset, value)
    }
  }

  /** Registers of the selected queue. There is none to write to when they are frozen (bad-input #1, #3). */
  #writeQueue(offset: number, value: number): void {
    const queue = this.#core.writableQueue(this.selectors.queue)
    if (queue === undefined) return
    switch (offset) {
      case reg.QUEUE_SIZE:
        queue.size = value
        break
      case reg.QUEUE_DESC:
        queue.setAddressHalf("desc", 0, value)
        break
      case reg.QUEUE_DESC + 4:
        queue.setAddressHalf("desc", 1, value)
        break
      case reg.QUEUE_DRIVER:
        queue.setAddressHalf("avail", 0, value)
        break
      case reg.QUEUE_DRIVER + 4:
        queue.setAddressHalf("avail", 1, value)
        break
      case reg.QUEUE_DEVICE:
        queue.setAddressHalf("used", 0, value)
        break
      case reg.QUEUE_DEVICE + 4:
        queue.setAddressHalf("used", 1, value)
        break
    }
  }
}
