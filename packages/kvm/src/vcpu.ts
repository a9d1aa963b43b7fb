import { StateError } from "@virtkit/interface"
import { KvmVcpu } from "@virtkit/native"
import { type ExitCounters, readCounters } from "./counters.js"
import { converting } from "./errors.js"
import type { ExitAnswer } from "./exits.js"
import type { ExitHandler } from "./handler.js"
import type { RunningVcpu } from "./running.js"
import { COUNTER_WORDS } from "./slot.js"
import { Statistics } from "./stats.js"
import type { VcpuLoop } from "./vcpu-loop.js"
import { VcpuState } from "./vcpu-state.js"
import type { Vm } from "./vm.js"

export interface StartOptions {
  /** Hand interruptions by `kick()` to the handler as exits; they are swallowed otherwise. */
  reportInterrupted?: boolean
}

/**
 * One virtual CPU. Its life: made by Vm.createVcpu, its state set up; `start` makes a thread that runs the guest and
 * hands its exits to the handler; `pause` and `resume` any number of times; `stop` ends the thread, after which `start`
 * may come again; `close`.
 */
export class Vcpu extends VcpuState {
  readonly id: number
  protected override readonly xsaveSize: number
  /** Referenced because it refers to the owners of the guest's memory. */
  protected readonly vm: Vm
  #running: RunningVcpu | undefined
  #counters = new Float64Array(COUNTER_WORDS)

  /** @internal Use Vm.createVcpu. */
  static create(vm: Vm, id: number): Vcpu {
    // 0 before Linux 5.17: then the area always has 4096 bytes.
    const xsaveSize = Math.max(4096, vm.checkExtension("KVM_CAP_XSAVE2"))
    return new Vcpu(
      converting(() => new KvmVcpu(vm.native, id)),
      vm,
      id,
      xsaveSize,
    )
  }

  private constructor(native: KvmVcpu, vm: Vm, id: number, xsaveSize: number) {
    super(native)
    this.vm = vm
    this.id = id
    this.xsaveSize = xsaveSize
  }

  /** "stopped": no thread. "exited": stopped by an exit that the handler was given. */
  get state(): "stopped" | "running" | "paused" | "exited" | "stopping" {
    return this.#running?.state ?? "stopped"
  }

  /** Runs the guest in a thread of its own; `handler` answers its exits on this thread, by way of `loop`. */
  start(loop: VcpuLoop, handler: ExitHandler, options: StartOptions = {}): void {
    this.assertOpen()
    if (this.#running !== undefined) throw new StateError(`vCPU ${this.id} is running already`)
    this.#running = loop.attach(this, handler, options, this.#counters, () => {
      this.#running = undefined
    })
  }

  /**
   * Makes KVM_RUN return once. The guest goes on by itself; the handler hears of it only with `reportInterrupted`.
   * Cheap; nothing happens when the vCPU is not running.
   */
  kick(): void {
    this.#running?.kick()
  }

  /**
   * Resolves when the guest is stopped in a consistent state, an access that it was making completed. Resolves at once
   * when it is stopped already, by an exit or because it was never started.
   */
  async pause(): Promise<void> {
    this.assertOpen()
    await this.#running?.pause()
  }

  /** Lets the guest go on after `pause` or after an exit, which `answer` answers. Throws StateError if it is running. */
  resume(answer?: ExitAnswer): void {
    this.assertOpen()
    if (this.#running === undefined) throw new StateError(`vCPU ${this.id} was not started`)
    this.#running.resume(answer)
  }

  /**
   * Ends the thread, whatever it does; an access whose answer is outstanding is abandoned. Resolves when it has ended.
   * Does not block the event loop. Idempotent.
   */
  async stop(): Promise<void> {
    await this.#running?.stop()
  }

  /** Stops the thread if there is one, waiting for its end (well below a millisecond); `stop()` first avoids that. */
  override close(): void {
    super.close()
    this.#running?.closed()
  }

  /** Counts of exits since the vCPU was made; costs nothing to keep. */
  get counters(): ExitCounters {
    return readCounters(this.#running?.counters() ?? this.#counters)
  }

  /** KVM_GET_STATS_FD. */
  statistics(): Statistics {
    this.assertOpen()
    return Statistics.of(this.native)
  }

  /** Maps the dirty ring; `bytes` as given to Vm.enableDirtyRing. */
  mapDirtyRing(bytes: number): void {
    this.assertOpen()
    converting(() => this.native.mapDirtyRing(bytes))
  }

  /**
   * Takes entries out of the dirty ring: pairs of memory slot and page within it (as Numbers), at most
   * `out.length / 2` of them; returns the number of pairs. Vm.resetDirtyRings afterwards makes room in the ring.
   */
  harvestDirtyRing(out: Float64Array): number {
    this.assertOpen()
    return converting(() => this.native.harvestDirtyRing(out))
  }

  /** Hands the writes that were coalesced so far to the handler. That happens before each exit's access anyway. */
  flushCoalesced(): void {
    this.assertOpen()
    this.#running?.flushCoalesced()
  }
}
