import type { AccessSize } from "@virtkit/interface"
import type { PciSpace } from "./pci-host.js"
import { PCI, PCI_CAPABILITY, PCI_COMMAND, PCI_MSIX, PCI_STATUS } from "./pci-spec.js"

/** The loads and stores of a guest: {@link FakePciHost}, for one. */
export interface PciAccess {
  read(space: PciSpace, address: number, size: AccessSize): number
  write(space: PciSpace, address: number, size: AccessSize, value: number): void | Promise<void>
}

export interface PciDriverOptions {
  readonly access: PciAccess
  /** How it reaches configuration space: the address of the ECAM, or "conf1" for the ports 0xCF8 and 0xCFC. */
  readonly config: number | "conf1"
}

/** Bus and device number; all functions are function 0. */
export interface PciAddress {
  readonly bus: number
  readonly device: number
}

export interface PciDriverBar {
  readonly index: number
  readonly kind: "io" | "memory32" | "memory64"
  readonly prefetchable: boolean
  readonly size: number
  readonly address: number
}

/** What a guest's PCI code does: enumerates, sizes and places BARs, walks capabilities, sets MSI-X up. */
export class PciDriver {
  readonly access: PciAccess
  readonly #config: number | "conf1"

  constructor(options: PciDriverOptions) {
    this.access = options.access
    this.#config = options.config
  }

  readConfig(at: PciAddress, offset: number, size: AccessSize): number {
    if (this.#config !== "conf1") return this.access.read("memory", this.#ecam(at, offset), size)
    this.#select(at, offset)
    return this.access.read("io", 0xcfc + (offset & 3), size)
  }

  writeConfig(at: PciAddress, offset: number, size: AccessSize, value: number): void | Promise<void> {
    if (this.#config !== "conf1") return this.access.write("memory", this.#ecam(at, offset), size, value)
    this.#select(at, offset)
    return this.access.write("io", 0xcfc + (offset & 3), size, value)
  }

  exists(at: PciAddress): boolean {
    return this.readConfig(at, PCI.VENDOR_ID, 2) !== 0xffff
  }

  /** All functions on `bus` and behind the bridges there, as the bridges are numbered now. */
  scan(bus = 0): PciAddress[] {
    const found: PciAddress[] = []
    for (let device = 0; device < 32; device++) {
      const at = { bus, device }
      if (!this.exists(at)) continue
      found.push(at)
      const secondary = this.isBridge(at) ? this.readConfig(at, PCI.SECONDARY_BUS, 1) : 0
      if (secondary > bus) found.push(...this.scan(secondary))
    }
    return found
  }

  isBridge(at: PciAddress): boolean {
    return (this.readConfig(at, PCI.HEADER_TYPE, 1) & 0x7f) === 1
  }

  /** The function with these IDs. Throws when there is none. */
  find(vendorId: number, deviceId: number): PciAddress {
    const id = deviceId * 0x10000 + vendorId
    const at = this.scan().find((candidate) => this.readConfig(candidate, PCI.VENDOR_ID, 4) === id)
    if (at === undefined) throw new Error(`no PCI function ${id.toString(16)}`)
    return at
  }

  /** PCI 3.0, 6.2.5.1: writes all ones to each BAR, with decoding off, and puts it back. */
  bars(at: PciAddress): PciDriverBar[] {
    const command = this.readConfig(at, PCI.COMMAND, 2)
    void this.writeConfig(at, PCI.COMMAND, 2, command & ~(PCI_COMMAND.IO | PCI_COMMAND.MEMORY))
    const found: PciDriverBar[] = []
    const count = this.isBridge(at) ? 2 : 6
    for (let index = 0; index < count; index++) {
      const bar = this.#sizeBar(at, index)
      if (bar === undefined) continue
      found.push(bar)
      if (bar.kind === "memory64") index++
    }
    void this.writeConfig(at, PCI.COMMAND, 2, command)
    return found
  }

  setBar(at: PciAddress, bar: PciDriverBar, address: number): void {
    const register = PCI.BAR0 + 4 * bar.index
    void this.writeConfig(at, register, 4, address >>> 0)
    if (bar.kind === "memory64") void this.writeConfig(at, register + 4, 4, Math.floor(address / 2 ** 32))
  }

  /** Where the BAR is now, without sizing it. */
  barAddress(at: PciAddress, index: number): number {
    const register = PCI.BAR0 + 4 * index
    const low = this.readConfig(at, register, 4)
    if (low & 1) return (low & ~3) >>> 0
    const high = (low & 6) === 4 ? this.readConfig(at, register + 4, 4) : 0
    return ((low & ~15) >>> 0) + high * 2 ** 32
  }

  /** Sets and clears bits of the command register. */
  command(at: PciAddress, set: number, clear = 0): void | Promise<void> {
    const value = this.readConfig(at, PCI.COMMAND, 2)
    return this.writeConfig(at, PCI.COMMAND, 2, (value & ~clear) | set)
  }

  /** The capability list in its order; `offset` is that of the ID. */
  capabilities(at: PciAddress): { id: number; offset: number }[] {
    const list: { id: number; offset: number }[] = []
    if ((this.readConfig(at, PCI.STATUS, 2) & PCI_STATUS.CAPABILITIES) === 0) return list
    let offset = this.readConfig(at, PCI.CAPABILITIES_POINTER, 1) & ~3
    while (offset !== 0) {
      if (offset < 0x40 || list.length > 48) throw new Error(`capability list: ${JSON.stringify(list)}`)
      list.push({ id: this.readConfig(at, offset, 1), offset })
      offset = this.readConfig(at, offset + 1, 1) & ~3
    }
    return list
  }

  /** Offset of the first capability with that ID. Throws when there is none. */
  capability(at: PciAddress, id: number): number {
    const found = this.capabilities(at).find((capability) => capability.id === id)
    if (found === undefined) throw new Error(`no capability ${id}`)
    return found.offset
  }

  /** Number of entries of the MSI-X table. */
  msixVectors(at: PciAddress): number {
    const capability = this.capability(at, PCI_CAPABILITY.MSIX)
    return (this.readConfig(at, capability + PCI_MSIX.CONTROL, 2) & 0x7ff) + 1
  }

  /** The enable and function mask bits of message control. */
  setMsix(at: PciAddress, state: { enabled: boolean; masked?: boolean }): void {
    const register = this.capability(at, PCI_CAPABILITY.MSIX) + PCI_MSIX.CONTROL
    const bits = (state.enabled ? PCI_MSIX.CONTROL_ENABLE : 0) | (state.masked ? PCI_MSIX.CONTROL_MASK : 0)
    void this.writeConfig(at, register, 2, bits)
  }

  /** Guest physical address of the table ("table") or the pending bits ("pba"), which needs their BAR placed. */
  msixAddress(at: PciAddress, what: "table" | "pba"): number {
    const capability = this.capability(at, PCI_CAPABILITY.MSIX)
    const register = capability + (what === "table" ? PCI_MSIX.TABLE : PCI_MSIX.PBA)
    const value = this.readConfig(at, register, 4)
    return this.barAddress(at, value & 7) + ((value & ~7) >>> 0)
  }

  /** Writes address and data of an entry, then its mask bit. */
  setMsixEntry(
    at: PciAddress,
    vector: number,
    entry: { address: number; data: number; masked?: boolean },
  ): void {
    const base = this.msixAddress(at, "table") + vector * PCI_MSIX.ENTRY_BYTES
    const { access } = this
    void access.write("memory", base + PCI_MSIX.ENTRY_ADDRESS, 4, entry.address >>> 0)
    void access.write("memory", base + PCI_MSIX.ENTRY_ADDRESS_UPPER, 4, Math.floor(entry.address / 2 ** 32))
    void access.write("memory", base + PCI_MSIX.ENTRY_DATA, 4, entry.data)
    this.maskMsix(at, vector, entry.masked ?? false)
  }

  maskMsix(at: PciAddress, vector: number, masked: boolean): void {
    const base = this.msixAddress(at, "table") + vector * PCI_MSIX.ENTRY_BYTES
    void this.access.write("memory", base + PCI_MSIX.ENTRY_CONTROL, 4, masked ? 1 : 0)
  }

  #sizeBar(at: PciAddress, index: number): PciDriverBar | undefined {
    const register = PCI.BAR0 + 4 * index
    const low = this.#probe(at, register)
    if (low === 0) return undefined
    const address = this.barAddress(at, index)
    if (low & 1) {
      const size = (~(low & ~3) & 0xffff) + 1
      return { index, kind: "io", prefetchable: false, size, address }
    }
    const wide = (low & 6) === 4
    const high = wide ? this.#probe(at, register + 4) : 0xffff_ffff
    // The lowest writable bit is the size.
    const mask = (low & ~15) >>> 0
    const size = mask !== 0 ? (~mask >>> 0) + 1 : ((~high >>> 0) + 1) * 2 ** 32
    return { index, kind: wide ? "memory64" : "memory32", prefetchable: (low & 8) !== 0, size, address }
  }

  #probe(at: PciAddress, register: number): number {
    const before = this.readConfig(at, register, 4)
    void this.writeConfig(at, register, 4, 0xffff_ffff)
    const mask = this.readConfig(at, register, 4)
    void this.writeConfig(at, register, 4, before)
    return mask
  }

  #ecam(at: PciAddress, offset: number): number {
    return (this.#config as number) + at.bus * 0x10_0000 + at.device * 0x8000 + offset
  }

  #select(at: PciAddress, offset: number): void {
    const address = 0x8000_0000 + at.bus * 0x1_0000 + at.device * 0x800 + (offset & 0xfc)
    void this.access.write("io", 0xcf8, 4, address)
  }
}
