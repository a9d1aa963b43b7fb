import { type GuestMemory, RestoreError } from "@virtkit/interface"
import type { QueueOptions } from "./options.js"

/** Saved state of a queue; the ring itself is in guest memory. */
export interface QueueState {
  readonly version: 1
  readonly ring: "split" | "packed"
  readonly inOrder: boolean
  readonly size: number
  readonly desc: number
  readonly avail: number
  readonly used: number
  /**
   * Where the next chain is taken and the next used element written, 16 bits each. Split: indexes of the available and
   * used ring. Packed: a slot of the descriptor ring, with the wrap counter in bit 15.
   */
  readonly nextAvail: number
  readonly nextUsed: number
  /** Chains that were taken and not given back, oldest first. Those that are not done are popped again after a restore. */
  readonly inFlight: readonly SavedChain[]
  /** Why the queue is broken, or null. */
  readonly broken: string | null
}

/** A chain in flight. Its descriptors may be gone from the ring: used elements are written over them in a packed one. */
export interface SavedChain {
  /** `Chain.head`. */
  readonly id: number
  /** Entries of the ring that it takes: 1, or the descriptors of a packed ring. */
  readonly slots: number
  /** How many of the buffers are device-readable. */
  readonly readable: number
  readonly buffers: readonly { readonly address: number; readonly length: number }[]
  /** With IN_ORDER: the device is done with it and wrote so many bytes, others have to go back first. Else null. */
  readonly written: number | null
  /** With `written`: that was all there was room for. */
  readonly whole: boolean
}

/** Checks that `state` is a state of a queue with these options (bad-input #31). Throws {@link RestoreError}. */
export function parseQueueState(state: unknown, options: QueueOptions): QueueState {
  const wrong = problem(state, options)
  if (wrong !== undefined) throw new RestoreError(`queue ${options.index}: ${wrong}`)
  return state as QueueState
}

function problem(state: unknown, options: QueueOptions): string | undefined {
  if (typeof state !== "object" || state === null) return "the state is not an object"
  const { version, ring, inOrder, size, desc, avail, used, nextAvail, nextUsed, inFlight, broken } =
    state as Partial<QueueState>
  const kind = options.packed ? "packed" : "split"
  if (version !== 1 || ring !== kind) return `state version ${version}, ring ${ring} instead of 1, ${kind}`
  if (inOrder !== (options.inOrder ?? false)) return "the state disagrees about VIRTIO_F_IN_ORDER"
  if (size !== options.size) return `the state is of a queue of size ${size}, not ${options.size}`
  if (desc !== options.desc || avail !== options.avail || used !== options.used) {
    return "the state is of a ring at other addresses"
  }
  if (!isBelow(nextAvail, 0x1_0000) || !isBelow(nextUsed, 0x1_0000))
    return "a position is not a 16-bit number"
  if (broken !== null && typeof broken !== "string") return "broken is neither a reason nor null"
  if (!Array.isArray(inFlight) || inFlight.length > size) return "inFlight is not a list of chains"
  const chains = inFlight as unknown[]
  if (!chains.every((chain) => isChain(chain, options))) return "inFlight has a wrong chain"
  const taken = distance(nextUsed, nextAvail, options)
  if (taken === undefined) return "the positions are not those of a ring"
  if (chains.reduce((sum, chain) => sum + chain.slots, 0) !== taken) {
    return "the chains in flight are not what lies between the positions"
  }
  if (options.packed) return undefined
  return new Set(chains.map((chain) => chain.id)).size < chains.length
    ? "inFlight has a head twice"
    : undefined
}

/** Entries of the ring from one position to the other; undefined when there is no such ring. */
function distance(from: number, to: number, { packed, size }: QueueOptions): number | undefined {
  if (!packed) return (to - from) & 0xffff
  const [fromSlot, toSlot] = [from & 0x7fff, to & 0x7fff]
  if (fromSlot >= size || toSlot >= size) return undefined
  const sameLap = (from & 0x8000) === (to & 0x8000)
  const slots = toSlot - fromSlot + (sameLap ? 0 : size)
  return slots < 0 || slots > size ? undefined : slots
}

function isChain(value: unknown, options: QueueOptions): value is SavedChain {
  if (typeof value !== "object" || value === null) return false
  const { id, slots, readable, buffers, written, whole } = value as Partial<SavedChain>
  if (!isBelow(id, options.packed ? 0x1_0000 : options.size)) return false
  if (!isBelow(slots, options.packed ? options.size + 1 : 2) || slots === 0) return false
  if (!Array.isArray(buffers) || buffers.length > options.size) return false
  if (!buffers.every((buffer) => isBuffer(buffer, options.memory))) return false
  if (!isBelow(readable, buffers.length + 1) || typeof whole !== "boolean") return false
  const bytes = (buffers as SavedChain["buffers"]).reduce((sum, buffer) => sum + buffer.length, 0)
  if (bytes > 2 ** 32) return false
  return written === null || ((options.inOrder ?? false) && isBelow(written, 2 ** 32))
}

function isBuffer(value: unknown, memory: GuestMemory): boolean {
  if (typeof value !== "object" || value === null) return false
  const { address, length } = value as { address?: unknown; length?: unknown }
  if (!isBelow(address, 2 ** 53) || !isBelow(length, 2 ** 32)) return false
  return length > 0 && memory.contains(address, length)
}

function isBelow(value: unknown, bound: number): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) < bound
}
