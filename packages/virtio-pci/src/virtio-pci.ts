import {
  ConfigError,
  type GuestMemory,
  type PciBar,
  type PciCapability,
  type PciFunction,
  type PciIdentity,
  type PciMsixLayout,
  type PciSlot,
  StateError,
  type VirtioDevice,
} from "@virtkit/interface"
import {
  MAX_CONFIG_BYTES,
  type RingOffers,
  ringOffers,
  TransportCore,
  type TransportEvents,
  VIRTIO_F_NOTIF_CONFIG_DATA,
  VIRTIO_F_NOTIFICATION_DATA,
} from "@virtkit/virtio"
import { CfgAccess } from "./cfg-access.js"
import * as pci from "./constants.js"
import { PciInterrupts } from "./interrupts.js"
import { type BarLayout, barLayout, capabilityBody } from "./layout.js"
import { NotifyStructure } from "./notify.js"
import { PciRegisters } from "./registers.js"
import { parseState, type VirtioPciState } from "./state.js"

export interface VirtioPciOptions extends RingOffers {
  readonly device: VirtioDevice
  /** The device broke its contract (it threw, or its reset rejected): a bug of the host. Must not throw. */
  readonly onError?: (error: Error) => void
  /** DEVICE_NEEDS_RESET was set, mostly because the driver broke the rules. Must not throw. */
  readonly onNeedsReset?: (reason: string) => void
}

/** More notification addresses than vectors make no sense. */
const MAX_QUEUES = 2048

/**
 * Virtio over PCI (virtio 1.3, section 4.1) around any virtio device, as a function for any PCI bus. It is modern only:
 * there is neither a legacy nor a transitional interface.
 */
export class VirtioPci implements PciFunction {
  readonly name: string
  readonly identity: PciIdentity
  readonly bars: readonly PciBar[]
  readonly msix: PciMsixLayout
  readonly hasIntx: boolean = true
  readonly capabilities: readonly PciCapability[]
  readonly device: VirtioDevice
  readonly #core: TransportCore
  readonly #interrupts: PciInterrupts
  readonly #registers: PciRegisters
  readonly #cfgAccess: CfgAccess
  /** By queue: 1 if a notification came while bus mastering was off. */
  readonly #missed: Uint8Array
  #slot: PciSlot | undefined

  /** Throws {@link ConfigError} for a device that does not fit this transport. */
  constructor(options: VirtioPciOptions) {
    const { device } = options
    const queues = device.queueMaxSizes.length
    if (device.config.length > MAX_CONFIG_BYTES) {
      throw new ConfigError(`${device.name}: a configuration space of more than ${MAX_CONFIG_BYTES} bytes`)
    }
    if (queues > MAX_QUEUES) throw new ConfigError(`${device.name}: more than ${MAX_QUEUES} queues`)
    const layout = barLayout(queues)
    this.name = device.name
    this.device = device
    this.identity = identityOf(device)
    this.msix = layout.msix
    this.#missed = new Uint8Array(queues)
    this.#interrupts = new PciInterrupts(device.name, queues, layout.msix.vectors)
    this.#core = this.#makeCore(options)
    this.#registers = new PciRegisters(this.#core, this.#interrupts)
    const registersBar = this.#registersBar(layout)
    const msixBar: PciBar = { index: pci.MSIX_BAR, kind: "memory32", size: layout.msixBytes, windows: [] }
    this.bars = [msixBar, registersBar]
    this.#cfgAccess = new CfgAccess(registersBar.windows)
    this.capabilities = [...structures(device, layout), this.#cfgAccess]
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
  get queues(): TransportCore["queues"] {
    return this.#core.queues
  }

  attach(slot: PciSlot): void {
    this.#slot = slot
    this.#interrupts.attach(slot)
    this.#cfgAccess.attach(slot)
  }

  /** Makes up for notifications that came while the function must not do DMA. */
  commandChanged(): void {
    if (!this.#slot?.busMaster) return
    for (let queue = 0; queue < this.#missed.length; queue++) {
      if (this.#missed[queue] === 0) continue
      this.#missed[queue] = 0
      this.#core.notify(queue)
    }
  }

  reset(): void | Promise<void> {
    this.#cfgAccess.reset()
    return this.#core.writeStatus(0)
  }

  state(): VirtioPciState {
    const { selectors } = this.#registers
    return {
      version: 1,
      kind: "pci",
      deviceFeatureSelect: selectors.deviceFeature,
      driverFeatureSelect: selectors.driverFeature,
      queueSelect: selectors.queue,
      configVector: this.#interrupts.configVector,
      queueVectors: this.#interrupts.queueVectors,
      isr: this.#interrupts.isr,
      transport: this.#core.state(),
    }
  }

  restore(state: unknown): void {
    const saved = parseState(state, {
      name: this.name,
      queueCount: this.#missed.length,
      isVector: (value) => this.#interrupts.isVector(value),
    })
    this.#setVectors(saved.configVector, saved.queueVectors)
    try {
      this.#core.restore(saved.transport)
    } catch (error) {
      this.#interrupts.reset()
      throw error
    }
    const { selectors } = this.#registers
    selectors.deviceFeature = saved.deviceFeatureSelect
    selectors.driverFeature = saved.driverFeatureSelect
    selectors.queue = saved.queueSelect
    this.#interrupts.restoreIsr(saved.isr)
    this.#cfgAccess.follow()
    this.#registers.refresh()
  }

  /** Closes the device. Idempotent. */
  close(): Promise<void> {
    return this.#core.close()
  }

  #makeCore(options: VirtioPciOptions): TransportCore {
    const memory = (): GuestMemory => {
      if (this.#slot === undefined) throw new StateError(`${this.name} is on no bus`)
      return this.#slot.memory
    }
    return new TransportCore({
      device: options.device,
      get memory() {
        return memory()
      },
      features: VIRTIO_F_NOTIFICATION_DATA | VIRTIO_F_NOTIF_CONFIG_DATA | ringOffers(options),
      events: this.#events(),
      onError: options.onError,
      onNeedsReset: options.onNeedsReset,
    })
  }

  #registersBar(layout: BarLayout): PciBar {
    const { external } = this.device
    const ring = (queue: number) => this.#notify(queue)
    const notify = new NotifyStructure(this.name, this.#missed.length, ring, external?.kicks)
    return {
      index: pci.REGISTERS_BAR,
      kind: "memory64",
      prefetchable: true,
      size: layout.registersBytes,
      windows: [
        { offset: pci.COMMON_OFFSET, size: pci.REGISTER_PAGE_BYTES, device: this.#registers },
        { offset: pci.ISR_OFFSET, size: pci.ISR_BYTES, device: this.#interrupts },
        { offset: pci.NOTIFY_OFFSET, size: layout.notifyBytes, device: notify },
      ],
    }
  }

  /** Without bus mastering the device must not look at its queues: that is made up for when it may. */
  #notify(queue: number): void {
    if (this.#slot?.busMaster) this.#core.notify(queue)
    else if (queue < this.#missed.length) this.#missed[queue] = 1
  }

  #setVectors(configVector: number, queueVectors: readonly number[]): void {
    this.#interrupts.configVector = configVector
    for (const [queue, vector] of queueVectors.entries()) this.#interrupts.setQueueVector(queue, vector)
  }

  #events(): TransportEvents {
    return {
      queueInterrupt: (index) => this.#interrupts.queue(index),
      connectQueue: (index, fd, changed) => this.#interrupts.connect(index, fd, changed),
      disconnectQueues: () => this.#interrupts.disconnect(),
      configInterrupt: () => this.#interrupts.config(),
      registersChanged: () => this.#registers.refresh(),
      resetDone: () => {
        this.#interrupts.reset()
        this.#missed.fill(0)
        const { selectors } = this.#registers
        selectors.deviceFeature = 0
        selectors.driverFeature = 0
        selectors.queue = 0
      },
      queueResetDone: (index) => {
        this.#interrupts.setQueueVector(index, pci.VIRTIO_MSI_NO_VECTOR)
        this.#missed[index] = 0
      },
      beginConfigUpdate: () => this.#registers.hide(),
      endConfigUpdate: () => {
        this.#registers.refresh()
        this.#registers.show()
      },
    }
  }
}

/** 4.1.2. */
function identityOf(device: VirtioDevice): PciIdentity {
  return {
    vendorId: pci.PCI_VENDOR_ID_REDHAT_QUMRANET,
    deviceId: pci.VIRTIO_PCI_DEVICE_ID_BASE + device.deviceType,
    revisionId: pci.VIRTIO_PCI_REVISION,
    classCode: pci.classCodeOf(device.deviceType),
    subsystemVendorId: pci.PCI_VENDOR_ID_REDHAT_QUMRANET,
    subsystemId: pci.VIRTIO_PCI_SUBSYSTEM_ID,
  }
}

/** 4.1.4: where the structures are. */
function structures(device: VirtioDevice, layout: BarLayout): PciCapability[] {
  const capability = (body: Uint8Array): PciCapability => ({ id: pci.PCI_CAP_ID_VNDR, body })
  const notify = capabilityBody(pci.VIRTIO_PCI_CAP_NOTIFY_CFG, pci.NOTIFY_OFFSET, layout.notifyBytes, 4)
  new DataView(notify.buffer).setUint32(pci.CAP_EXTRA, pci.NOTIFY_MULTIPLIER, true)
  const list = [
    capability(capabilityBody(pci.VIRTIO_PCI_CAP_COMMON_CFG, pci.COMMON_OFFSET, pci.COMMON_CFG_BYTES)),
    capability(notify),
    capability(capabilityBody(pci.VIRTIO_PCI_CAP_ISR_CFG, pci.ISR_OFFSET, pci.ISR_BYTES)),
  ]
  // 4.1.4.6: only for devices that have such a configuration. All of the space, so that a driver that asks for fields
  // which this device has not finds zeroes.
  if (device.config.length > 0) {
    list.push(capability(capabilityBody(pci.VIRTIO_PCI_CAP_DEVICE_CFG, pci.DEVICE_OFFSET, MAX_CONFIG_BYTES)))
  }
  return list
}
