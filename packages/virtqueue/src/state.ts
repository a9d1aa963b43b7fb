import { RestoreError } from "@virtkit/interface"
import type { QueueOptions } from "./options.js"

/** Saved state of a split queue; the rings themselves are in guest memory. */
export interface SplitQueueState {
  readonly version: 1
  readonly ring: "split"
  readonly size: number
  readonly desc: number
  readonly avail: number
  readonly used: number
  /** Ring indexes, 16 bits: next available entry to take, next used entry to fill. */
  readonly nextAvail: number
  readonly nextUsed: number
  /** Heads of the chains that the device had, oldest first. They are popped again after a restore. */
  readonly inFlight: readonly number[]
  /** Why the queue is broken, or null. */
  readonly broken: string | null
}

/** Checks that `state` is a state of a queue with these options (bad-input #31). Throws {@link RestoreError}. */
export function parseQueueState(state: unknown, options: QueueOptions): SplitQueueState {
  const wrong = problem(state, options)
  if (wrong !== undefined) throw new RestoreError(`queue ${options.index}: ${wrong}`)
  return state as SplitQueueState
}

function problem(state: unknown, options: QueueOptions): string | undefined {
  if (typeof state !== "object" || state === null) return "the state is not an object"
  const { version, ring, size, desc, avail, used, nextAvail, nextUsed, inFlight, broken } =
    state as Partial<SplitQueueState>
  if (version !== 1 || ring !== "split") return `unknown state version ${version}, ring ${ring}`
  if (size !== options.size) return `the state is of a queue of size ${size}, not ${options.size}`
  if (desc !== options.desc || avail !== options.avail || used !== options.used) {
    return "the state is of rings at other addresses"
  }
  if (!isIndex(nextAvail) || !isIndex(nextUsed)) return "a ring index is not a 16-bit number"
  if (broken !== null && typeof broken !== "string") return "broken is neither a reason nor null"
  if (!Array.isArray(inFlight) || inFlight.length > options.size) return "inFlight is not a list of heads"
  const heads = new Set<number>()
  for (const head of inFlight as unknown[]) {
    if (!isIndex(head) || head >= options.size || heads.has(head)) return "inFlight has a wrong head"
    heads.add(head)
  }
  return undefined
}

function isIndex(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) <= 0xffff
}
