import {
  type BusDevice,
  ConfigError,
  type PciBar,
  type PciFunction,
  type PciIdentity,
  type PciSlot,
  RestoreError,
  type Stateful,
} from "@virtkit/interface"
import { type AddressRange, assignResources, type PciWindows } from "./assign.js"
import { Conf1, type ConfigTarget } from "./conf1.js"
import { PCI_CFG_SPACE_EXP_SIZE } from "./constants.js"
import type { BusContext, SlotParent } from "./context.js"
import type { PciHost } from "./host.js"
import { HostBridge, type HostBridgeState } from "./host-bridge.js"
import { InterruptLines, swizzledLine } from "./intx.js"
import { Port, type RootPort, type RootPortState } from "./root-port.js"
import { FunctionSlot, type FunctionState } from "./slot.js"

export interface PciBusOptions {
  readonly host: PciHost
  /** Where configuration space is: 1 MiB for each of `buses` (1 to 256) bus numbers, at a multiple of 1 MiB. */
  readonly ecam: PciEcam
  readonly windows: PciWindows
  /** Default: a generic PCI Express host bridge. */
  readonly hostBridge?: PciIdentity
  /** Default: a generic PCI Express root port. */
  readonly rootPort?: PciIdentity
  /** What the Interrupt Line registers say for the four lines, for guests that have neither ACPI nor MSI-X. */
  readonly interruptLines?: readonly [number, number, number, number]
}

export interface PciEcam {
  readonly address: number
  readonly buses: number
}

/** What ACPI tables say of a bus. */
export interface PciBusDescription {
  readonly ecam: PciEcam
  readonly windows: PciWindows
  readonly rootPorts: readonly { readonly device: number }[]
}

/** Saved state of the bus and all that is on it. */
export interface PciBusState {
  readonly version: 1
  readonly kind: "pci"
  readonly configAddress: number
  readonly hostBridge: HostBridgeState
  readonly functions: readonly FunctionState[]
  readonly rootPorts: readonly RootPortState[]
}

const HOST_BRIDGE_IDENTITY = { vendorId: 0x1b36, deviceId: 0x0008, classCode: 0x06_0000 } as const
const ROOT_PORT_IDENTITY = { vendorId: 0x1b36, deviceId: 0x000c, classCode: 0x06_0400 } as const
const DEVICES = 32

type Node = HostBridge | FunctionSlot | Port

/**
 * A PCI Express root complex: a host bridge, a root bus with a function each on up to 31 devices, and root ports for more
 * that can be plugged in at run time.
 */
export class PciBus implements Stateful {
  /** The configuration ports 0xCF8 to 0xCFF, for those who want them beside the ECAM. */
  readonly conf1: BusDevice
  readonly #conf1: Conf1
  readonly #options: PciBusOptions
  readonly #context: BusContext
  /** By device number. */
  readonly #nodes: (Node | undefined)[] = new Array(DEVICES).fill(undefined)

  /** Throws {@link ConfigError} when the ranges make no sense or the host has something else there. */
  constructor(options: PciBusOptions) {
    checkOptions(options)
    this.#options = options
    this.#context = {
      host: options.host,
      lines: new InterruptLines(options.host),
      inWindow: (kind, address, size) => inWindow(options.windows, kind, address, size),
      ecamAddress: (bus, device) => ecamAddress(options.ecam, bus, device),
      decodeChanged: () => this.#decodeChanged(),
    }
    this.#conf1 = new Conf1((bus, device, fn) => (fn === 0 ? this.#find(bus, device) : undefined))
    this.conf1 = this.#conf1
    this.#insert(new HostBridge(options.hostBridge ?? HOST_BRIDGE_IDENTITY, this.#context))
  }

  /**
   * Puts a function on the root bus, as device `device` or the next free one, or behind `port`. Throws
   * {@link ConfigError} when there is no place or the function contradicts itself.
   */
  add(fn: PciFunction, where: { readonly device?: number; readonly port?: RootPort } = {}): PciSlot {
    if (where.port !== undefined) return where.port.plug(fn)
    const device = this.#free(where.device, fn.name)
    const slot = new FunctionSlot(fn, device, this.#rootParent(device))
    this.#insert(slot)
    return slot
  }

  addRootPort(where: { readonly device?: number } = {}): RootPort {
    const device = this.#free(where.device, "a root port")
    const port = new Port(device, this.#options.rootPort ?? ROOT_PORT_IDENTITY, this.#context)
    this.#insert(port)
    return port
  }

  get description(): PciBusDescription {
    const { ecam, windows } = this.#options
    return { ecam, windows, rootPorts: this.#ports().map(({ device }) => ({ device })) }
  }

  /** All functions but bridges, with their addresses as lspci writes them now. */
  get functions(): { readonly address: string; readonly function: PciFunction }[] {
    const behind = this.#ports().flatMap(({ child }) => child ?? [])
    return [...this.#slots(), ...behind].map((slot) => ({ address: slot.address, function: slot.function }))
  }

  /**
   * Gives every BAR and bridge window an address, as firmware does before it starts a kernel. `decode` (true unless told)
   * also switches the functions' decoding on, for kernels that rely on it; others do that by themselves, and sizing BARs
   * that do not decode takes them fewer accesses. Throws {@link ConfigError} when the windows are too small.
   */
  assignResources({ decode = true }: { readonly decode?: boolean } = {}): void {
    const { windows, ecam, interruptLines } = this.#options
    assignResources(windows, ecam.buses, this.#slots(), this.#ports(), interruptLines, decode)
    this.#decodeChanged()
  }

  state(): PciBusState {
    return {
      version: 1,
      kind: "pci",
      configAddress: this.#conf1.address,
      hostBridge: this.#hostBridge.state(),
      functions: this.#slots().map((slot) => slot.state()),
      rootPorts: this.#ports().map((port) => port.state()),
    }
  }

  /**
   * Everything is validated before anything changes, but for what the functions' own `restore` finds wrong: then the bus
   * is to be thrown away.
   */
  restore(state: unknown): void {
    const saved = this.#check(state)
    const slots = this.#slots()
    const ports = this.#ports()
    this.#conf1.address = saved.configAddress
    this.#hostBridge.restore(saved.hostBridge)
    for (const [index, slot] of slots.entries()) slot.restore(saved.functions[index]!)
    for (const [index, port] of ports.entries()) port.restore(saved.rootPorts[index]!)
    this.#decodeChanged()
    // Functions come last: they may interrupt and do DMA at once.
    for (const [index, slot] of slots.entries()) slot.function.restore(saved.functions[index]!.function)
    for (const [index, port] of ports.entries()) {
      port.child?.function.restore(saved.rootPorts[index]!.child?.function)
    }
  }

  /** Takes everything off the bus and closes all functions. Idempotent. */
  async close(): Promise<void> {
    await Promise.all(this.#nodes.splice(0).map((node) => node?.remove()))
  }

  get #hostBridge(): HostBridge {
    return this.#nodes[0] as HostBridge
  }

  #slots(): FunctionSlot[] {
    return this.#nodes.filter((node) => node instanceof FunctionSlot)
  }

  #ports(): Port[] {
    return this.#nodes.filter((node) => node instanceof Port)
  }

  #free(wanted: number | undefined, what: string): number {
    const device = wanted ?? this.#nodes.indexOf(undefined)
    if (wanted === undefined && device < 0) throw new ConfigError(`no free PCI device number for ${what}`)
    if (!Number.isInteger(device) || device < 0 || device >= DEVICES || this.#nodes[device] !== undefined) {
      throw new ConfigError(`PCI device number ${device} is not free for ${what}`)
    }
    return device
  }

  #insert(node: Node): void {
    this.#nodes[node.device] = node
    this.#decodeChanged()
    if (node.hasEcamPage) return
    this.#nodes[node.device] = undefined
    throw new ConfigError(`the configuration space of PCI device ${node.device} is where something else is`)
  }

  #rootParent(device: number): SlotParent {
    return {
      context: this.#context,
      behindPort: false,
      number: 0,
      line: swizzledLine(device),
      forwardsUp: true,
      forwardsDown: this.#context.inWindow,
    }
  }

  #find(bus: number, device: number): ConfigTarget | undefined {
    if (bus === 0) return this.#nodes[device]
    if (device !== 0) return undefined
    return this.#ports().find((port) => port.number === bus)?.child
  }

  #decodeChanged(): void {
    for (const node of this.#nodes) node?.leave()
    for (const node of this.#nodes) node?.settle()
  }

  #check(state: unknown): PciBusState {
    const saved = (state ?? {}) as Partial<PciBusState>
    if (saved.version !== 1 || saved.kind !== "pci")
      throw new RestoreError("not a version 1 state of a PCI bus")
    const { configAddress, functions, rootPorts } = saved
    if (!Number.isInteger(configAddress)) throw new RestoreError("PCI: no configuration address")
    const slots = this.#slots()
    const ports = this.#ports()
    if (!Array.isArray(functions) || functions.length !== slots.length) {
      throw new RestoreError(`the state does not have ${slots.length} PCI functions`)
    }
    if (!Array.isArray(rootPorts) || rootPorts.length !== ports.length) {
      throw new RestoreError(`the state does not have ${ports.length} PCI root ports`)
    }
    this.#hostBridge.check(saved.hostBridge)
    for (const [index, slot] of slots.entries()) slot.check(functions[index])
    for (const [index, port] of ports.entries()) port.check(rootPorts[index])
    return saved as PciBusState
  }
}

function inWindow(windows: PciWindows, kind: PciBar["kind"], address: number, size: number): boolean {
  if (kind === "io") return holds(windows.io, address, size)
  return holds(windows.memory32, address, size) || holds(windows.memory64, address, size)
}

function holds(range: AddressRange, address: number, size: number): boolean {
  return address >= range.address && address + size <= range.address + range.size
}

function ecamAddress(ecam: PciEcam, bus: number, device: number): number | undefined {
  if (bus >= ecam.buses) return undefined
  return ecam.address + (bus * DEVICES + device) * 8 * PCI_CFG_SPACE_EXP_SIZE
}

function checkOptions({ ecam, windows }: PciBusOptions): void {
  if (!Number.isInteger(ecam.buses) || ecam.buses < 1 || ecam.buses > 256) {
    throw new ConfigError(`an ECAM for ${ecam.buses} buses, not 1 to 256`)
  }
  if (!Number.isSafeInteger(ecam.address) || ecam.address % 0x10_0000 !== 0) {
    throw new ConfigError("the ECAM is at a multiple of 1 MiB")
  }
  const limits = { io: 0x1_0000, memory32: 2 ** 32, memory64: 2 ** 52 }
  for (const kind of ["io", "memory32", "memory64"] as const) {
    const { address, size } = windows[kind]
    const valid = Number.isSafeInteger(address) && Number.isSafeInteger(size) && address >= 0 && size >= 0
    if (!valid || address + size > limits[kind]) {
      throw new ConfigError(`the ${kind} window of the PCI bus is no range that PCI can have`)
    }
  }
}
