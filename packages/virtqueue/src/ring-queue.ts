import { type Chain, StateError } from "@virtkit/interface"
import { DONE, HELD, IDLE, KEPT_ENTRIES, RingChain, WAITING } from "./chain.js"
import { NearRegion } from "./near-region.js"
import type { DeviceQueue, QueueCounters, QueueOptions } from "./options.js"
import { BROKEN, EMPTY, MALFORMED, type Ring, TAKEN } from "./ring.js"
import { parseQueueState, type QueueState, type SavedChain } from "./state.js"

/** What is imported is looked up at each use, a constant of the module itself is not: so those of the hot paths are here. */
const IN_POOL = IDLE
const WITH_DEVICE = HELD
const OK = TAKEN

/**
 * The device side of a virtqueue over either kind of ring: which chains the device has, in which order they go back,
 * and what survives a save and restore.
 */
export class RingQueue implements DeviceQueue {
  readonly index: number
  readonly size: number
  readonly counters: QueueCounters
  readonly #options: QueueOptions
  /** Of all its chains. */
  readonly #near: NearRegion
  readonly #ring: Ring
  readonly #inOrder: boolean
  /** Every chain that was ever made, so at most one more than can be in flight. */
  readonly #chains: RingChain[] = []
  readonly #pool: RingChain[] = []
  /** The one that the next `pop` fills. */
  #spare: RingChain
  /** Chains to be popped before any of the ring, the next one last. */
  readonly #waiting: RingChain[] = []
  /** `sequence` of the chain that was popped last. */
  #lastPopped = -1
  /** With IN_ORDER: chains as they were taken, in a ring buffer of `size` entries. */
  readonly #order: (RingChain | undefined)[]
  #orderHead = 0
  #orderCount = 0
  #inFlight = 0
  /** Buffers of all chains that are not idle. */
  #entries = 0
  readonly #maxEntries: number
  #sequence = 0
  #broken = false
  #closed = false
  #lastError: string | undefined

  /** `ring` must be made of the same options. */
  constructor(options: QueueOptions, ring: Ring) {
    this.index = options.index
    this.size = options.size
    this.counters = options.counters ?? newCounters()
    this.#options = options
    this.#near = new NearRegion(options.memory)
    this.#ring = ring
    this.#maxEntries = options.size * KEPT_ENTRIES
    this.#inOrder = options.inOrder ?? false
    this.#order = new Array<RingChain | undefined>(this.#inOrder ? options.size : 0).fill(undefined)
    this.#spare = this.#newChain()
  }

  get broken(): boolean {
    return this.#broken
  }

  get lastError(): string | undefined {
    return this.#lastError
  }

  get inFlight(): number {
    return this.#inFlight
  }

  get nextAvail(): number {
    return this.#ring.nextAvail
  }

  get nextUsed(): number {
    return this.#ring.nextUsed
  }

  pop(): Chain | undefined {
    if (this.#closed || this.#broken) return undefined
    if (this.#waiting.length > 0) return this.#hand(this.#waiting.pop()!)
    const chain = this.#spare
    const result = this.#ring.take(chain)
    if (result !== OK || this.#entries + chain.count > this.#maxEntries) return this.#popAfter(result)
    this.#admit(chain)
    return this.#hand(chain)
  }

  push(chain: Chain, written: number): void {
    if (this.#closed) return
    const own = chain as RingChain
    if (own.phase !== WITH_DEVICE || own.queue !== this)
      this.#reject(chain, "was pushed, but is not in flight")
    this.#inFlight--
    const room = own.writableBytes
    // 2.7.8.2: len is what was written, so never more than the driver gave room for.
    if (written >= room) this.#giveBack(own, Math.min(room, 0xffff_ffff), room <= 0xffff_ffff)
    else this.#giveBack(own, written, false)
  }

  unpop(chain: Chain): void {
    if (this.#closed) return
    const own = chain as RingChain
    if (own.phase !== HELD || own.queue !== this || own.sequence !== this.#lastPopped) {
      this.#reject(chain, "is not the one popped last")
    }
    this.#inFlight--
    this.counters.chains--
    own.phase = WAITING
    this.#waiting.push(own)
  }

  flush(): void {
    if (this.#closed || this.#ring.pending === 0) return
    if (this.#ring.publish()) {
      this.counters.interrupts++
      this.#options.onInterrupt()
    } else {
      this.counters.interruptsSuppressed++
    }
  }

  disableNotification(): void {
    if (!this.#closed) this.#ring.disableNotification()
  }

  enableNotification(): boolean {
    if (this.#broken || this.#closed) return false
    return this.#ring.enableNotification() || this.#waiting.length > 0
  }

  close(): void {
    this.#closed = true
    this.#chains.length = 0
    this.#pool.length = 0
    this.#waiting.length = 0
    this.#order.fill(undefined)
    this.#inFlight = 0
  }

  /** Publishes what was pushed and not flushed: else it would be neither in flight nor used. */
  state(): QueueState {
    this.flush()
    const { size, desc, avail, used } = this.#options
    const taken = this.#chains.filter((chain) => chain.phase !== IDLE)
    return {
      version: 1,
      ring: this.#ring.kind,
      inOrder: this.#inOrder,
      size,
      desc,
      avail,
      used,
      nextAvail: this.#ring.nextAvail,
      nextUsed: this.#ring.nextUsed,
      inFlight: taken.sort((a, b) => a.sequence - b.sequence).map(saved),
      broken: this.#broken ? this.#lastError! : null,
    }
  }

  restore(state: unknown): void {
    if (this.#sequence !== 0) {
      throw new StateError(`queue ${this.index} was used before its state was restored`)
    }
    const { nextAvail, nextUsed, broken, inFlight } = parseQueueState(state, this.#options)
    const chains = inFlight.map((one) => this.#remake(one))
    this.#ring.restore(nextAvail, nextUsed, chains)
    this.#broken = broken !== null
    this.#lastError = broken ?? undefined
    this.#waiting.push(...chains.filter((chain) => chain.phase === WAITING).reverse())
  }

  /** `pop` after `take` found something else than a chain for the device: gives back malformed ones until there is one. */
  #popAfter(first: number): Chain | undefined {
    let found: RingChain | undefined
    let malformed = 0
    // Ends, because what is refused here is not published yet, and no driver may offer more than it has got back
    // (bad-input #16).
    for (let result = first; result !== EMPTY; result = this.#ring.take(this.#spare)) {
      if (result === BROKEN) {
        this.#break(this.#ring.reason)
        break
      }
      const chain = this.#spare
      this.#admit(chain)
      const wrong = this.#problem(result)
      if (wrong === undefined) {
        found = chain
        break
      }
      this.#lastError = wrong
      this.counters.malformed++
      malformed++
      this.#giveBack(chain, 0, false)
    }
    // The device may have nothing of its own to flush.
    if (malformed > 0) this.flush()
    return found === undefined ? undefined : this.#hand(found)
  }

  /** What is wrong with a chain that was taken, though its descriptors may keep all rules. */
  #problem(result: number): string | undefined {
    if (result === MALFORMED) return this.#ring.reason
    // A hostile driver may point every head at one long chain: bounds what is kept for them (bad-input #12).
    return this.#entries > this.#maxEntries ? "too many buffers in flight" : undefined
  }

  #hand(chain: RingChain): RingChain {
    chain.phase = WITH_DEVICE
    this.#lastPopped = chain.sequence
    this.#inFlight++
    this.counters.chains++
    return chain
  }

  /** The spare chain was filled: it counts, and another one takes its place. */
  #admit(chain: RingChain): void {
    chain.sequence = this.#sequence++
    this.#entries += chain.count
    if (this.#inOrder) this.#remember(chain)
    this.#spare = this.#pool.pop() ?? this.#newChain()
  }

  #remember(chain: RingChain): void {
    this.#order[(this.#orderHead + this.#orderCount) % this.size] = chain
    this.#orderCount++
  }

  /** Back to the driver, or with IN_ORDER as soon as all that were taken before it went. */
  #giveBack(chain: RingChain, written: number, whole: boolean): void {
    if (this.#inOrder) {
      this.#giveBackInOrder(chain, written, whole)
    } else {
      this.#ring.complete(chain, written, whole)
      this.#recycle(chain)
    }
  }

  #giveBackInOrder(chain: RingChain, written: number, whole: boolean): void {
    chain.phase = DONE
    chain.written = written
    chain.whole = whole
    while (this.#orderCount > 0) {
      const first = this.#order[this.#orderHead]!
      if (first.phase !== DONE) break
      this.#orderHead = (this.#orderHead + 1) % this.size
      this.#orderCount--
      this.#ring.complete(first, first.written, first.whole)
      this.#recycle(first)
    }
  }

  #recycle(chain: RingChain): void {
    this.#entries -= chain.count
    chain.phase = IN_POOL
    chain.trim()
    this.#pool.push(chain)
  }

  #reject(chain: Chain, why: string): never {
    throw new StateError(`queue ${this.index}: chain ${chain.head} ${why}`)
  }

  #newChain(): RingChain {
    const chain = new RingChain(this.#near, this)
    this.#chains.push(chain)
    return chain
  }

  #remake({ id, slots, readable, buffers, written, whole }: SavedChain): RingChain {
    const chain = this.#spare
    chain.clear(id)
    chain.slots = slots
    for (const [at, { address, length }] of buffers.entries()) chain.append(address, length, at >= readable)
    this.#admit(chain)
    chain.phase = written === null ? WAITING : DONE
    chain.written = written ?? 0
    chain.whole = whole
    return chain
  }

  #break(reason: string): void {
    this.#broken = true
    this.#lastError = reason
    this.#options.onBroken(reason)
  }
}

function newCounters(): QueueCounters {
  return { chains: 0, malformed: 0, notifications: 0, interrupts: 0, interruptsSuppressed: 0 }
}

function saved(chain: RingChain): SavedChain {
  const done = chain.phase === DONE
  return {
    id: chain.head,
    slots: chain.slots,
    readable: chain.readable,
    buffers: Array.from({ length: chain.count }, (_, at) => {
      return { address: chain.addresses[at]!, length: chain.lengths[at]! }
    }),
    written: done ? chain.written : null,
    whole: done && chain.whole,
  }
}
