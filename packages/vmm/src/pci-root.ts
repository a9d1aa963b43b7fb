import type { PciHostDescription } from "@virtkit/acpi"
import { ConfigError, type GuestMemory, type PciFunction, type VirtioDevice } from "@virtkit/interface"
import { ResetControl } from "@virtkit/legacy"
import { type AddressRange, PciBus, type PciHost, PciHotPlug, type RootPort } from "@virtkit/pci"
import type { RingOffers } from "@virtkit/virtio"
import { VirtioPci } from "@virtkit/virtio-pci"
import type { AddressSpaces } from "./address-spaces.js"
import type { Interrupts } from "./interrupts.js"
import {
  PCI_CONF1_PORT,
  PCI_ECAM_ADDRESS,
  PCI_ECAM_BUS_BYTES,
  PCI_ECAM_DEVICE_BYTES,
  PCI_FIRMWARE_MEMORY32,
  PCI_GSIS,
  PCI_HOT_PLUG_PORT,
  PCI_IO,
  PCI_ISA_IRQS,
  PCI_MEMORY32,
  PCI_MEMORY64_SIZE,
} from "./machine.js"

/** U-Boot has the ISA bridge of a chipset as device 1, whatever is there. */
const FIRST_FIRMWARE_DEVICE = 2

/** A device of the VM: virtio ones get a transport, others sit on the PCI bus themselves. */
export type VmDevice = VirtioDevice | PciFunction

export interface PciRootOptions {
  readonly spaces: AddressSpaces
  readonly memory: GuestMemory
  readonly interrupts: Interrupts
  readonly rings: RingOffers
  readonly hotPlugSlots: number
  /** The guest brings firmware, which gives the devices their addresses itself: docs/firmware.md. */
  readonly hasFirmware: boolean
  /** Width of the guest's physical addresses, in bits. */
  readonly physicalBits: number
  /** Tells the guest to look at the hot-plug registers. */
  readonly raiseHotPlug: () => void
  /** The guest wrote the reset register. */
  readonly onReset: () => void
  /** Has a range where nothing is read as all ones, without exits if the machine can. */
  readonly coverAbsent: (address: number, size: number) => void
  readonly onError: (error: Error) => void
  readonly onNeedsReset: (device: string, reason: string) => void
}

/** The PCI bus of the machine with its devices, at the addresses and interrupts of docs/architecture.md. */
export class PciRoot {
  readonly #options: PciRootOptions
  readonly #bus: PciBus
  readonly #ports: readonly RootPort[]
  readonly #hotPlug: PciHotPlug | undefined
  /** Of the next device; undefined: the next free one. */
  #nextDevice: number | undefined
  readonly #functions = new Map<VmDevice, PciFunction>()
  /** Root ports that hold a device which came later, by device, and whom to tell when the guest has let it go. */
  readonly #plugged = new Map<VmDevice, { port: RootPort; ejected?: () => void }>()

  constructor(options: PciRootOptions) {
    this.#options = options
    const { memory, hotPlugSlots, physicalBits, hasFirmware } = options
    this.#nextDevice = hasFirmware ? FIRST_FIRMWARE_DEVICE : undefined
    const memory32 = hasFirmware ? PCI_FIRMWARE_MEMORY32 : PCI_MEMORY32
    this.#bus = new PciBus({
      host: this.#host(),
      ecam: { address: PCI_ECAM_ADDRESS, buses: 1 + hotPlugSlots },
      windows: { io: PCI_IO, memory32, memory64: memory64(memory, physicalBits) },
      interruptLines: PCI_ISA_IRQS,
    })
    this.#ports = Array.from({ length: hotPlugSlots }, () => this.#bus.addRootPort(this.#place()))
    if (hotPlugSlots > 0) {
      this.#hotPlug = new PciHotPlug({
        interrupt: { signal: options.raiseHotPlug },
        ports: this.#ports,
        onEject: (port) => this.#eject(port),
      })
      options.spaces.map("io", PCI_HOT_PLUG_PORT, 12, this.#hotPlug)
    }
  }

  /** Puts a device on the bus before the guest runs. Throws {@link ConfigError} when the bus is full. */
  attach(device: VmDevice): void {
    this.#bus.add(this.#functionOf(device), this.#place())
  }

  /** All devices are there: gives them addresses unless firmware does. `conf1`: the guest finds them by ports 0xCF8, too. */
  finish(conf1: boolean): PciHostDescription {
    const { spaces, hasFirmware, onReset } = this.#options
    if (!hasFirmware) this.#bus.assignResources({ decode: conf1 })
    if (!hasFirmware) this.#coverAbsent()
    if (conf1) spaces.map("io", PCI_CONF1_PORT, 8, new ResetControl({ onReset, shared: this.#bus.conf1 }))
    const { rootPorts, windows, ...description } = this.#bus.description
    return {
      ...description,
      windows: { ...windows, memory32: without(windows.memory32, this.reserved) },
      rootPorts: rootPorts.map(({ device }, slot) => ({ device, slot })),
      interruptGsis: PCI_GSIS,
      conf1,
      ...(this.#hotPlug ? { hotPlug: { port: PCI_HOT_PLUG_PORT } } : {}),
    }
  }

  /** A guest that looks for devices behind the last one finds, without an exit each, that there are none. */
  #coverAbsent(): void {
    const used = 1 + this.#bus.functions.length + this.#ports.length
    const address = PCI_ECAM_ADDRESS + used * PCI_ECAM_DEVICE_BYTES
    this.#options.coverAbsent(address, PCI_ECAM_ADDRESS + PCI_ECAM_BUS_BYTES - address)
  }

  /** What the guest's memory map must reserve. */
  get reserved(): { address: number; size: number } {
    return { address: PCI_ECAM_ADDRESS, size: this.#bus.description.ecam.buses * PCI_ECAM_BUS_BYTES }
  }

  /** Those of the virtio devices that are on the bus; for statistics. */
  get transports(): readonly VirtioPci[] {
    return [...this.#functions.values()].filter((fn) => fn instanceof VirtioPci)
  }

  /** Throws {@link ConfigError} when no hot-plug slot is free. */
  plug(device: VmDevice): void {
    const port = this.#ports.find((candidate) => candidate.function === undefined)
    if (port === undefined || this.#hotPlug === undefined) {
      const slots = this.#ports.length
      throw new ConfigError(`no free hot-plug slot for ${device.name}: the VM was made with ${slots}`)
    }
    port.plug(this.#functionOf(device))
    this.#plugged.set(device, { port })
    this.#hotPlug.inserted(this.#ports.indexOf(port))
  }

  /** Asks the guest to let go of a device. Resolves when it has and the device is off the bus, but not closed. */
  unplug(device: VmDevice): Promise<void> {
    const entry = this.#plugged.get(device)
    if (entry === undefined) {
      throw new ConfigError(`${device.name} was not plugged in, so it cannot be unplugged`)
    }
    return new Promise((resolve) => {
      const before = entry.ejected
      entry.ejected = () => {
        before?.()
        resolve()
      }
      this.#hotPlug?.requestRemoval(this.#ports.indexOf(entry.port))
    })
  }

  /** The driver is gone, or was wrong to eject: either way no request may reach a device that is not there. */
  async #eject(port: RootPort): Promise<void> {
    const found = [...this.#plugged].find(([, entry]) => entry.port === port)
    if (found === undefined) return
    const [device, { ejected }] = found
    this.#plugged.delete(device)
    this.#functions.delete(device)
    try {
      await port.unplug()
      ejected?.()
    } catch (error) {
      this.#options.onError(error as Error)
    }
  }

  #place(): { device?: number } {
    return this.#nextDevice === undefined ? {} : { device: this.#nextDevice++ }
  }

  #functionOf(device: VmDevice): PciFunction {
    const { rings, onError, onNeedsReset } = this.#options
    const fn = isVirtio(device)
      ? new VirtioPci({
          ...rings,
          device,
          onError,
          onNeedsReset: (reason) => onNeedsReset(device.name, reason),
        })
      : device
    this.#functions.set(device, fn)
    return fn
  }

  #host(): PciHost {
    const { spaces, memory, interrupts } = this.#options
    return {
      memory,
      map: (space, address, size, device) => spaces.map(space, address, size, device),
      createMsi: () => interrupts.message(),
      routeTogether: (change) => interrupts.routeTogether(change),
      setLine: (line, asserted) => {
        interrupts.setLevel(PCI_GSIS[line], asserted)
        interrupts.setLevel(PCI_ISA_IRQS[line], asserted)
      },
    }
  }
}

export function isVirtio(device: VmDevice): device is VirtioDevice {
  return "deviceType" in device
}

/** What of a range lies before and behind the hole. */
function without(range: AddressRange, hole: AddressRange): AddressRange[] {
  const end = range.address + range.size
  const holeEnd = hole.address + hole.size
  return [
    { address: range.address, size: Math.min(end, hole.address) - range.address },
    { address: holeEnd, size: end - holeEnd },
  ].filter(({ size }) => size > 0)
}

/** Above all RAM, at a multiple of its size; as much of it as the guest's processors can address. */
function memory64(memory: GuestMemory, physicalBits: number): { address: number; size: number } {
  const end = Math.max(2 ** 32, ...memory.regions.map(({ guestAddress, size }) => guestAddress + size))
  let size = PCI_MEMORY64_SIZE
  while (size > 2 ** 30 && Math.ceil(end / size) * size + size > 2 ** physicalBits) size /= 2
  return { address: Math.ceil(end / size) * size, size }
}
