import {
  type AccessSize,
  type GuestMemory,
  type Interrupt,
  type PciFunction,
  type PciSlot,
  RestoreError,
} from "@virtkit/interface"
import { Bars } from "./bars.js"
import { declareCapabilities, msixCapability, ownCapability } from "./capabilities.js"
import { checkFunction } from "./check.js"
import { ConfigPage } from "./config-page.js"
import { ConfigSpace, le } from "./config-space.js"
import * as reg from "./constants.js"
import type { SlotParent } from "./context.js"
import { endpointCapability } from "./express.js"
import { declareHeader, declareType0 } from "./header.js"
import { Msix, type MsixState } from "./msix.js"

/** Saved state of a function and its slot. */
export interface FunctionState {
  readonly device: number
  readonly config: Uint8Array
  readonly intx: boolean
  readonly msix: MsixState | null
  /** What the function's own `state()` gave. */
  readonly function: unknown
}

/** A function on a bus: its configuration space, BARs and interrupts. */
export class FunctionSlot implements PciSlot {
  readonly function: PciFunction
  readonly device: number
  readonly config: ConfigSpace = new ConfigSpace()
  readonly #parent: SlotParent
  readonly #page: ConfigPage
  readonly #bars: Bars
  readonly #msix: Msix | undefined
  /** Offset of message control. */
  readonly #msixControl: number
  readonly #bodies: { reset(): void; restored(): void }[] = []
  /** The command register as it was acted on last. */
  #command = 0
  #intx = false
  /** Whether it holds the interrupt line. */
  #line = false
  #present = true
  #resetting: Promise<void> | undefined

  /** Throws {@link ConfigError} for a function that contradicts itself. Answers nowhere before `settle`. */
  constructor(fn: PciFunction, device: number, parent: SlotParent) {
    checkFunction(fn)
    this.function = fn
    this.device = device
    this.#parent = parent
    const { context } = parent
    const { msix } = fn
    if (msix !== undefined) this.#msix = new Msix(fn.name, context.host, msix, () => this.busMaster)
    const starts = this.#declare()
    this.#msixControl = (starts.get(reg.PCI_CAP_ID_MSIX) ?? 0) + reg.PCI_MSIX_FLAGS
    this.#page = new ConfigPage(fn.name, context.host, this.config, this.write.bind(this))
    this.#bars = new Bars(parent, this.config, fn.bars, (bar) =>
      bar.index === msix?.bar ? (this.#msix?.segments(bar) ?? []) : [],
    )
    fn.attach(this)
  }

  get address(): string {
    const bus = (this.#parent.number ?? 0).toString(16).padStart(2, "0")
    return `${bus}:${this.device.toString(16).padStart(2, "0")}.0`
  }

  get memory(): GuestMemory {
    return this.#parent.context.host.memory
  }

  get busMaster(): boolean {
    const enabled = (this.config.get16(reg.PCI_COMMAND) & reg.PCI_COMMAND_MASTER) !== 0
    return enabled && this.#present && this.#parent.forwardsUp
  }

  get msixEnabled(): boolean {
    return this.#msix?.enabled ?? false
  }

  msix(vector: number): Interrupt | undefined {
    return this.#msix?.vector(vector)
  }

  setIntx(asserted: boolean): void {
    if (!this.function.hasIntx) return
    this.#intx = asserted
    this.#updateIntx()
  }

  setLiveReads(on: boolean): void {
    if (this.#present) this.#page.setLive(on)
  }

  /** The guest writes to configuration space. While a reset is in progress that is lost, as it may be on hardware. */
  write(offset: number, size: AccessSize, value: number): void | Promise<void> {
    if (this.#resetting !== undefined) return undefined
    return this.config.write(offset, size, value)
  }

  /** Function-level reset, or one of its bus. During one there is no second (bad-input #34). */
  reset(): void | Promise<void> {
    if (this.#resetting !== undefined) return this.#resetting
    this.#intx = false
    this.#msix?.reset()
    this.config.reset()
    for (const body of this.#bodies) body.reset()
    this.#command = 0
    this.#page.setLive(false)
    this.#updateIntx()
    this.#parent.context.decodeChanged()
    const done = this.function.reset()
    if (done === undefined) return undefined
    this.#resetting = done.finally(() => {
      this.#resetting = undefined
    })
    return this.#resetting
  }

  /** First and second step of a change of who answers where, see `Placement`. */
  leave(): void {
    this.#page.placement.leaveUnless(this.#ecamAddress)
    this.#bars.leave()
  }

  settle(): void {
    this.#page.placement.settle(this.#ecamAddress)
    this.#bars.settle()
  }

  /** Whether the guest reaches configuration space by the ECAM. */
  get hasEcamPage(): boolean {
    return this.#page.placement.address !== undefined
  }

  /** The guest changed the command register of the port above, so that `busMaster` may have changed. */
  upstreamChanged(): void {
    this.#msix?.busMasterChanged()
    this.function.commandChanged?.()
  }

  /** From the host's side: what firmware would have written. */
  enable(command: number, interruptLine: number | undefined): void {
    this.#command = this.config.get16(reg.PCI_COMMAND) | command
    this.config.set16(reg.PCI_COMMAND, this.#command)
    if (interruptLine === undefined || !this.function.hasIntx) return
    this.config.set(reg.PCI_INTERRUPT_LINE, le(1, interruptLine))
  }

  /** Takes it off the bus at once; afterwards nothing that the function does reaches the guest. Then closes it. */
  async remove(): Promise<void> {
    if (this.#present) {
      this.#present = false
      this.#page.placement.leaveUnless(undefined)
      this.#bars.remove()
      this.#updateIntx()
      this.#msix?.close()
    }
    await this.#resetting
    await this.function.close()
  }

  state(): FunctionState {
    return {
      device: this.device,
      config: this.config.state(),
      intx: this.#intx,
      msix: this.#msix?.state() ?? null,
      function: this.function.state(),
    }
  }

  /** Throws {@link RestoreError} unless `saved` fits; what the function's own part says it finds out itself. */
  check(saved: unknown): void {
    const { device, config, intx, msix } = (saved ?? {}) as Partial<FunctionState>
    const { name } = this.function
    if (device !== this.device) throw new RestoreError(`${name}: the state is of device ${device}`)
    if (typeof intx !== "boolean") throw new RestoreError(`${name}: no level of INTA#`)
    this.config.check(name, config)
    if (this.#msix !== undefined) this.#msix.check(msix)
    else if (msix !== null) throw new RestoreError(`${name}: the state has MSI-X`)
  }

  /** `saved` has passed {@link check}. The bus lets it settle after this. */
  restore(saved: FunctionState): void {
    this.config.restore(saved.config)
    for (const body of this.#bodies) body.restored()
    this.#command = this.config.get16(reg.PCI_COMMAND)
    if (saved.msix !== null) this.#msix?.restore(saved.msix, this.config.get16(this.#msixControl))
    this.#intx = saved.intx
    this.#updateIntx()
  }

  get #ecamAddress(): number | undefined {
    const { number, context } = this.#parent
    return number === undefined ? undefined : context.ecamAddress(number, this.device)
  }

  /** Declares configuration space; returns where the capabilities begin, by ID. */
  #declare(): Map<number, number> {
    const { function: fn, config } = this
    const has = (io: boolean) => fn.bars.some((bar) => (bar.kind === "io") === io)
    const command =
      (has(true) ? reg.PCI_COMMAND_IO : 0) |
      (has(false) ? reg.PCI_COMMAND_MEMORY : 0) |
      reg.PCI_COMMAND_MASTER |
      reg.PCI_COMMAND_PARITY |
      reg.PCI_COMMAND_SERR |
      reg.PCI_COMMAND_INTX_DISABLE
    declareHeader(config, {
      identity: fn.identity,
      headerType: 0,
      command,
      hasCapabilities: true,
      hasIntx: fn.hasIntx,
      commandWritten: () => this.#commandWritten(),
    })
    declareType0(config, fn.identity, fn.bars, () => this.#parent.context.decodeChanged())
    const list = [
      endpointCapability(this.#parent.behindPort, () => this.#deviceControlWritten()),
      ...(fn.msix === undefined ? [] : [msixCapability(fn.msix, () => this.#msixControlWritten())]),
      ...fn.capabilities.map((capability) => ownCapability(config, capability, this.#bodies)),
    ]
    const starts = declareCapabilities(config, fn.name, list)
    return new Map(list.map(({ id }, index) => [id, starts[index]!] as const).reverse())
  }

  #commandWritten(): void {
    const command = this.config.get16(reg.PCI_COMMAND)
    if (command === this.#command) return
    this.#command = command
    this.#updateIntx()
    this.#parent.context.decodeChanged()
    this.#msix?.busMasterChanged()
    this.function.commandChanged?.()
  }

  #deviceControlWritten(): void | Promise<void> {
    // PCI Express is the first of the list.
    const register = reg.PCI_STD_HEADER_SIZEOF + reg.PCI_EXP_DEVCTL
    const value = this.config.get16(register)
    if ((value & reg.PCI_EXP_DEVCTL_BCR_FLR) === 0) return undefined
    this.config.set16(register, value & ~reg.PCI_EXP_DEVCTL_BCR_FLR)
    return this.reset()
  }

  #msixControlWritten(): void {
    this.#msix?.control(this.config.get16(this.#msixControl))
    this.#updateIntx()
  }

  /** PCI 3.0, 6.2.3: Interrupt Status tells of the level whether or not Interrupt Disable lets it through. */
  #updateIntx(): void {
    const asserted = this.#intx && this.#present && !this.msixEnabled
    const status = this.config.get16(reg.PCI_STATUS) & ~reg.PCI_STATUS_INTERRUPT
    this.config.set16(reg.PCI_STATUS, asserted ? status | reg.PCI_STATUS_INTERRUPT : status)
    const line = asserted && (this.config.get16(reg.PCI_COMMAND) & reg.PCI_COMMAND_INTX_DISABLE) === 0
    if (line === this.#line) return
    this.#line = line
    this.#parent.context.lines.change(this.#parent.line, line)
  }
}
