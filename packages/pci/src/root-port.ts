import {
  type AccessSize,
  type PciBar,
  type PciFunction,
  type PciIdentity,
  type PciSlot,
  RestoreError,
  StateError,
} from "@virtkit/interface"
import { declareWindows, forwards } from "./bridge-windows.js"
import { declareCapabilities } from "./capabilities.js"
import { ConfigPage } from "./config-page.js"
import { ConfigSpace, le } from "./config-space.js"
import * as reg from "./constants.js"
import type { BusContext, InterruptLine, SlotParent } from "./context.js"
import { rootPortCapability } from "./express.js"
import { declareHeader } from "./header.js"
import { swizzledLine } from "./intx.js"
import { FunctionSlot, type FunctionState } from "./slot.js"

/** A PCI Express root port: a place for one function that can come and go while the guest runs. */
export interface RootPort {
  /** Its device number on the root bus, which is the number of its slot too. */
  readonly device: number
  /** What is plugged in. */
  readonly function: PciFunction | undefined
  /**
   * Puts a function behind the port. Throws `StateError` when one is there, `ConfigError` for one that contradicts
   * itself. A running guest looks when it is told to: see `PciHotPlug`.
   */
  plug(fn: PciFunction): PciSlot
  /**
   * Takes the function off the bus at once, whether or not the guest agreed, and closes it; resolves when that is done.
   * Does nothing when the port is empty.
   */
  unplug(): Promise<void>
}

/** Saved state of a port and what is behind it. */
export interface RootPortState {
  readonly device: number
  readonly config: Uint8Array
  readonly child: FunctionState | null
}

const COMMAND =
  reg.PCI_COMMAND_IO |
  reg.PCI_COMMAND_MEMORY |
  reg.PCI_COMMAND_MASTER |
  reg.PCI_COMMAND_PARITY |
  reg.PCI_COMMAND_SERR |
  reg.PCI_COMMAND_INTX_DISABLE

const BRIDGE_CONTROL = reg.PCI_BRIDGE_CTL_PARITY | reg.PCI_BRIDGE_CTL_SERR | reg.PCI_BRIDGE_CTL_BUS_RESET

/** The port itself: a bridge (type 1 header) and the bus behind it, on which there is device 0 alone. */
export class Port implements RootPort, SlotParent {
  readonly device: number
  readonly context: BusContext
  readonly behindPort = true
  readonly config: ConfigSpace = new ConfigSpace()
  readonly #page: ConfigPage
  readonly #name: string
  child: FunctionSlot | undefined
  #command = 0
  #inReset = false

  constructor(device: number, identity: PciIdentity, context: BusContext) {
    this.device = device
    this.context = context
    this.#name = `root port ${device}`
    this.#declare(identity)
    this.#page = new ConfigPage(this.#name, context.host, this.config, this.write.bind(this))
  }

  get function(): PciFunction | undefined {
    return this.child?.function
  }

  plug(fn: PciFunction): PciSlot {
    if (this.child !== undefined) {
      throw new StateError(`${this.#name} has ${this.child.function.name} already`)
    }
    this.child = new FunctionSlot(fn, 0, this)
    this.#showPresence()
    this.context.decodeChanged()
    return this.child
  }

  async unplug(): Promise<void> {
    const { child } = this
    if (child === undefined) return
    this.child = undefined
    this.#showPresence()
    const done = child.remove()
    // What could not answer because the function was in its place.
    this.context.decodeChanged()
    await done
  }

  get number(): number | undefined {
    const secondary = this.config.get8(reg.PCI_SECONDARY_BUS)
    return secondary !== 0 && secondary <= this.config.get8(reg.PCI_SUBORDINATE_BUS) ? secondary : undefined
  }

  get line(): InterruptLine {
    return swizzledLine(this.device)
  }

  get forwardsUp(): boolean {
    return (this.config.get16(reg.PCI_COMMAND) & reg.PCI_COMMAND_MASTER) !== 0
  }

  forwardsDown(kind: PciBar["kind"], address: number, size: number): boolean {
    return this.context.inWindow(kind, address, size) && forwards(this.config, kind, address, size)
  }

  write(offset: number, size: AccessSize, value: number): void | Promise<void> {
    return this.config.write(offset, size, value)
  }

  leave(): void {
    this.#page.placement.leaveUnless(this.context.ecamAddress(0, this.device))
    this.child?.leave()
  }

  settle(): void {
    this.#page.placement.settle(this.context.ecamAddress(0, this.device))
    this.child?.settle()
  }

  get hasEcamPage(): boolean {
    return this.#page.placement.address !== undefined
  }

  /** From the host's side: what firmware would have written. */
  enable(command: number): void {
    this.#command = this.config.get16(reg.PCI_COMMAND) | command
    this.config.set16(reg.PCI_COMMAND, this.#command)
  }

  setBusNumber(secondary: number): void {
    this.config.set(reg.PCI_PRIMARY_BUS, Uint8Array.of(0, secondary, secondary))
  }

  async remove(): Promise<void> {
    this.#page.placement.leaveUnless(undefined)
    await this.unplug()
  }

  state(): RootPortState {
    return { device: this.device, config: this.config.state(), child: this.child?.state() ?? null }
  }

  check(saved: unknown): void {
    const { device, config, child } = (saved ?? {}) as Partial<RootPortState>
    if (device !== this.device) throw new RestoreError(`${this.#name}: the state is of device ${device}`)
    this.config.check(this.#name, config)
    if (this.child === undefined && child !== null)
      throw new RestoreError(`${this.#name}: the state has a function`)
    this.child?.check(child)
  }

  restore(saved: RootPortState): void {
    this.config.restore(saved.config)
    this.#command = this.config.get16(reg.PCI_COMMAND)
    this.#inReset = (this.config.get16(reg.PCI_BRIDGE_CONTROL) & reg.PCI_BRIDGE_CTL_BUS_RESET) !== 0
    this.#showPresence()
    if (saved.child !== null) this.child?.restore(saved.child)
  }

  #declare(identity: PciIdentity): void {
    const { config } = this
    const changed = () => this.context.decodeChanged()
    declareHeader(config, {
      identity,
      headerType: reg.PCI_HEADER_TYPE_BRIDGE,
      command: COMMAND,
      hasCapabilities: true,
      hasIntx: false,
      commandWritten: () => this.#commandWritten(),
    })
    const bus = { value: new Uint8Array(3), writable: new Uint8Array(3).fill(0xff), written: changed }
    config.declare({ offset: reg.PCI_PRIMARY_BUS, ...bus })
    declareWindows(config, changed)
    config.declare({ offset: reg.PCI_SEC_STATUS, value: le(2, 0), clear: le(2, reg.PCI_STATUS_ERRORS) })
    config.declare({
      offset: reg.PCI_BRIDGE_CONTROL,
      value: le(2, 0),
      writable: le(2, BRIDGE_CONTROL),
      written: () => this.#bridgeControlWritten(),
    })
    declareCapabilities(config, this.#name, [rootPortCapability(this.device)])
  }

  #commandWritten(): void {
    const command = this.config.get16(reg.PCI_COMMAND)
    if (command === this.#command) return
    const changed = command ^ this.#command
    this.#command = command
    this.context.decodeChanged()
    if ((changed & reg.PCI_COMMAND_MASTER) !== 0) this.child?.upstreamChanged()
  }

  /** Secondary Bus Reset: setting it resets what is behind the port; holding it or clearing it does no more. */
  #bridgeControlWritten(): void | Promise<void> {
    const set = (this.config.get16(reg.PCI_BRIDGE_CONTROL) & reg.PCI_BRIDGE_CTL_BUS_RESET) !== 0
    if (set === this.#inReset) return undefined
    this.#inReset = set
    return set ? this.child?.reset() : undefined
  }

  /** Presence Detect State. */
  #showPresence(): void {
    const register = reg.PCI_STD_HEADER_SIZEOF + reg.PCI_EXP_SLTSTA
    this.config.set16(register, this.child === undefined ? 0 : reg.PCI_EXP_SLTSTA_PDS)
  }
}
