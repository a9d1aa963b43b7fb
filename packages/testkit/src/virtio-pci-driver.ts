import type { AccessSize } from "@virtkit/interface"
import { PCI, PCI_CAPABILITY } from "./pci-spec.js"
import { VIRTIO_PCI_CAP as CAP, VIRTIO_PCI_COMMON as COMMON, FEATURE, INTERRUPT, NO_VECTOR } from "./spec.js"
import type { RingAddresses } from "./transport-driver.js"
import { VirtioDriver, type VirtioDriverOptions } from "./virtio-driver.js"

/** A PCI function as its driver reaches it: {@link FakePciSlot}, or a function that a {@link PciDriver} found. */
export interface PciFunctionAccess {
  readConfig(offset: number, size: AccessSize): number
  writeConfig(offset: number, size: AccessSize, value: number): void | Promise<void>
  /** `offset` may lie beyond the BAR: then there is nobody. */
  readBar(bar: number, offset: number, size: AccessSize): number
  writeBar(bar: number, offset: number, size: AccessSize, value: number): void | Promise<void>
  /** With MSI-X: the vectors that were signalled since the last call. Without: undefined. */
  takeVectors(): readonly number[] | undefined
}

export interface PciTransportDriverOptions extends VirtioDriverOptions {
  readonly access: PciFunctionAccess
  /** Number of MSI-X vectors to use, which must be enabled; 0 for INTx. Default 0. */
  readonly vectors?: number
}

/** A structure that a capability points to (4.1.4). */
interface Structure {
  /** Of the capability's ID. */
  readonly capability: number
  readonly bar: number
  readonly offset: number
  readonly length: number
}

/** The driver side of modern virtio over PCI (virtio 1.3, section 4.1), through the register interface alone. */
export class PciTransportDriver extends VirtioDriver {
  readonly access: PciFunctionAccess
  /** By type. */
  readonly structures: ReadonlyMap<number, Structure>
  readonly #vectors: number
  readonly #common: Structure
  readonly #notify: Structure
  readonly #isr: Structure
  readonly #device: Structure | undefined
  readonly #notifyMultiplier: number

  /** Throws when a structure that every device has is missing. */
  constructor(options: PciTransportDriverOptions) {
    super(options)
    this.access = options.access
    this.#vectors = options.vectors ?? 0
    this.structures = findStructures(options.access)
    this.#common = this.#structure(CAP.COMMON_CFG)
    this.#notify = this.#structure(CAP.NOTIFY_CFG)
    this.#isr = this.#structure(CAP.ISR_CFG)
    this.#device = this.structures.get(CAP.DEVICE_CFG)
    const register = this.#notify.capability + CAP.NOTIFY_OFF_MULTIPLIER
    this.#notifyMultiplier = this.access.readConfig(register, 4)
  }

  /** A field of the common configuration. */
  readCommon(field: number, size: AccessSize): number {
    return this.access.readBar(this.#common.bar, this.#common.offset + field, size)
  }

  writeCommon(field: number, size: AccessSize, value: number): void | Promise<void> {
    return this.access.writeBar(this.#common.bar, this.#common.offset + field, size, value >>> 0)
  }

  get status(): number {
    return this.readCommon(COMMON.DEVICE_STATUS, 1)
  }

  writeStatus(value: number): void | Promise<void> {
    return this.writeCommon(COMMON.DEVICE_STATUS, 1, value & 0xff)
  }

  /** Messages of before have arrived and are nobody's any more. */
  override async reset(): Promise<void> {
    await super.reset()
    this.access.takeVectors()
  }

  override async begin(): Promise<void> {
    await super.begin()
    if (this.#vectors === 0) return
    void this.writeCommon(COMMON.CONFIG_MSIX_VECTOR, 2, 0)
    if (this.readCommon(COMMON.CONFIG_MSIX_VECTOR, 2) === NO_VECTOR) throw new Error("no vector 0")
  }

  protected readDeviceFeatures(word: number): number {
    void this.writeCommon(COMMON.DEVICE_FEATURE_SELECT, 4, word)
    return this.readCommon(COMMON.DEVICE_FEATURE, 4)
  }

  protected writeDriverFeatures(word: number, value: number): void {
    void this.writeCommon(COMMON.DRIVER_FEATURE_SELECT, 4, word)
    void this.writeCommon(COMMON.DRIVER_FEATURE, 4, value)
  }

  /** The largest size until a driver writes another. */
  queueSizeMax(index: number): number {
    return this.readQueue(index, COMMON.QUEUE_SIZE)
  }

  queueReady(index: number): boolean {
    return this.readQueue(index, COMMON.QUEUE_ENABLE) === 1
  }

  /** A 16-bit field of that queue. */
  readQueue(index: number, field: number): number {
    this.selectQueue(index)
    return this.readCommon(field, 2)
  }

  selectQueue(index: number): void {
    void this.writeCommon(COMMON.QUEUE_SELECT, 2, index & 0xffff)
  }

  /** 4.1.5.1.3, with any values. */
  writeQueue(index: number, size: number, at: RingAddresses): void {
    this.selectQueue(index)
    void this.writeCommon(COMMON.QUEUE_SIZE, 2, size & 0xffff)
    this.write64(COMMON.QUEUE_DESC, at.desc)
    this.write64(COMMON.QUEUE_DRIVER, at.avail)
    this.write64(COMMON.QUEUE_DEVICE, at.used)
    if (this.#vectors > 0) {
      void this.writeCommon(COMMON.QUEUE_MSIX_VECTOR, 2, Math.min(index + 1, this.#vectors - 1))
    }
    void this.writeCommon(COMMON.QUEUE_ENABLE, 2, 1)
  }

  write64(field: number, value: number): void {
    void this.writeCommon(field, 4, value >>> 0)
    void this.writeCommon(field + 4, 4, Math.floor(value / 2 ** 32))
  }

  queueResetting(index: number): boolean {
    return this.readQueue(index, COMMON.QUEUE_RESET) === 1
  }

  writeQueueReset(index: number): void | Promise<void> {
    this.selectQueue(index)
    return this.writeCommon(COMMON.QUEUE_RESET, 2, 1)
  }

  /** 4.1.5.2. A queue that is not there gets the address that it would have. */
  notify(index: number): void {
    const exists = this.queueSizeMax(index) > 0
    const slot = exists ? this.readCommon(COMMON.QUEUE_NOTIFY_OFF, 2) : index
    const offset = this.#notify.offset + slot * this.#notifyMultiplier
    const hasName = exists && (this.features & FEATURE.NOTIF_CONFIG_DATA) !== 0n
    const name = hasName ? this.readCommon(COMMON.QUEUE_NOTIF_CONFIG_DATA, 2) : index
    const width = (this.features & FEATURE.NOTIFICATION_DATA) === 0n ? 2 : 4
    void this.access.writeBar(this.#notify.bar, offset, width, this.notification(index, name & 0xffff))
  }

  /** With MSI-X the vectors tell the cause; else a read of the ISR status tells and acknowledges it. */
  handleInterrupt(): { usedBuffer: boolean; configChange: boolean } {
    const vectors = this.access.takeVectors()
    if (vectors !== undefined) {
      return { usedBuffer: vectors.some((vector) => vector > 0), configChange: vectors.includes(0) }
    }
    const isr = this.access.readBar(this.#isr.bar, this.#isr.offset, 1)
    return {
      usedBuffer: (isr & INTERRUPT.USED_BUFFER) !== 0,
      configChange: (isr & INTERRUPT.CONFIG_CHANGE) !== 0,
    }
  }

  get configGeneration(): number {
    return this.readCommon(COMMON.CONFIG_GENERATION, 1)
  }

  readConfigAt(offset: number, size: AccessSize): number {
    const device = this.#device
    return device === undefined ? 0 : this.access.readBar(device.bar, device.offset + offset, size)
  }

  writeConfig(offset: number, value: number, size: AccessSize): void {
    const device = this.#device
    if (device !== undefined) void this.access.writeBar(device.bar, device.offset + offset, size, value)
  }

  /** Reads a register through the configuration access capability (4.1.4.9). */
  readWindow(bar: number, offset: number, length: number): number {
    const capability = this.#aimWindow(bar, offset, length)
    return this.access.readConfig(capability + CAP.PCI_CFG_DATA, length as AccessSize)
  }

  writeWindow(bar: number, offset: number, length: number, value: number): void | Promise<void> {
    const capability = this.#aimWindow(bar, offset, length)
    return this.access.writeConfig(capability + CAP.PCI_CFG_DATA, length as AccessSize, value)
  }

  #aimWindow(bar: number, offset: number, length: number): number {
    const { capability } = this.#structure(CAP.PCI_CFG)
    void this.access.writeConfig(capability + CAP.BAR, 1, bar)
    void this.access.writeConfig(capability + CAP.OFFSET, 4, offset)
    void this.access.writeConfig(capability + CAP.LENGTH, 4, length)
    return capability
  }

  #structure(type: number): Structure {
    const structure = this.structures.get(type)
    if (structure === undefined) throw new Error(`no virtio capability of type ${type}`)
    return structure
  }
}

/** 4.1.4.2: of each type the first. */
function findStructures(access: PciFunctionAccess): ReadonlyMap<number, Structure> {
  const structures = new Map<number, Structure>()
  let capability = access.readConfig(PCI.CAPABILITIES_POINTER, 1) & ~3
  for (let links = 0; capability !== 0 && links < 48; links++) {
    if (access.readConfig(capability, 1) === PCI_CAPABILITY.VENDOR) {
      const type = access.readConfig(capability + CAP.CFG_TYPE, 1)
      if (!structures.has(type)) {
        structures.set(type, {
          capability,
          bar: access.readConfig(capability + CAP.BAR, 1),
          offset: access.readConfig(capability + CAP.OFFSET, 4),
          length: access.readConfig(capability + CAP.LENGTH, 4),
        })
      }
    }
    capability = access.readConfig(capability + 1, 1) & ~3
  }
  return structures
}
