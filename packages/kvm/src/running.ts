import { type AccessSize, StateError } from "@virtkit/interface"
import { decodeExit, type ExitAnswer, encodeAnswer } from "./exits.js"
import type { ExitHandler } from "./handler.js"
import * as slot from "./slot.js"
import type { Vcpu } from "./vcpu.js"

/** What a running vCPU needs of its loop. */
export interface SlotMemory {
  readonly buffer: ArrayBuffer
  readonly words: Int32Array
  readonly unsigned: Uint32Array
  readonly doubles: Float64Array
  wake(index: number): void
  /** An answer was given outside a turn, with no caller's code below: serves exits, more of which will come soon. */
  answered(): void
  /** The vCPU's thread has ended. */
  detach(index: number): void
}

const ENTRY_BYTES = 24

/** JavaScript's side of one exit slot, from the start of a vCPU's thread to its end. */
export class RunningVcpu {
  readonly vcpu: Vcpu
  state: "running" | "paused" | "exited" | "stopping" = "running"
  #handler: ExitHandler
  #memory: SlotMemory
  #index: number
  // Indices into the memory's views.
  #state: number
  #word: number
  #double: number
  #payload: DataView
  #ended: () => void
  // Changes with every exit and when the thread is told to end: an answer is for the exit that it was taken with.
  #turn = 0
  // What the handler answered the exit with; not given to the guest yet while someone wants it paused.
  #prepared: ExitAnswer | undefined
  #pauseWaiters: (() => void)[] = []
  #stopWaiters: (() => void)[] = []

  constructor(vcpu: Vcpu, handler: ExitHandler, memory: SlotMemory, index: number, ended: () => void) {
    this.vcpu = vcpu
    this.#handler = handler
    this.#memory = memory
    this.#index = index
    this.#ended = ended
    const base = (index + 1) * slot.SLOT_BYTES
    this.#state = (base + slot.STATE) >> 2
    this.#word = base >> 2
    this.#double = base >> 3
    this.#payload = new DataView(memory.buffer, base + slot.PAYLOAD, slot.PAYLOAD_BYTES)
  }

  /** Whether an exit waits that was not looked at. */
  ready(): boolean {
    const state = Atomics.load(this.#memory.words, this.#state)
    return (state & (slot.PUBLISHED | slot.TAKEN)) === slot.PUBLISHED
  }

  /** Answers the exit that waits. Returns whether the answer will come later, by a promise. */
  serve(): boolean {
    const unsigned = this.#memory.unsigned
    const word = this.#word
    const kind = unsigned[word + (slot.KIND >> 2)]!
    // What came before this exit; its handler may stop the vCPU.
    if (
      unsigned[word + (slot.COALESCED >> 2)] !== 0 &&
      this.state !== "stopping" &&
      kind !== slot.KIND_STOPPED
    )
      this.flushCoalesced()
    // An exit that its own handler, or another, has answered by stopping the vCPU: the thread gives it up.
    if (this.state === "stopping" && kind !== slot.KIND_STOPPED) {
      Atomics.or(this.#memory.words, this.#state, slot.TAKEN)
      // The thread may have told its end just before that, and tells it once only. If it does so after it, it
      // overwrites the mark.
      if (Atomics.load(this.#memory.words, word + (slot.KIND >> 2)) === slot.KIND_STOPPED) this.#onStopped()
      return false
    }
    if (kind === slot.KIND_IO || kind === slot.KIND_MMIO) return this.#access(kind === slot.KIND_IO)
    if (kind === slot.KIND_PAUSED) this.#onPaused()
    else if (kind === slot.KIND_STOPPED) this.#onStopped()
    else this.#onExit()
    return false
  }

  #access(port: boolean): boolean {
    const unsigned = this.#memory.unsigned
    const word = this.#word
    const address = this.#memory.doubles[this.#double + (slot.ADDRESS >> 3)]!
    const size = unsigned[word + (slot.SIZE >> 2)] as AccessSize
    const turn = ++this.#turn
    if (unsigned[word + (slot.WRITE >> 2)] === 0) {
      let value = 0xffffffff
      try {
        value = port ? this.#handler.portRead(address, size) : this.#handler.mmioRead(address, size)
      } catch (error) {
        this.#handler.error(this.vcpu, error)
      }
      // The thread may have been told to end by the handler, then the slot is no longer ours.
      if (turn === this.#turn) unsigned[word + (slot.DATA >> 2)] = value
    } else {
      const value = unsigned[word + (slot.DATA >> 2)]!
      const promise = this.#write(port, address, size, value)
      if (promise !== undefined) {
        if (turn === this.#turn) Atomics.or(this.#memory.words, this.#state, slot.TAKEN)
        promise.then(
          () => this.#answerLater(turn),
          (error) => {
            this.#handler.error(this.vcpu, error)
            this.#answerLater(turn)
          },
        )
        return true
      }
    }
    if (turn === this.#turn) this.#answer()
    return false
  }

  #write(port: boolean, address: number, size: AccessSize, value: number): Promise<void> | undefined {
    try {
      const result = port
        ? this.#handler.portWrite(address, size, value)
        : this.#handler.mmioWrite(address, size, value)
      return result === undefined ? undefined : result
    } catch (error) {
      this.#handler.error(this.vcpu, error)
      return undefined
    }
  }

  #answer(): void {
    const before = Atomics.exchange(this.#memory.words, this.#state, 0)
    if ((before & slot.SLEEPING) !== 0) this.#memory.wake(this.#index)
  }

  #answerLater(turn: number): void {
    if (turn !== this.#turn) return
    this.#answer()
    this.#memory.answered()
  }

  #onExit(): void {
    this.#turn++
    Atomics.or(this.#memory.words, this.#state, slot.TAKEN)
    this.state = "exited"
    const reason = this.#memory.unsigned[this.#word + (slot.REASON >> 2)]!
    const error = this.#memory.unsigned[this.#word + (slot.ERROR >> 2)]!
    // Whoever waits for a pause has one: the guest is stopped until the exit is answered.
    const waiters = this.#takePauseWaiters()
    const turn = this.#turn
    try {
      this.#prepared = undefined
      const then = this.#handler.exit(this.vcpu, decodeExit(reason, error, this.#payload))
      if (then !== undefined && this.state === "exited" && turn === this.#turn) {
        this.#prepared = then === "resume" ? {} : then
        if (waiters.length === 0) this.resume()
      }
    } catch (thrown) {
      this.#handler.error(this.vcpu, thrown)
    }
    for (const waiter of waiters) waiter()
  }

  #onPaused(): void {
    this.#turn++
    // Asked for, but then an exit stopped the guest first and it was resumed since.
    if (this.#pauseWaiters.length === 0) {
      this.#answer()
      return
    }
    Atomics.or(this.#memory.words, this.#state, slot.TAKEN)
    this.state = "paused"
    for (const waiter of this.#takePauseWaiters()) waiter()
  }

  #takePauseWaiters(): (() => void)[] {
    const waiters = this.#pauseWaiters
    this.#pauseWaiters = []
    return waiters
  }

  #onStopped(): void {
    this.vcpu.native.join()
    this.closed()
  }

  /** The thread has ended. */
  closed(): void {
    this.#turn++
    this.state = "stopping"
    Atomics.store(this.#memory.words, this.#state, 0)
    this.#ended()
    this.#memory.detach(this.#index)
    const waiters = [...this.#takePauseWaiters(), ...this.#stopWaiters]
    this.#stopWaiters = []
    for (const waiter of waiters) waiter()
  }

  kick(): void {
    if (this.state === "running") this.vcpu.native.ask("kick")
  }

  pause(): Promise<void> {
    if (this.state === "paused" || this.state === "exited") return Promise.resolve()
    return new Promise((resolve) => {
      this.#pauseWaiters.push(resolve)
      if (this.state === "running") this.vcpu.native.ask("pause")
    })
  }

  resume(answer?: ExitAnswer): void {
    if (this.state !== "paused" && this.state !== "exited")
      throw new StateError(`vCPU ${this.vcpu.id} is ${this.state}, not paused`)
    if (this.state === "exited") {
      const reason = this.#memory.unsigned[this.#word + (slot.REASON >> 2)]!
      encodeAnswer(reason, answer ?? this.#prepared ?? {}, this.#payload)
    }
    this.state = "running"
    this.#turn++
    // No turn from here: the caller must not find its handler called from within `resume`.
    this.#answer()
  }

  stop(): Promise<void> {
    return new Promise((resolve) => {
      this.#stopWaiters.push(resolve)
      if (this.state === "stopping") return
      this.state = "stopping"
      this.#turn++
      this.vcpu.native.ask("stop")
    })
  }

  /** The counters, live. */
  counters(): Float64Array {
    const base = (this.#index + 1) * slot.SLOT_BYTES + slot.COUNTERS
    return new Float64Array(this.#memory.buffer, base, slot.COUNTER_WORDS)
  }

  /** Hands coalesced writes to the handler, oldest first. They cannot wait for promises. */
  flushCoalesced(): void {
    const ring = new Uint8Array(ENTRY_BYTES * 170)
    const view = new DataView(ring.buffer)
    const count = this.vcpu.native.drainCoalesced(ring)
    for (let i = 0; i < count; i++) {
      // struct kvm_coalesced_mmio: address, length, whether a port, data.
      const at = i * ENTRY_BYTES
      const address = Number(view.getBigUint64(at, true))
      const length = Math.min(view.getUint32(at + 8, true), 8)
      const port = view.getUint32(at + 12, true) !== 0
      for (let done = 0; done < length; ) {
        const left = length - done
        const size = left >= 4 ? 4 : left >= 2 ? 2 : 1
        const data = at + 16 + done
        const value =
          size === 4
            ? view.getUint32(data, true)
            : size === 2
              ? view.getUint16(data, true)
              : view.getUint8(data)
        this.#write(port, address + done, size, value)?.catch((error) =>
          this.#handler.error(this.vcpu, error),
        )
        done += size
      }
    }
  }
}
