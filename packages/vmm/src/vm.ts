import { EventEmitter } from "node:events"
import type { Duplex } from "node:stream"
import { ConfigError, type GuestMemory, StateError } from "@virtkit/interface"
import { type ExitAnswer, type ExitHandler, type Vcpu, type VcpuExit, VcpuLoop } from "@virtkit/kvm"
import { ConsoleTail } from "./console-tail.js"
import { cpuFailure } from "./cpu-failure.js"
import { closeDevices, settleDevices } from "./devices.js"
import type { VmExit } from "./exit.js"
import { Lifecycle, type VmState } from "./lifecycle.js"
import { buildMachine, type Machine } from "./machine-build.js"
import { checkOptions, checkSharing, type VmConfig, type VmOptions } from "./options.js"
import { isVirtio, type PciRoot, type VmDevice } from "./pci-root.js"
import { collectStatistics, Phases, type VmStatistics } from "./statistics.js"
import { discardUnread, tapOutput } from "./tap.js"
import { Teardown } from "./teardown.js"
import { tellPaused } from "./vcpu-setup.js"

/** Lines of console output that a crash is told with. */
const TAIL_LINES = 24

export interface VmEvents {
  /** After each change of `vm.state`. */
  state: [state: VmState]
  /** As `vm.exited` resolves. */
  exited: [exit: VmExit]
  /** A device gave up until the guest resets it: the driver broke the rules, or its backend failed. */
  deviceNeedsReset: [device: string, reason: string]
}

// Belongs to the thread's event loop rather than to a VM: one that serves all of them spins for all of them at once.
const defaultLoop: VcpuLoop = new VcpuLoop({ maxVcpus: 4096 })

/**
 * A virtual machine: created, started, perhaps paused and resumed, and at its end exited and closed
 * (docs/lifecycle.md). Any number of them may live in a process.
 */
export class Vm extends EventEmitter<VmEvents> implements AsyncDisposable {
  readonly name: string
  /**
   * The guest's console: the first virtio console among the devices, else the serial port. What the guest writes while
   * nobody reads is discarded.
   */
  readonly console: Duplex
  /** The 16550 serial port, ttyS0. */
  readonly serial: Duplex
  /** Why the VM ended: resolves when no vCPU runs any more and all devices have finished their work. Never rejects. */
  readonly exited: Promise<VmExit>
  readonly #machine: Machine
  readonly #devices: VmDevice[]
  readonly #teardown: Teardown
  readonly #lifecycle = new Lifecycle((state) => this.#tell("state", state))
  readonly #tail = new ConsoleTail()
  readonly #phases: Phases
  readonly #onDeniedMsr: VmConfig["onDeniedMsr"]
  readonly #memoryBacking: VmConfig["memoryBacking"]
  #resolveExited!: (exit: VmExit) => void
  #closing: Promise<void> | undefined

  private constructor(config: VmConfig, parts: Parts) {
    super()
    this.name = config.name
    this.#machine = parts.machine
    this.#devices = parts.devices
    this.#teardown = parts.teardown
    this.#phases = parts.phases
    this.#onDeniedMsr = config.onDeniedMsr
    this.#memoryBacking = config.memoryBacking
    this.serial = parts.machine.platform.serial.stream
    this.console = parts.consoleStream ?? this.serial
    this.exited = new Promise((resolve) => {
      this.#resolveExited = resolve
    })
    for (const stream of new Set([this.serial, this.console]))
      tapOutput(stream, (chunk) => this.#tail.add(chunk))
  }

  /**
   * Assembles a machine and loads its kernel. Throws ConfigError when an option cannot be met and SystemError when KVM or
   * the system refuses; nothing is left open then, the given devices included.
   */
  static async create(options: VmOptions): Promise<Vm> {
    const phases = new Phases()
    const devices = await settleDevices(options.devices ?? [])
    const teardown = new Teardown()
    teardown.add(() => closeDevices(devices))
    try {
      options.signal?.throwIfAborted()
      const config = checkOptions(options, devices)
      const consoleStream = findConsole(devices)
      const consoleArgument = consoleStream ? "console=hvc0" : "console=ttyS0"
      // The devices can report something only once a vCPU runs, and by then there is a VM.
      let vm: Vm | undefined
      const tell = (event: (to: Vm) => void) => {
        if (vm !== undefined) event(vm)
      }
      const machine = await buildMachine(
        config,
        consoleArgument,
        devices,
        {
          onPowerOff: () => tell((to) => to.#finish({ reason: "poweroff" })),
          onReset: () => tell((to) => to.#guestReset()),
          onPanic: () => tell((to) => to.#finish(() => to.#panic())),
          onError: (error) => tell((to) => to.#finish({ reason: "host-error", error })),
          onNeedsReset: (device, reason) => tell((to) => to.#tell("deviceNeedsReset", device, reason)),
        },
        teardown,
      )
      phases.mark("create")
      vm = new Vm(config, { machine, devices, teardown, phases, consoleStream })
      if (options.signal) vm.#obey(options.signal)
      return vm
    } catch (error) {
      // What cannot be closed either is most likely a consequence: the first error is the one to tell.
      await teardown.run().catch(() => {})
      throw error
    }
  }

  get state(): VmState {
    return this.#lifecycle.state
  }

  /** Asked again after each change of state: a listener may have ended the VM. */
  get #isRunning(): boolean {
    return this.#lifecycle.state === "running"
  }

  get memory(): GuestMemory {
    return this.#machine.memory
  }

  /** Lets the vCPUs run. Throws StateError unless the VM is new; SystemError, which ends it, when a thread is refused. */
  async start(): Promise<void> {
    this.#lifecycle.require("start", "created")
    discardUnread(this.serial)
    discardUnread(this.console)
    this.#phases.mark("start")
    this.#lifecycle.to("running")
    if (!this.#isRunning) return
    try {
      for (const vcpu of this.#machine.vcpus) vcpu.start(defaultLoop, this.#handler)
    } catch (error) {
      // Those that did start must not run on as half a machine.
      this.#finish({ reason: "host-error", error: error as Error })
      throw error
    }
  }

  /**
   * Stops all vCPUs between two instructions. Devices finish what they were asked for. Resolves when they stand; if the
   * guest ended meanwhile the VM is `exited` then.
   */
  async pause(): Promise<void> {
    this.#lifecycle.require("pause", "running")
    await Promise.all(this.#machine.vcpus.map((vcpu) => vcpu.pause()))
    if (this.#isRunning) this.#lifecycle.to("paused")
  }

  /** Goes on after `pause`. The guest's clocks went on meanwhile; a guest with kvm-clock is told why it heard nothing. */
  async resume(): Promise<void> {
    this.#lifecycle.require("resume", "paused")
    tellPaused(this.#machine.vcpus)
    this.#lifecycle.to("running")
    if (!this.#isRunning) return
    for (const vcpu of this.#machine.vcpus) vcpu.resume()
  }

  /** Presses the power button: a guest that listens to it shuts down. */
  pressPowerButton(): void {
    this.#lifecycle.require("pressPowerButton", "running")
    this.#machine.platform.power.pressPowerButton()
  }

  /**
   * Puts a device into a free hot-plug slot (`VmOptions.hotPlugSlots`) of a running or paused VM, which owns it from here
   * on and closes it, even when this throws. The guest is told and takes it when it likes.
   * Throws ConfigError when no slot is free, StateError when the VM does not run.
   */
  async plug(device: VmDevice | Promise<VmDevice>): Promise<void> {
    const [ready] = await settleDevices([device])
    try {
      const pci = this.#requirePci("plug")
      checkSharing(ready!, this.#memoryBacking)
      pci.plug(ready!)
      this.#devices.push(ready!)
    } catch (error) {
      await closeDevices([ready!])
      throw error
    }
  }

  /**
   * Asks the guest to let go of a device that was plugged in. Resolves when it has and the device is closed; the guest may
   * take its time, or never agree. `signal` ends the wait and nothing else.
   * Throws ConfigError for a device that was not plugged in, StateError when the VM does not run or ends meanwhile.
   */
  async unplug(device: VmDevice, options: { readonly signal?: AbortSignal } = {}): Promise<void> {
    options.signal?.throwIfAborted()
    const gone = this.#requirePci("unplug").unplug(device)
    await this.#beforeTheEnd(gone, options.signal)
    this.#devices.splice(this.#devices.indexOf(device), 1)
    await closeDevices([device])
  }

  /** Ends the VM where it stands, as by pulling the plug. Requests that devices have begun are finished. Idempotent. */
  async kill(): Promise<void> {
    this.#finish({ reason: "killed" })
    await this.exited
  }

  /** Ends the VM if need be and releases everything it holds. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** Counters since creation; they stay readable until `close`. */
  statistics(): VmStatistics {
    return collectStatistics(this.#machine, this.#phases)
  }

  async #close(): Promise<void> {
    await this.kill()
    this.removeAllListeners("deviceNeedsReset")
    try {
      await this.#teardown.run()
    } finally {
      this.#lifecycle.to("closed")
    }
  }

  #obey(signal: AbortSignal): void {
    const onAbort = () => this.#finish({ reason: "killed" })
    signal.addEventListener("abort", onAbort, { once: true })
    this.#teardown.add(() => signal.removeEventListener("abort", onAbort))
    if (signal.aborted) onAbort()
  }

  #requirePci(what: string): PciRoot {
    if (this.#lifecycle.state !== "paused") this.#lifecycle.require(what, "running")
    const { pci } = this.#machine
    if (pci === undefined) throw new ConfigError(`${what} needs the transport "pci"`)
    return pci
  }

  /** What `wanted` gives, unless the VM ends or `signal` is aborted before. */
  async #beforeTheEnd(wanted: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
    const ended = this.exited.then(() => {
      throw new StateError(`${this.name} ended before its guest let go of the device`)
    })
    if (signal === undefined) return Promise.race([wanted, ended])
    let onAbort = (): void => {}
    const aborted = new Promise<never>((_, reject) => {
      onAbort = () => reject(signal.reason)
      signal.addEventListener("abort", onAbort, { once: true })
    })
    try {
      await Promise.race([wanted, ended, aborted])
    } finally {
      signal.removeEventListener("abort", onAbort)
    }
  }

  /**
   * The end, once: whatever comes after the first reason is a consequence of it. A function is asked when everything that
   * the guest wrote has been heard.
   */
  #finish(exit: VmExit | (() => VmExit)): void {
    const { state } = this.#lifecycle
    if (state === "exited" || state === "closed") return
    this.#lifecycle.to("exited")
    this.#phases.mark("exit")
    void this.#quiesce(exit).then((result) => {
      this.#resolveExited(result)
      this.#tell("exited", result)
    })
  }

  /** Stops the vCPUs, then the devices; a device that cannot be closed is what the VM ended with. */
  async #quiesce(exit: VmExit | (() => VmExit)): Promise<VmExit> {
    try {
      await Promise.all(this.#machine.vcpus.map((vcpu) => vcpu.stop()))
      await closeDevices(this.#devices)
    } catch (error) {
      return { reason: "host-error", error: error as Error }
    } finally {
      this.#machine.platform.close()
    }
    return typeof exit === "function" ? exit() : exit
  }

  /** What a listener throws is an uncaught exception, as everywhere, and not the end of what the VM was doing. */
  #tell<Name extends keyof VmEvents>(name: Name, ...args: VmEvents[Name]): void {
    try {
      // biome-ignore lint/suspicious/noExplicitAny: EventEmitter's types cannot be met by a generic name
      this.emit(name, ...(args as any))
    } catch (error) {
      queueMicrotask(() => {
        throw error
      })
    }
  }

  #guestReset(): void {
    // A kernel that panicked resets the machine, if it was told to (panic=-1).
    this.#finish(() => (this.#tail.panicked ? this.#panic() : { reason: "reset" }))
  }

  #panic(): VmExit {
    return { reason: "panic", console: this.#tail.crashLines(TAIL_LINES) }
  }

  /** A triple fault; some kernels reset the machine by one on purpose (reboot=t). */
  #shutdown(vcpu: Vcpu): VmExit {
    if (this.#tail.panicked) return this.#panic()
    if (this.#tail.restarting) return { reason: "reset" }
    return { reason: "triple-fault", vcpu: vcpu.id, console: this.#tail.lines(TAIL_LINES) }
  }

  readonly #handler: ExitHandler = {
    portRead: (port, size) => this.#machine.ports.read(port, size),
    portWrite: (port, size, value) => this.#machine.ports.write(port, size, value),
    mmioRead: (address, size) => this.#machine.mmio.read(address, size),
    mmioWrite: (address, size, value) => this.#machine.mmio.write(address, size, value),
    exit: (vcpu, exit) => this.#onExit(vcpu, exit),
    error: (_vcpu, error) => this.#finish({ reason: "host-error", error: error as Error }),
  }

  #onExit(vcpu: Vcpu, exit: VcpuExit): "resume" | ExitAnswer | undefined {
    switch (exit.reason) {
      case "shutdown":
        this.#finish(() => this.#shutdown(vcpu))
        return undefined
      case "system-event":
        if (exit.event === "shutdown") this.#finish({ reason: "poweroff" })
        else if (exit.event === "crash") this.#finish(() => this.#panic())
        else this.#guestReset()
        return undefined
      case "internal-error":
      case "fail-entry":
      case "run-failed":
      case "memory-fault":
      case "unknown":
        this.#finish(cpuFailure(vcpu, exit, this.#machine.memory))
        return undefined
      case "rdmsr":
      case "wrmsr":
        return this.#answerMsr(vcpu, exit)
      default:
        // Only happens when something asked KVM for it (debugging, dirty rings); nothing here does.
        return "resume"
    }
  }

  /** An access that the filter denies: what the callback says, else #GP. */
  #answerMsr(vcpu: Vcpu, exit: Extract<VcpuExit, { reason: "rdmsr" | "wrmsr" }>): ExitAnswer {
    const value = this.#onDeniedMsr?.({
      vcpu: vcpu.id,
      msr: exit.index,
      value: exit.reason === "wrmsr" ? exit.value : undefined,
    })
    return value === undefined ? { error: true } : { value }
  }
}

interface Parts {
  readonly machine: Machine
  readonly devices: VmDevice[]
  readonly teardown: Teardown
  readonly phases: Phases
  readonly consoleStream: Duplex | undefined
}

/** The stream of the first virtio console. */
function findConsole(devices: readonly VmDevice[]): Duplex | undefined {
  const VIRTIO_ID_CONSOLE = 3
  const found = devices
    .filter(isVirtio)
    .find((device) => device.deviceType === VIRTIO_ID_CONSOLE && "stream" in device)
  return (found as { stream?: Duplex } | undefined)?.stream
}
