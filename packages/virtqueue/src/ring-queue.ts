import { type Chain, StateError } from "@virtkit/interface"
import { VIRTQ_AVAIL_F_NO_INTERRUPT, VIRTQ_USED_F_NO_NOTIFY } from "./constants.js"
import type { DeviceQueue, QueueCounters, QueueOptions } from "./options.js"
import type { RingLayout } from "./ring-layout.js"
import { KEPT_ENTRIES, SplitChain } from "./split-chain.js"
import { parseQueueState, type SplitQueueState } from "./state.js"
import { DescriptorWalker } from "./walker.js"

/** Word of both rings that holds idx; word 0 holds the flags. */
const IDX = 1
const RING = 2

/**
 * The device side of a split virtqueue (virtio 1.3, section 2.7).
 *
 * Order between this thread and the guest's vCPUs: indexes and event fields go through Atomics. Loading avail.idx so
 * orders the entries read after it; storing used.idx so orders the elements written before it; and a store followed by
 * a load, both atomic, is the full barrier that 2.7.7.2 and 2.7.10 need between publishing an index and looking whether
 * the other side wants to hear of it.
 */
export class SplitQueue implements DeviceQueue {
  readonly index: number
  readonly size: number
  readonly counters: QueueCounters = {
    chains: 0,
    malformed: 0,
    notifications: 0,
    interrupts: 0,
    interruptsSuppressed: 0,
  }
  readonly #options: QueueOptions
  readonly #avail: Uint16Array
  readonly #used: Uint16Array
  readonly #usedElements: Uint32Array
  readonly #walker: DescriptorWalker
  readonly #mask: number
  /** Next entry of the available ring to take, and avail.idx as last loaded: 16 bits. */
  #nextAvail = 0
  #knownAvail = 0
  /** used.idx as published, and the elements written behind it that are not. */
  #nextUsed = 0
  #unpublished = 0
  /** By head: the chain that the device has. */
  readonly #chains: (SplitChain | undefined)[]
  /** By head: 1 while the device has it or is to get it again. */
  readonly #busy: Uint8Array
  readonly #pool: SplitChain[] = []
  #lastPopped: SplitChain | undefined
  /** Heads to hand out again after a restore, the next one last. */
  readonly #redeliver: number[] = []
  #inFlight = 0
  #entriesInFlight = 0
  #sequence = 0
  #broken = false
  #closed = false
  #lastError: string | undefined

  /** `layout` must come from these options; {@link createQueue} sees to that. */
  constructor(options: QueueOptions, layout: RingLayout) {
    this.index = options.index
    this.size = options.size
    this.#options = options
    this.#avail = layout.avail
    this.#used = layout.used
    this.#usedElements = layout.usedElements
    this.#walker = new DescriptorWalker(options.memory, layout.desc, options.size, options.indirect)
    this.#mask = options.size - 1
    this.#chains = new Array<SplitChain | undefined>(options.size).fill(undefined)
    this.#busy = new Uint8Array(options.size)
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

  pop(): Chain | undefined {
    if (this.#broken || this.#closed) return undefined
    let chain: SplitChain | undefined
    let malformed = 0
    // Bounded, because a driver may offer malformed chains as fast as they are refused (bad-input #16).
    while (chain === undefined && malformed < this.size) {
      const redelivered = this.#redeliver.length > 0
      const head = redelivered ? this.#redeliver.pop()! : this.#nextHead()
      if (head < 0) break
      chain = this.#take(head, redelivered)
      if (chain === undefined) malformed++
    }
    // The device may have nothing of its own to flush.
    if (malformed > 0) this.flush()
    return chain
  }

  push(chain: Chain, written: number): void {
    if (this.#closed) return
    const { head } = chain
    const own = this.#chains[head]
    if (own === undefined || own !== chain) {
      throw new StateError(`queue ${this.index}: chain ${head} was pushed, but is not in flight`)
    }
    this.#forget(own)
    this.#busy[head] = 0
    // 2.7.8.2: len is what was written, so never more than the driver gave room for.
    this.#writeUsed(head, Math.min(written, own.writableBytes, 0xffff_ffff))
  }

  unpop(chain: Chain): void {
    if (this.#closed) return
    const own = this.#lastPopped
    if (own === undefined || own !== chain) {
      throw new StateError(`queue ${this.index}: chain ${chain.head} is not the one popped last`)
    }
    this.#forget(own)
    this.counters.chains--
    if (own.redelivered) {
      this.#redeliver.push(own.head)
    } else {
      this.#busy[own.head] = 0
      this.#nextAvail = (this.#nextAvail - 1) & 0xffff
    }
  }

  flush(): void {
    const count = this.#unpublished
    if (count === 0 || this.#closed) return
    const before = this.#nextUsed
    const after = (before + count) & 0xffff
    this.#nextUsed = after
    this.#unpublished = 0
    Atomics.store(this.#used, IDX, after)
    this.#markUsedDirty(before, count)
    if (this.#driverWantsInterrupt(before, after)) {
      this.counters.interrupts++
      this.#options.onInterrupt()
    } else {
      this.counters.interruptsSuppressed++
    }
  }

  disableNotification(): void {
    // With EVENT_IDX the flag must stay 0 (2.7.10); avail_event, left where it is, is passed once and then silent.
    if (this.#options.eventIdx || this.#closed) return
    this.#storeUsed(0, VIRTQ_USED_F_NO_NOTIFY)
  }

  enableNotification(): boolean {
    if (this.#broken || this.#closed) return false
    if (this.#options.eventIdx) this.#storeUsed(RING + 4 * this.size, this.#nextAvail)
    else this.#storeUsed(0, 0)
    // The driver may have looked just before this: what it offered then is found here.
    return this.#redeliver.length > 0 || Atomics.load(this.#avail, IDX) !== this.#nextAvail
  }

  close(): void {
    this.#closed = true
    this.#chains.fill(undefined)
    this.#pool.length = 0
    this.#redeliver.length = 0
    this.#lastPopped = undefined
    this.#inFlight = 0
  }

  /** Publishes what was pushed and not flushed: else it would be neither in flight nor used. */
  state(): SplitQueueState {
    this.flush()
    const { size, desc, avail, used } = this.#options
    const held = this.#chains.filter((chain) => chain !== undefined).sort((a, b) => a.sequence - b.sequence)
    return {
      version: 1,
      ring: "split",
      size,
      desc,
      avail,
      used,
      nextAvail: this.#nextAvail,
      nextUsed: this.#nextUsed,
      inFlight: [...held.map((chain) => chain.head), ...this.#redeliver.toReversed()],
      broken: this.#broken ? (this.#lastError ?? "broken") : null,
    }
  }

  restore(state: unknown): void {
    if (this.#sequence !== 0)
      throw new StateError(`queue ${this.index} was used before its state was restored`)
    const saved = parseQueueState(state, this.#options)
    this.#nextAvail = saved.nextAvail
    this.#knownAvail = saved.nextAvail
    this.#nextUsed = saved.nextUsed
    this.#broken = saved.broken !== null
    this.#lastError = saved.broken ?? undefined
    this.#redeliver.length = 0
    for (const head of saved.inFlight.toReversed()) this.#redeliver.push(head)
    for (const head of saved.inFlight) this.#busy[head] = 1
  }

  /** The head in the next entry of the available ring, or -1 when there is none or the ring is broken. */
  #nextHead(): number {
    if (this.#nextAvail === this.#knownAvail) {
      this.#knownAvail = Atomics.load(this.#avail, IDX)
      const offered = (this.#knownAvail - this.#nextAvail) & 0xffff
      if (offered === 0) return -1
      // More entries than the ring has: nothing in it can be believed (bad-input #15).
      if (offered > this.size) return this.#break(`avail.idx is ${offered} ahead, the ring has ${this.size}`)
    }
    const head = this.#avail[RING + (this.#nextAvail & this.#mask)]!
    // Neither can be given back: the first is no descriptor, the second would be used twice (bad-input #17).
    if (head >= this.size) return this.#break(`head ${head} is not below the queue size ${this.size}`)
    if (this.#busy[head] !== 0) return this.#break(`head ${head} was made available twice`)
    this.#nextAvail = (this.#nextAvail + 1) & 0xffff
    return head
  }

  /** Reads the chain at `head`; a malformed one goes straight back (bad-input #20) and undefined is returned. */
  #take(head: number, redelivered: boolean): SplitChain | undefined {
    const chain = this.#pool.pop() ?? new SplitChain(this.#options.memory)
    let wrong = this.#walker.walk(head, chain)
    // A hostile driver may point every head at one long chain: bounds what is kept for them (bad-input #12).
    if (this.#entriesInFlight + chain.count > this.size * KEPT_ENTRIES) wrong ??= "too many buffers in flight"
    if (wrong !== undefined) {
      this.#lastError = wrong
      this.counters.malformed++
      this.#recycle(chain)
      this.#busy[head] = 0
      this.#writeUsed(head, 0)
      return undefined
    }
    chain.redelivered = redelivered
    chain.sequence = this.#sequence++
    this.#busy[head] = 1
    this.#chains[head] = chain
    this.#lastPopped = chain
    this.#inFlight++
    this.#entriesInFlight += chain.count
    this.counters.chains++
    return chain
  }

  /** The device does not have `chain` any more. */
  #forget(chain: SplitChain): void {
    this.#chains[chain.head] = undefined
    if (this.#lastPopped === chain) this.#lastPopped = undefined
    this.#inFlight--
    this.#entriesInFlight -= chain.count
    this.#recycle(chain)
  }

  #recycle(chain: SplitChain): void {
    chain.trim()
    this.#pool.push(chain)
  }

  #writeUsed(head: number, length: number): void {
    const element = 1 + 2 * ((this.#nextUsed + this.#unpublished) & this.#mask)
    this.#usedElements[element] = head
    this.#usedElements[element + 1] = length
    this.#unpublished++
  }

  /** 2.7.7.2 and 2.7.10. Runs after used.idx was stored. */
  #driverWantsInterrupt(before: number, after: number): boolean {
    if (!this.#options.eventIdx) return (Atomics.load(this.#avail, 0) & VIRTQ_AVAIL_F_NO_INTERRUPT) === 0
    const event = Atomics.load(this.#avail, RING + this.size)
    return ((after - event - 1) & 0xffff) < ((after - before) & 0xffff)
  }

  #storeUsed(word: number, value: number): void {
    Atomics.store(this.#used, word, value)
    this.#options.memory.markDirty(this.#options.used + 2 * word, 2)
  }

  #markUsedDirty(before: number, count: number): void {
    const { memory, used } = this.#options
    const first = before & this.#mask
    const straight = Math.min(count, this.size - first)
    memory.markDirty(used + 4 + 8 * first, 8 * straight)
    if (straight < count) memory.markDirty(used + 4, 8 * Math.min(count - straight, this.size))
    memory.markDirty(used, 4)
  }

  #break(reason: string): -1 {
    this.#broken = true
    this.#lastError = reason
    this.#options.onBroken(reason)
    return -1
  }
}
