import type {
  AccessSize,
  PciBar,
  PciCapability,
  PciFunction,
  PciIdentity,
  PciMsixLayout,
  PciSlot,
  RegisterPage,
} from "@virtkit/interface"
import { PciBus, type PciBusOptions } from "@virtkit/pci"
import {
  FakePciHost,
  type FakePciHostOptions,
  PCI_COMMAND,
  type PciAddress,
  PciDriver,
  type PciDriverBar,
} from "@virtkit/testkit"

export const ECAM = 0xe000_0000
export const WINDOWS = {
  io: { address: 0x1000, size: 0xf000 },
  memory32: { address: 0xd000_0000, size: 0x800_0000 },
  memory64: { address: 0x40_0000_0000, size: 0x40_0000_0000 },
} as const
export const VENDOR = 0x1234

/** A machine with a bus, and a guest on it that uses the ECAM, and one that uses the ports. */
export function machine(host: FakePciHostOptions = {}, options: Partial<PciBusOptions> = {}) {
  const fake = new FakePciHost(host)
  const bus = new PciBus({ host: fake, ecam: { address: ECAM, buses: 256 }, windows: WINDOWS, ...options })
  fake.map("io", 0xcf8, 8, bus.conf1)
  const driver = new PciDriver({ access: fake, config: ECAM })
  const conf1 = new PciDriver({ access: fake, config: "conf1" })
  return { host: fake, bus, driver, conf1 }
}

/** Registers that remember their bytes; their reads are without side effects. */
export class Registers {
  readonly doorbells: readonly [] = []
  readonly name: string
  readonly bytes: Uint8Array
  /** Log of what arrived. */
  readonly writes: string[] = []
  #page: RegisterPage | undefined

  constructor(name: string, size: number) {
    this.name = name
    this.bytes = new Uint8Array(size)
  }

  read(offset: number, size: AccessSize): number {
    let value = 0
    for (let i = 0; i < size; i++) value |= this.bytes[offset + i]! << (8 * i)
    return value >>> 0
  }

  write(offset: number, size: AccessSize, value: number): void {
    this.writes.push(`${size}@${offset.toString(16)}=${value.toString(16)}`)
    for (let i = 0; i < size; i++) this.bytes[offset + i] = value >>> (8 * i)
    this.#page?.view.setUint8(offset, this.bytes[offset]!)
  }

  setRegisterPage(page: RegisterPage | undefined): void {
    this.#page = page
    if (page !== undefined) {
      new Uint8Array(page.view.buffer, page.view.byteOffset, this.bytes.length).set(this.bytes)
    }
  }
}

export interface TestFunctionOptions {
  readonly identity?: Partial<PciIdentity>
  readonly bars?: readonly PciBar[]
  readonly msix?: PciMsixLayout
  readonly capabilities?: readonly PciCapability[]
  readonly hasIntx?: boolean
}

/** A function that does nothing by itself and notes what happens to it. */
export class TestFunction implements PciFunction {
  readonly name: string
  readonly identity: PciIdentity
  readonly bars: readonly PciBar[]
  declare readonly msix?: PciMsixLayout
  readonly hasIntx: boolean
  readonly capabilities: readonly PciCapability[]
  readonly log: string[] = []
  /** What `reset` answers. */
  resetting: Promise<void> | undefined
  saved: unknown = { version: 1 }
  slot!: PciSlot

  constructor(name: string, options: TestFunctionOptions = {}) {
    this.name = name
    this.identity = { vendorId: VENDOR, deviceId: 0x5678, classCode: 0xff_0000, ...options.identity }
    this.bars = options.bars ?? []
    if (options.msix !== undefined) this.msix = options.msix
    this.hasIntx = options.hasIntx ?? true
    this.capabilities = options.capabilities ?? []
  }

  attach(slot: PciSlot): void {
    this.slot = slot
    this.log.push("attach")
  }

  commandChanged(): void {
    this.log.push(`commandChanged busMaster=${this.slot.busMaster}`)
  }

  reset(): void | Promise<void> {
    this.log.push("reset")
    return this.resetting
  }

  state(): unknown {
    return this.saved
  }

  restore(state: unknown): void {
    this.saved = state
    this.log.push("restore")
  }

  async close(): Promise<void> {
    this.log.push("close")
  }
}

/** A BAR of `size` bytes with a window of `windowSize` at its start. */
export function bar(
  index: number,
  kind: PciBar["kind"],
  size: number,
  windowSize: number = Math.min(size, 4096),
  prefetchable = false,
): PciBar & { registers: Registers } {
  const registers = new Registers(`bar${index}`, windowSize)
  const windows = [{ offset: 0, size: windowSize, device: registers }]
  return { index, kind, size, prefetchable, windows, registers }
}

/** Vectors, BAR 1 of two pages: the table in the first, the pending bits in the second. */
export function msixOptions(vectors: number): { bars: readonly PciBar[]; msix: PciMsixLayout } {
  const tableBytes = Math.ceil((vectors * 16) / 4096) * 4096
  const size = 2 ** Math.ceil(Math.log2(tableBytes + 4096))
  return {
    bars: [{ index: 1, kind: "memory32", size, windows: [] }],
    msix: { vectors, bar: 1, tableOffset: 0, pbaOffset: tableBytes },
  }
}

/** Places a BAR at `address` and switches decoding and bus mastering on. */
export function place(driver: PciDriver, at: PciAddress, target: PciDriverBar, address: number): void {
  driver.setBar(at, target, address)
  void driver.command(at, PCI_COMMAND.IO | PCI_COMMAND.MEMORY | PCI_COMMAND.BUS_MASTER)
}
