import type { AccessSize, PciBarWindow, PciCapability, PciSlot } from "@virtkit/interface"
import {
  CAP_BAR,
  CAP_EXTRA,
  CAP_LENGTH,
  CAP_OFFSET,
  PCI_CAP_ID_VNDR,
  REGISTERS_BAR,
  VIRTIO_PCI_CAP_PCI_CFG,
} from "./constants.js"
import { capabilityBody } from "./layout.js"

const DATA_BYTES = 4

/**
 * The PCI configuration access capability (4.1.4.9): a window in configuration space through which firmware reaches the
 * registers without mapping the BAR. BAR, offset and length are the driver's; what lies outside of the register
 * structures is neither read nor written (bad-input #7).
 */
export class CfgAccess implements PciCapability {
  readonly id: number = PCI_CAP_ID_VNDR
  readonly body: Uint8Array
  readonly writable: Uint8Array
  readonly #view: DataView
  readonly #windows: readonly PciBarWindow[]
  #slot: PciSlot | undefined
  #live = false

  /** `windows` are those of the register BAR. */
  constructor(windows: readonly PciBarWindow[]) {
    this.#windows = windows
    this.body = capabilityBody(VIRTIO_PCI_CAP_PCI_CFG, 0, 0, DATA_BYTES)
    this.#view = new DataView(this.body.buffer)
    this.#view.setUint8(CAP_BAR, 0)
    this.writable = new Uint8Array(this.body.length)
    this.writable[CAP_BAR] = 0xff
    this.writable.fill(0xff, CAP_OFFSET)
  }

  attach(slot: PciSlot): void {
    this.#slot = slot
  }

  /** A write that reaches pci_cfg_data is carried out with its first `length` bytes (4.1.4.9.1). */
  written(offset: number, size: number): void | Promise<void> {
    this.follow()
    const length = this.#length
    const window = this.#window(length)
    if (window === undefined || !touchesData(offset, size)) return undefined
    let value = 0
    for (let byte = 0; byte < length; byte++) value |= this.body[CAP_EXTRA + byte]! << (8 * byte)
    return window.device.write(this.#offset - window.offset, length as AccessSize, value >>> 0)
  }

  /** A read that reaches pci_cfg_data gives what a read of the registers gives. */
  beforeRead(offset: number, size: number): void {
    const length = this.#length
    const window = this.#window(length)
    if (window === undefined || !touchesData(offset, size)) return
    const value = window.device.read(this.#offset - window.offset, length as AccessSize)
    for (let byte = 0; byte < length; byte++) this.body[CAP_EXTRA + byte] = value >>> (8 * byte)
  }

  /** As after construction. The bus has switched live reads off. */
  reset(): void {
    this.body[CAP_BAR] = 0
    this.body.fill(0, CAP_OFFSET)
    this.#live = false
  }

  /**
   * While the driver uses the window, reads of configuration space must reach `beforeRead`. To be called when `body` has
   * changed otherwise than by a write of the guest.
   */
  follow(): void {
    const live = this.#length !== 0
    if (live === this.#live) return
    this.#live = live
    this.#slot?.setLiveReads(live)
  }

  get #offset(): number {
    return this.#view.getUint32(CAP_OFFSET, true)
  }

  get #length(): number {
    return this.#view.getUint32(CAP_LENGTH, true)
  }

  /** Where the access goes; undefined unless all of it lies in one structure (4.1.4.9.2 asks that of drivers). */
  #window(length: number): PciBarWindow | undefined {
    if (length !== 1 && length !== 2 && length !== 4) return undefined
    if (this.body[CAP_BAR] !== REGISTERS_BAR) return undefined
    const offset = this.#offset
    if (offset % length !== 0) return undefined
    return this.#windows.find((window) => {
      return offset >= window.offset && offset + length <= window.offset + window.size
    })
  }
}

function touchesData(offset: number, size: number): boolean {
  return offset < CAP_EXTRA + DATA_BYTES && offset + size > CAP_EXTRA
}
