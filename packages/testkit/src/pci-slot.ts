import type {
  AccessSize,
  GuestMemory,
  Interrupt,
  PciCapability,
  PciFunction,
  PciSlot,
} from "@virtkit/interface"
import { FakeInterrupt } from "./interrupt.js"
import { TestMemory } from "./memory.js"
import { FakePciHost } from "./pci-host.js"
import { PCI, PCI_STATUS } from "./pci-spec.js"
import type { PciFunctionAccess } from "./virtio-pci-driver.js"

export interface FakePciSlotOptions {
  readonly function: PciFunction
  /** Default: a `TestMemory` of 1 MiB. */
  readonly memory?: GuestMemory
  /** Signalled for every vector and whenever INTx is asserted. */
  readonly interrupt?: FakeInterrupt
  /** The guest enabled MSI-X. Default false. */
  readonly msix?: boolean
  /** Serve register pages without the function, as the VMM does. Default true. */
  readonly pages?: boolean
}

const FIRST_CAPABILITY = 0x40
/** BARs are that far apart in the address space of the machine. */
const BAR_STRIDE = 2 ** 24

/** One PCI slot with a function in it and no bus: configuration space, BARs and interrupts of that function alone. */
export class FakePciSlot implements PciSlot, PciFunctionAccess {
  readonly address = "00:01.0"
  readonly memory: GuestMemory
  readonly interrupt: FakeInterrupt
  readonly host: FakePciHost
  msixEnabled: boolean
  intx = false
  liveReads = false
  /** Changes of `liveReads`. */
  liveReadsChanges = 0
  readonly #function: PciFunction
  readonly #config = new DataView(new ArrayBuffer(256))
  /** Capabilities with the offset of their bodies. */
  readonly #capabilities: { at: number; capability: PciCapability }[] = []
  readonly #messages: readonly Interrupt[]
  #fired: number[] = []
  #busMaster = true

  constructor(options: FakePciSlotOptions) {
    const fn = options.function
    this.#function = fn
    this.memory = options.memory ?? new TestMemory()
    this.interrupt = options.interrupt ?? new FakeInterrupt()
    this.msixEnabled = options.msix ?? false
    this.host = new FakePciHost({ memory: this.memory, pages: options.pages ?? true })
    this.#messages = Array.from({ length: fn.msix?.vectors ?? 0 }, (_, vector) => ({
      signal: () => this.#message(vector),
    }))
    this.#buildConfig()
    fn.attach(this)
    for (const bar of fn.bars) {
      for (const { offset, size, device } of bar.windows) {
        if (offset + size > bar.size) throw new Error(`a window beyond the end of BAR ${bar.index}`)
        const mapping = this.host.map("memory", bar.index * BAR_STRIDE + offset, size, device)
        if (mapping === undefined) throw new Error(`windows of BAR ${bar.index} overlap`)
      }
    }
  }

  get busMaster(): boolean {
    return this.#busMaster
  }

  set busMaster(on: boolean) {
    this.#busMaster = on
    this.#function.commandChanged?.()
  }

  msix(vector: number): Interrupt | undefined {
    return this.#messages[vector]
  }

  setIntx(asserted: boolean): void {
    if (this.intx === asserted) throw new Error(`INTx is ${asserted} already`)
    this.intx = asserted
    if (asserted && !this.msixEnabled) this.interrupt.signal()
  }

  setLiveReads(on: boolean): void {
    this.liveReads = on
    this.liveReadsChanges++
  }

  takeVectors(): readonly number[] | undefined {
    if (!this.msixEnabled) return undefined
    const fired = this.#fired
    this.#fired = []
    return fired
  }

  readConfig(offset: number, size: AccessSize): number {
    let value = 0
    for (const { at, capability } of this.#capabilities) {
      const within = overlap(offset, size, at, capability.body.length)
      if (within !== undefined && this.liveReads) capability.beforeRead?.(within.offset, within.size)
    }
    for (let byte = 0; byte < size; byte++) value |= this.#configByte(offset + byte) << (8 * byte)
    return value >>> 0
  }

  writeConfig(offset: number, size: AccessSize, value: number): void | Promise<void> {
    const pending: Promise<void>[] = []
    for (const { at, capability } of this.#capabilities) {
      const within = overlap(offset, size, at, capability.body.length)
      if (within === undefined) continue
      for (let byte = 0; byte < size; byte++) {
        const index = offset + byte - at
        const mask = capability.writable?.[index] ?? 0
        if (mask === 0) continue
        const written = (value >>> (8 * byte)) & mask
        capability.body[index] = (capability.body[index]! & ~mask) | written
      }
      const done = capability.written?.(within.offset, within.size)
      if (done !== undefined) pending.push(done)
    }
    return pending.length === 0 ? undefined : Promise.all(pending).then(() => undefined)
  }

  readBar(bar: number, offset: number, size: AccessSize): number {
    return this.#isIn(bar, offset) ? this.host.read("memory", bar * BAR_STRIDE + offset, size) : 0
  }

  writeBar(bar: number, offset: number, size: AccessSize, value: number): void | Promise<void> {
    if (!this.#isIn(bar, offset)) return undefined
    return this.host.write("memory", bar * BAR_STRIDE + offset, size, value)
  }

  /** Function-level reset, as a bus does it. */
  reset(): void | Promise<void> {
    this.liveReads = false
    this.msixEnabled = false
    this.#busMaster = false
    return this.#function.reset()
  }

  #isIn(bar: number, offset: number): boolean {
    return this.#function.bars.some(({ index, size }) => index === bar && offset < size)
  }

  #message(vector: number): void {
    if (!this.#busMaster || !this.msixEnabled) return
    this.#fired.push(vector)
    this.interrupt.signal()
  }

  #buildConfig(): void {
    const { identity, capabilities } = this.#function
    const config = this.#config
    config.setUint16(PCI.VENDOR_ID, identity.vendorId, true)
    config.setUint16(PCI.DEVICE_ID, identity.deviceId, true)
    config.setUint32(PCI.REVISION_ID, (identity.classCode << 8) | (identity.revisionId ?? 0), true)
    config.setUint16(PCI.SUBSYSTEM_VENDOR_ID, identity.subsystemVendorId ?? 0, true)
    config.setUint16(PCI.SUBSYSTEM_ID, identity.subsystemId ?? 0, true)
    config.setUint16(PCI.STATUS, PCI_STATUS.CAPABILITIES, true)
    let link: number = PCI.CAPABILITIES_POINTER
    let offset = FIRST_CAPABILITY
    for (const capability of capabilities) {
      config.setUint8(link, offset)
      config.setUint8(offset, capability.id)
      this.#capabilities.push({ at: offset + 2, capability })
      link = offset + 1
      offset = (offset + 2 + capability.body.length + 3) & ~3
    }
  }

  #configByte(offset: number): number {
    for (const { at, capability } of this.#capabilities) {
      const byte = capability.body[offset - at]
      if (byte !== undefined) return byte
    }
    return offset < this.#config.byteLength ? this.#config.getUint8(offset) : 0
  }
}

/** The part of an access that lies in a range, relative to the range. */
function overlap(
  offset: number,
  size: number,
  start: number,
  length: number,
): { offset: number; size: number } | undefined {
  const from = Math.max(offset, start)
  const to = Math.min(offset + size, start + length)
  return from < to ? { offset: from - start, size: to - from } : undefined
}
