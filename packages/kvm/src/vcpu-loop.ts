import { availableParallelism } from "node:os"
import { ConfigError } from "@virtkit/interface"
import { ExitHub } from "@virtkit/native"
import { converting } from "./errors.js"
import type { ExitHandler } from "./handler.js"
import { RunningVcpu, type SlotMemory } from "./running.js"
import type { StartOptions, Vcpu } from "./vcpu.js"

export interface VcpuLoopOptions {
  /** The most vCPUs that run at once, 1 to 4096; 256 by default, 1 KiB each. */
  maxVcpus?: number
  /**
   * The most that either side busy-waits for the other, in microseconds; 50 by default. Always 0 when the process may
   * use one CPU only.
   */
  spinMicroseconds?: number
  /** After so long at a stretch the event loop gets its turn, in milliseconds; 2 by default. */
  turnMilliseconds?: number
}

// How many exits are answered before the clock is looked at.
const EXITS_A_CHECK = 16
// After n turns in a row that spun for nothing, 2^n - 1 do not spin; n goes up to this.
const MOST_FAILURES = 8

/**
 * Serves the exits of running vCPUs on this JavaScript thread. One loop may serve the vCPUs of any number of VMs, which
 * is best: while it spins for one guest's next exit it looks at all others too. Holds the event loop alive while a vCPU
 * is attached, holds nothing otherwise, needs no closing.
 *
 * How it works is told in docs/threading.md.
 */
export class VcpuLoop {
  #maxVcpus: number
  #spinLimit: number
  #turnLimit: number
  #hub: Hub | undefined
  #running: (RunningVcpu | undefined)[] = []
  #attached: RunningVcpu[] = []
  // Spinning is given up for more and more turns, the more often it was for nothing.
  #failures = 0
  #skip = 0
  #sleptAt = 0
  #inTurn = false
  #cursor = 0
  #scheduled: NodeJS.Immediate | undefined

  constructor(options: VcpuLoopOptions = {}) {
    this.#maxVcpus = options.maxVcpus ?? 256
    if (!Number.isInteger(this.#maxVcpus) || this.#maxVcpus < 1 || this.#maxVcpus > 4096)
      throw new ConfigError(`maxVcpus must be 1 to 4096, not ${options.maxVcpus}`)
    this.#spinLimit = availableParallelism() === 1 ? 0 : (options.spinMicroseconds ?? 50)
    this.#turnLimit = options.turnMilliseconds ?? 2
  }

  /** @internal Starts the thread of a vCPU; `counters` are its counts so far and take the final ones. */
  attach(
    vcpu: Vcpu,
    handler: ExitHandler,
    options: StartOptions,
    counters: Float64Array,
    ended: () => void,
  ): RunningVcpu {
    const index = this.#freeSlot()
    const hub = this.#openHub()
    const running = new RunningVcpu(vcpu, handler, hub, index, () => {
      counters.set(running.counters())
      ended()
    })
    running.counters().set(counters)
    this.#running[index] = running
    this.#attached.push(running)
    try {
      converting(() => vcpu.native.start(hub.native, index, options.reportInterrupted ?? false))
    } catch (error) {
      this.#detach(index)
      throw error
    }
    return running
  }

  #freeSlot(): number {
    const free = this.#running.indexOf(undefined)
    if (free >= 0) return free
    if (this.#running.length < this.#maxVcpus) return this.#running.length
    throw new ConfigError(`this VcpuLoop serves at most ${this.#maxVcpus} vCPUs; raise maxVcpus`)
  }

  #openHub(): Hub {
    if (this.#hub === undefined) {
      this.#hub = new Hub(
        this.#maxVcpus,
        this.#spinLimit,
        () => this.#onWake(),
        () => this.#turn(),
        (index) => this.#detach(index),
      )
    }
    return this.#hub
  }

  #detach(index: number): void {
    const running = this.#running[index]
    if (running === undefined) return
    this.#running[index] = undefined
    this.#attached.splice(this.#attached.indexOf(running), 1)
    if (this.#attached.length > 0) return
    this.#hub?.native.close()
    this.#hub = undefined
    this.#running = []
    if (this.#scheduled !== undefined) clearImmediate(this.#scheduled)
    this.#scheduled = undefined
  }

  /** An exit came while this thread was in its event loop. */
  #onWake(): void {
    // It came soon after the last turn: spinning might have caught it, try again earlier.
    if (performance.now() - this.#sleptAt < (2 * this.#spinLimit) / 1000) this.#skip >>= 1
    this.#turn()
  }

  /** Answers exits until none comes for a while, or the event loop must have its turn. */
  #turn(): void {
    if (this.#inTurn || this.#scheduled !== undefined) return
    this.#inTurn = true
    try {
      this.#serve()
    } catch (error) {
      // ExitHandler.error threw. That is for the process to see, but other vCPUs must not hang for it.
      this.#continueLater()
      throw error
    } finally {
      this.#inTurn = false
    }
  }

  #continueLater(): void {
    if (this.#hub === undefined) return
    this.#scheduled = setImmediate(() => {
      this.#scheduled = undefined
      this.#turn()
    })
  }

  #serve(): void {
    const started = performance.now()
    this.#hub?.setAwake()
    let count = 0
    // A pending promise makes progress only when this thread returns to its event loop.
    let later = false
    while (this.#hub !== undefined) {
      const running = this.#next(this.#hub, later)
      if (running === undefined) {
        this.#sleptAt = performance.now()
        return
      }
      later = running.serve() || later
      if (++count % EXITS_A_CHECK === 0 && performance.now() - started > this.#turnLimit) {
        this.#continueLater()
        return
      }
    }
  }

  /** The next vCPU with an exit; undefined when none came and the addon will call `#onWake`. */
  #next(hub: Hub, later: boolean): RunningVcpu | undefined {
    const attached = this.#attached
    for (let i = 0; i < attached.length; i++) {
      // Not always from the first: no vCPU may starve another.
      if (++this.#cursor >= attached.length) this.#cursor = 0
      const running = attached[this.#cursor]!
      if (running.ready()) return running
    }
    const spins = !later && this.#skip === 0
    if (!later && this.#skip > 0) this.#skip--
    const index = hub.native.poll(spins ? this.#spinLimit : 0)
    if (index >= 0) {
      this.#failures = 0
      return this.#running[index]
    }
    if (spins) {
      if (this.#failures < MOST_FAILURES) this.#failures++
      this.#skip = (1 << this.#failures) - 1
    }
    return undefined
  }
}

/** The addon's hub and the views of its memory. */
class Hub implements SlotMemory {
  readonly native: ExitHub
  readonly buffer: ArrayBuffer
  readonly words: Int32Array
  readonly unsigned: Uint32Array
  readonly doubles: Float64Array
  readonly answered: () => void
  readonly detach: (index: number) => void

  constructor(
    slots: number,
    spin: number,
    onWake: () => void,
    answered: () => void,
    detach: (index: number) => void,
  ) {
    this.native = converting(() => new ExitHub(slots, spin, onWake))
    this.buffer = this.native.buffer
    this.words = new Int32Array(this.buffer)
    this.unsigned = new Uint32Array(this.buffer)
    this.doubles = new Float64Array(this.buffer)
    this.answered = answered
    this.detach = detach
  }

  /** While this thread serves exits, vCPU threads need not wake it. */
  setAwake(): void {
    Atomics.store(this.words, 0, 0)
  }

  wake(index: number): void {
    this.native.wakeSlot(index)
  }
}
