import type { AccessSize, VirtioDevice } from "@virtkit/interface"
import { PciBus } from "@virtkit/pci"
import {
  FakeInterrupt,
  type FakeMsi,
  FakePciHost,
  type FakePciHostOptions,
  PCI_COMMAND,
  type PciAddress,
  PciDriver,
  type PciFunctionAccess,
  PciTransportDriver,
  TestMemory,
} from "@virtkit/testkit"
import { VirtioPci } from "@virtkit/virtio-pci"

const ECAM = 0xe000_0000
const WINDOWS = {
  io: { address: 0x1000, size: 0xf000 },
  memory32: { address: 0xd000_0000, size: 0x800_0000 },
  memory64: { address: 0x40_0000_0000, size: 0x40_0000_0000 },
} as const
/** Where the guest's local APICs take messages. */
const MSI_ADDRESS = 0xfee0_0000
const FIRST_DATA = 0x30

/** A machine whose interrupts can be waited for. */
class Host extends FakePciHost {
  readonly interrupt: FakeInterrupt

  constructor(options: FakePciHostOptions, interrupt: FakeInterrupt) {
    super(options)
    this.interrupt = interrupt
  }

  override createMsi(): FakeMsi {
    const msi = super.createMsi()
    const signal = msi.signal.bind(msi)
    msi.signal = () => {
      signal()
      this.interrupt.signal()
    }
    return msi
  }

  override setLine(line: 0 | 1 | 2 | 3, asserted: boolean): void {
    super.setLine(line, asserted)
    if (asserted) this.interrupt.signal()
  }
}

/** A function that the guest's PCI code found, for its driver. */
class FoundFunction implements PciFunctionAccess {
  readonly at: PciAddress
  readonly vectors: number
  readonly #pci: PciDriver
  readonly #host: Host
  readonly #sizes: ReadonlyMap<number, number>
  /** By vector, the messages that were taken. */
  readonly #taken: number[]

  /** Enables what a driver enables: decoding, bus mastering, and all vectors if `msix`. */
  constructor(pci: PciDriver, host: Host, at: PciAddress, msix: boolean) {
    this.at = at
    this.#pci = pci
    this.#host = host
    this.#sizes = new Map(pci.bars(at).map(({ index, size }) => [index, size]))
    void pci.command(at, PCI_COMMAND.MEMORY | PCI_COMMAND.BUS_MASTER)
    this.vectors = msix ? pci.msixVectors(at) : 0
    this.#taken = Array<number>(this.vectors).fill(0)
    if (!msix) return
    pci.setMsix(at, { enabled: true, masked: true })
    for (let vector = 0; vector < this.vectors; vector++) {
      pci.setMsixEntry(at, vector, { address: MSI_ADDRESS, data: FIRST_DATA + vector })
    }
    pci.setMsix(at, { enabled: true })
  }

  readConfig(offset: number, size: AccessSize): number {
    return this.#pci.readConfig(this.at, offset, size)
  }

  writeConfig(offset: number, size: AccessSize, value: number): void | Promise<void> {
    return this.#pci.writeConfig(this.at, offset, size, value)
  }

  readBar(bar: number, offset: number, size: AccessSize): number {
    if (offset >= (this.#sizes.get(bar) ?? 0)) return 0
    return this.#host.read("memory", this.#pci.barAddress(this.at, bar) + offset, size)
  }

  writeBar(bar: number, offset: number, size: AccessSize, value: number): void | Promise<void> {
    if (offset >= (this.#sizes.get(bar) ?? 0)) return undefined
    return this.#host.write("memory", this.#pci.barAddress(this.at, bar) + offset, size, value)
  }

  takeVectors(): number[] | undefined {
    if (this.vectors === 0) return undefined
    return this.#taken.flatMap((taken, vector) => {
      const msi = this.#host.msis.find(({ data, closed }) => !closed && data === FIRST_DATA + vector)
      this.#taken[vector] = msi?.count ?? 0
      return Array<number>((msi?.count ?? 0) - taken).fill(vector)
    })
  }
}

export interface BusMachineOptions {
  readonly msix?: boolean
  readonly pages?: boolean
  /** How the guest reaches configuration space. */
  readonly config?: "ecam" | "conf1"
  /** Behind a root port instead of on the root bus. */
  readonly port?: boolean
  readonly memory?: TestMemory
  /** Offer VIRTIO_F_RING_PACKED and VIRTIO_F_IN_ORDER. Default false. */
  readonly packed?: boolean
  readonly inOrder?: boolean
}

/** A virtio device on a PCI bus, and a guest that found it there. */
export function busMachine(device: VirtioDevice, options: BusMachineOptions = {}) {
  const { msix = true, pages = true, config = "ecam", port = false } = options
  const { memory = new TestMemory(), packed = false, inOrder = false } = options
  const interrupt = new FakeInterrupt()
  const host = new Host({ memory, pages }, interrupt)
  const bus = new PciBus({ host, ecam: { address: ECAM, buses: 16 }, windows: WINDOWS })
  host.map("io", 0xcf8, 8, bus.conf1)
  const errors: unknown[] = []
  const transport = new VirtioPci({ device, packed, inOrder, onError: (error) => errors.push(error) })
  bus.add(transport, port ? { port: bus.addRootPort() } : {})
  bus.assignResources()
  const pci = new PciDriver({ access: host, config: config === "ecam" ? ECAM : "conf1" })
  const at = pci.find(0x1af4, 0x1040 + device.deviceType)
  const found = new FoundFunction(pci, host, at, msix)
  const driver = new PciTransportDriver({ access: found, memory, vectors: found.vectors })
  return { memory, interrupt, host, bus, transport, pci, at, driver, found, errors }
}
