import type { TraceHeader, TraceRecord } from "./record-format.js"
import { QueueRegisters, type QueueSetup } from "./record-registers.js"
import { FEATURE } from "./spec.js"

export type ChainRecord = TraceRecord & { readonly kind: "chain" }
export type UsedRecord = TraceRecord & { readonly kind: "used" }

/** Records by which a driver acts on a device, and on a transport. */
const ON_DEVICE: readonly string[] = [
  "activate",
  "notify",
  "write-config",
  "reset",
  "queue-reset",
  "queue-start",
]
const ON_TRANSPORT: readonly string[] = ["read", "write", "doorbell", "slot", "function-reset"]

/** What the player has to know of a trace before it begins: who is to do what, and when. */
export interface ReplayPlan {
  readonly header: TraceHeader
  readonly records: readonly TraceRecord[]
  /** By record: the driver acts here. */
  readonly isAct: (record: TraceRecord) => boolean
  /** By number of such a record: chains that the driver makes available with it, in order. */
  readonly due: ReadonlyMap<number, readonly ChainRecord[]>
  /** By number of a "flush": chains that the driver sees come back from there on. */
  readonly visible: ReadonlyMap<number, readonly UsedRecord[]>
  /** By queue: the act that notified the device of it first. */
  readonly kicks: ReadonlyMap<number, TraceRecord>
  /** By number of the write that enables a queue: how it was set up. */
  readonly setups: ReadonlyMap<number, QueueSetup>
  /** By the same: the features that are negotiated then. */
  readonly featuresAt: (number: number) => bigint
}

/** `onTransport`: the driver acts by registers, not by calls of the device. */
export function planReplay(
  header: TraceHeader,
  records: readonly TraceRecord[],
  onTransport: boolean,
): ReplayPlan {
  const acts = onTransport ? ON_TRANSPORT : ON_DEVICE
  const isAct = (record: TraceRecord) => acts.includes(record.kind)
  return {
    header,
    records,
    isAct,
    ...planChains(records, isAct),
    visible: planReturns(records),
    setups: planSetups(header, records),
    featuresAt: (number) => featuresAt(records, number),
  }
}

/**
 * A chain was available when the device was notified of its queue last, or was activated: nobody can tell whether
 * later, while it was looking already. A notification comes within the act that caused it, if the trace has those.
 */
function planChains(
  records: readonly TraceRecord[],
  isAct: (record: TraceRecord) => boolean,
): Pick<ReplayPlan, "due" | "kicks"> {
  const due = new Map<number, ChainRecord[]>()
  const kicks = new Map<number, TraceRecord>()
  const lastCause = new Map<number, number>()
  let activation = 0
  let act: TraceRecord | undefined
  for (const record of records) {
    if (isAct(record)) act = record
    if (record.kind === "activate") {
      activation = act?.number ?? 0
      lastCause.clear()
    } else if (record.kind === "notify" || record.kind === "queue-start") {
      lastCause.set(record.queue, act?.number ?? 0)
      if (record.kind === "notify" && act !== undefined && !kicks.has(record.queue)) {
        kicks.set(record.queue, act)
      }
    } else if (record.kind === "chain") {
      const cause = lastCause.get(record.queue) ?? activation
      due.set(cause, [...(due.get(cause) ?? []), record])
    }
  }
  return { due, kicks }
}

/** A chain is seen to come back at the flush behind, with IN_ORDER not before those that were made available earlier. */
function planReturns(records: readonly TraceRecord[]): Map<number, UsedRecord[]> {
  const visible = new Map<number, UsedRecord[]>()
  const pushed = new Map<number, UsedRecord[]>()
  const taken = new Map<number, number[]>()
  let inOrder = false
  for (const record of records) {
    if (record.kind === "activate") {
      inOrder = (record.features & FEATURE.IN_ORDER) !== 0n
      pushed.clear()
      taken.clear()
    } else if (record.kind === "queue-reset") {
      pushed.delete(record.queue)
      taken.delete(record.queue)
    } else if (record.kind === "chain") {
      taken.set(record.queue, [...(taken.get(record.queue) ?? []), record.id])
    } else if (record.kind === "used") {
      pushed.set(record.queue, [...(pushed.get(record.queue) ?? []), record])
    } else if (record.kind === "flush") {
      const waiting = pushed.get(record.queue) ?? []
      const returned = inOrder ? inOrderOf(waiting, taken.get(record.queue) ?? []) : waiting.splice(0)
      if (returned.length > 0) visible.set(record.number, returned)
    }
  }
  return visible
}

/** Takes out of `waiting` and `taken` what goes back in the order of `taken`. */
function inOrderOf(waiting: UsedRecord[], taken: number[]): UsedRecord[] {
  const returned: UsedRecord[] = []
  for (;;) {
    const next = waiting.findIndex(({ id }) => id === taken[0])
    if (next < 0) return returned
    returned.push(...waiting.splice(next, 1))
    taken.shift()
  }
}

function planSetups(header: TraceHeader, records: readonly TraceRecord[]): Map<number, QueueSetup> {
  const registers = new QueueRegisters(header.queueMaxSizes)
  const setups = new Map<number, QueueSetup>()
  for (const record of records) {
    if (record.kind === "window") registers.addWindow(record.window, record.layout)
    if (record.kind !== "write") continue
    const setup = registers.write(record.window, record.offset, record.size, record.value)
    if (setup !== undefined) setups.set(record.number, setup)
  }
  return setups
}

/** A queue is enabled before the activation that tells the features, or between it and the reset. */
function featuresAt(records: readonly TraceRecord[], number: number): bigint {
  for (let before = number; before >= 0; before--) {
    const record = records[before]
    if (record?.kind === "activate") return record.features
    if (record?.kind === "reset") break
  }
  for (let after = number; after < records.length; after++) {
    const record = records[after]
    if (record?.kind === "activate") return record.features
  }
  return 0n
}
