import { readTrace } from "./record-file.js"
import { TraceError, type TraceRecord } from "./record-format.js"
import { type ChainRecord, planReplay, type ReplayPlan, type UsedRecord } from "./record-plan.js"
import { DeviceTarget, type DeviceTargetOptions, type ReplayTarget } from "./record-target.js"
import { TransportTarget, type TransportTargetOptions } from "./record-transport-target.js"
import type { DriverChain } from "./ring-driver.js"
import { until } from "./wait.js"

export interface ReplayOptions {
  /** Milliseconds that a chain may take to come back, a guard against a device that hangs. Default 5000. */
  readonly timeoutMs?: number
  /**
   * Whether chains have to come back in the order of the trace. Default true; with false any order will do, as for a device
   * that carries out several requests at once.
   */
  readonly order?: boolean
  /**
   * Called when the player gets to a "used" or "config" record, before it looks whether the device does the same: what a
   * device got from its host (typed input, a frame, a new size) is not in the trace otherwise, and is to be given to it here.
   */
  readonly host?: (record: TraceRecord) => void | Promise<void>
  /** The replay ends with that many differences. Default 20. */
  readonly maxDifferences?: number
}

/** Something that the driver would have seen otherwise. */
export interface ReplayDifference {
  /** Number of the record in the trace. */
  readonly record: number
  readonly what: string
}

export interface ReplayResult {
  /** Empty: the driver would have seen the same. */
  readonly differences: readonly ReplayDifference[]
  /** Records of the trace; chains that came back and were compared; register reads that were made. */
  readonly records: number
  readonly chains: number
  readonly registerReads: number
}

/**
 * Runs a trace against a device, with no guest and no KVM: plays the driver, over memory of its own, and compares what it
 * sees with the trace. Compared are, for each chain, that it comes back, its used length and what was written to it; with
 * a `device` also configuration changes and wishes for a reset; with a transport the values of registers, except for
 * those that tell the cause of an interrupt, and that chains do not come back without an interrupt. More features may be
 * offered than in the trace.
 *
 * Between two acts of the driver nothing is in a hurry: it acts when all that it had seen by then in the trace is there.
 *
 * @param trace a path, or its bytes; it is held in memory. @param target the device itself, or a transport with one in it.
 * @throws TraceError when the trace cannot be read, or has no registers and `target` is a transport.
 */
export async function replay(
  trace: string | Uint8Array,
  target: DeviceTargetOptions | TransportTargetOptions,
  options: ReplayOptions = {},
): Promise<ReplayResult> {
  const { header, records } = readTrace(trace)
  const plan = planReplay(header, [...records], "setup" in target)
  if ("setup" in target && !plan.records.some(({ kind }) => kind === "window")) {
    throw new TraceError("the trace has no registers: give the device, not a transport")
  }
  const made = "setup" in target ? new TransportTarget(target, plan) : new DeviceTarget(target)
  return new Player(plan, made, options).run()
}

/** A replay has come to where it makes no sense to go on. */
class Stop extends Error {}

class Player {
  readonly #plan: ReplayPlan
  readonly #target: ReplayTarget
  readonly #options: Required<ReplayOptions>
  readonly #differences: ReplayDifference[] = []
  /** By id: chains that the trace has come back by now, and that are awaited. */
  readonly #expected = new Map<number, UsedRecord>()
  /** By queue: ids in the order in which the trace has them come back. */
  readonly #order = new Map<number, number[]>()
  /** By id: what came back, maybe before the trace gets there. */
  readonly #returned = new Map<number, { chain: DriverChain; record: ChainRecord }>()
  #awaitedConfigs: (TraceRecord & { kind: "config" })[] = []
  #awaitedResets: (TraceRecord & { kind: "needs-reset" })[] = []
  /** Interrupts at the last look that found chains. */
  #interrupts = 0
  readonly #hasInterrupts: boolean
  #chains = 0
  #registerReads = 0
  #number = 0
  #failure: Stop | undefined

  constructor(plan: ReplayPlan, target: ReplayTarget, options: ReplayOptions) {
    this.#plan = plan
    this.#target = target
    this.#options = {
      timeoutMs: options.timeoutMs ?? 5000,
      order: options.order ?? true,
      host: options.host ?? (() => {}),
      maxDifferences: options.maxDifferences ?? 20,
    }
    this.#hasInterrupts = plan.records.some(({ kind }) => kind === "interrupt")
    for (const returned of plan.visible.values()) {
      for (const { queue, id } of returned) this.#order.set(queue, [...(this.#order.get(queue) ?? []), id])
    }
  }

  async run(): Promise<ReplayResult> {
    try {
      for (const record of this.#plan.records) {
        this.#number = record.number
        await this.#play(record)
      }
      await this.#settle()
      await this.#lookForMore()
    } catch (error) {
      if (!(error instanceof Stop)) throw error
    }
    return {
      differences: this.#differences,
      records: this.#plan.records.length,
      chains: this.#chains,
      registerReads: this.#registerReads,
    }
  }

  async #play(record: TraceRecord): Promise<void> {
    if (this.#plan.isAct(record)) await this.#act(record)
    if (record.kind === "flush") await this.#expectReturns(record.number)
    else if (record.kind === "config" || record.kind === "needs-reset") await this.#expectNews(record)
    else if (record.kind === "reset") this.#forget()
    else if (record.kind === "queue-reset") this.#forget(record.queue)
  }

  async #act(record: TraceRecord): Promise<void> {
    await this.#settle()
    this.#target.prepare(record)
    for (const chain of this.#plan.due.get(record.number) ?? []) {
      this.#target.rings.get(chain.queue)?.wait(chain)
    }
    // The act itself notifies.
    for (const ring of this.#target.rings.values()) ring.offer()
    const different = await this.#target.act(record)
    if (record.kind === "read") this.#registerReads++
    if (different !== undefined) this.#differ(different)
  }

  async #expectReturns(number: number): Promise<void> {
    for (const used of this.#plan.visible.get(number) ?? []) {
      this.#expected.set(used.id, used)
      await this.#options.host(used)
    }
  }

  async #expectNews(record: TraceRecord & { kind: "config" | "needs-reset" }): Promise<void> {
    if (record.kind === "config") {
      await this.#options.host(record)
      this.#awaitedConfigs.push(record)
    } else {
      this.#awaitedResets.push(record)
    }
  }

  /** Chains that are in flight at a reset do not come back, or nobody looks. */
  #forget(queue?: number): void {
    this.#target.forget(queue)
    for (const [id, { record }] of this.#returned) {
      if (queue === undefined || record.queue === queue) this.#returned.delete(id)
    }
  }

  /** Waits until the device has done what the trace has it done by now, and compares that. */
  async #settle(): Promise<void> {
    try {
      await until(() => this.#tryToLook(), "the device", this.#options.timeoutMs)
    } catch {
      for (const used of this.#expected.values()) {
        this.#differ(`chain ${used.id} of queue ${used.queue} did not come back`, used.number)
      }
      for (const { number } of this.#awaitedConfigs) this.#differ("the configuration did not change", number)
      for (const { number } of this.#awaitedResets) this.#differ("the device did not ask for a reset", number)
      throw new Stop()
    }
    if (this.#failure !== undefined) throw this.#failure
  }

  /** A device that gives back what it does not have ends the replay. */
  #tryToLook(): boolean {
    try {
      return this.#look()
    } catch (error) {
      this.#failure = new Stop()
      if (!(error instanceof Stop)) this.#differ((error as Error).message)
      return true
    }
  }

  /** Takes what is there; true when nothing is awaited any more. */
  #look(): boolean {
    let hasReturned = false
    for (const ring of this.#target.rings.values()) {
      for (const { chain, record } of ring.reap()) {
        this.#take(chain, record)
        hasReturned = true
      }
    }
    if (hasReturned) this.#checkInterrupt()
    for (const [queue, ring] of this.#target.rings) {
      if (ring.offer()) this.#target.kick(queue)
    }
    for (const [id, used] of this.#expected) {
      const returned = this.#returned.get(id)
      if (returned === undefined) continue
      this.#expected.delete(id)
      this.#returned.delete(id)
      this.#compare(used, returned.chain)
    }
    this.#compareNews()
    return this.#expected.size + this.#awaitedConfigs.length + this.#awaitedResets.length === 0
  }

  #take(chain: DriverChain, record: ChainRecord): void {
    const { id, queue } = record
    this.#returned.set(id, { chain, record })
    const order = this.#order.get(queue) ?? []
    const position = order.indexOf(id)
    if (position < 0) return // in the trace it does not come back
    if (position > 0 && this.#options.order) {
      this.#differ(`chain ${id} of queue ${queue} came back where the trace has chain ${order[0]}`)
    }
    order.splice(position, 1)
  }

  /** A driver that is told of nothing looks at nothing. The player never asks a device not to interrupt. */
  #checkInterrupt(): void {
    const { interrupts } = this.#target.announced
    if (interrupts === undefined || !this.#hasInterrupts) return
    let count = 0
    for (const ofVector of interrupts.values()) count += ofVector
    if (count === this.#interrupts) this.#differ("chains came back without an interrupt")
    this.#interrupts = count
  }

  #compare({ number, id, queue, written, data, tail }: UsedRecord, chain: DriverChain): void {
    this.#chains++
    const name = `chain ${id} of queue ${queue}`
    const found = chain.data ?? new Uint8Array(0)
    if (chain.written !== written) {
      this.#differ(`${name} has a used length of ${chain.written}, the trace has ${written}`, number)
    }
    const byte = firstDifference(data, found.subarray(0, data.length))
    if (byte >= 0) this.#differ(`${name}: byte ${byte} of what was written to it is different`, number)
    const end = found.subarray(Math.max(0, found.length - tail.length))
    if (firstDifference(tail, end) >= 0) this.#differ(`${name}: its last bytes are different`, number)
  }

  #compareNews(): void {
    const { configs, needsReset } = this.#target.announced
    if (configs === undefined) this.#awaitedConfigs = []
    while (this.#awaitedConfigs.length > 0 && configs !== undefined && configs.length > 0) {
      const { number, config } = this.#awaitedConfigs.shift()!
      const byte = firstDifference(config, configs.shift()!)
      if (byte >= 0) this.#differ(`byte ${byte} of the configuration is different`, number)
    }
    if (needsReset === undefined) this.#awaitedResets = []
    while (this.#awaitedResets.length > 0 && needsReset !== undefined && needsReset.length > 0) {
      this.#awaitedResets.shift()
      needsReset.shift()
    }
  }

  /** What the trace does not have, at its end. */
  async #lookForMore(): Promise<void> {
    for (let turn = 0; turn < 10; turn++) {
      await new Promise((resolve) => setImmediate(resolve))
      this.#tryToLook()
    }
    for (const id of this.#returned.keys()) {
      this.#differ(`chain ${id} came back, in the trace it does not`)
    }
    const { configs = [], needsReset = [], interrupts } = this.#target.announced
    if (configs.length > 0) this.#differ("the configuration changed, in the trace it does not")
    for (const reason of needsReset) this.#differ(`the device asks for a reset: ${reason}`)
    const vectors = new Set(
      this.#plan.records.flatMap((record) => (record.kind === "interrupt" ? [record.vector] : [])),
    )
    for (const vector of vectors) {
      if (!interrupts?.has(vector) && this.#target.announced.configs === undefined) {
        this.#differ(`there is no interrupt ${vector}`)
      }
    }
  }

  #differ(what: string, record: number = this.#number): void {
    this.#differences.push({ record, what })
    if (this.#differences.length >= this.#options.maxDifferences) throw new Stop()
  }
}

/** Index of the first byte that is different or missing, or -1. */
function firstDifference(expected: Uint8Array, found: Uint8Array): number {
  const index = expected.findIndex((byte, at) => found[at] !== byte)
  return index >= 0 ? index : expected.length === found.length ? -1 : expected.length
}
