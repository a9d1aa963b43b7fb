import type { QueueCounters } from "@virtkit/virtqueue"
import { type BlockCounters, newCounters } from "../counters.js"

const BLOCK_COUNTERS = Object.keys(newCounters()) as (keyof BlockCounters)[]
const QUEUE_COUNTERS = [
  "chains",
  "malformed",
  "notifications",
  "interrupts",
  "interruptsSuppressed",
] as const satisfies (keyof QueueCounters)[]

const DOUBLE = Float64Array.BYTES_PER_ELEMENT

/**
 * What the threads of a disk count, in memory that all see. Each number has one thread that writes it, by a plain store; others
 * may read it at any time.
 */
export class SharedCounters {
  readonly buffer: SharedArrayBuffer
  /** By queue, requests that the backend of its thread has. */
  readonly inFlight: Int32Array
  readonly #threads: number

  /** `buffer`: that of another thread's. */
  constructor(threads: number, queues: number, buffer?: SharedArrayBuffer) {
    const doubles = threads * BLOCK_COUNTERS.length + queues * QUEUE_COUNTERS.length
    this.buffer = buffer ?? new SharedArrayBuffer(doubles * DOUBLE + queues * Int32Array.BYTES_PER_ELEMENT)
    this.#threads = threads
    this.inFlight = new Int32Array(this.buffer, doubles * DOUBLE, queues)
  }

  /** Those of one thread, for the device to count. */
  ofThread(thread: number): BlockCounters {
    return countersOn(BLOCK_COUNTERS, this.#values(thread * BLOCK_COUNTERS.length, BLOCK_COUNTERS.length))
  }

  ofQueue(queue: number): QueueCounters {
    const start = this.#threads * BLOCK_COUNTERS.length + queue * QUEUE_COUNTERS.length
    return countersOn(QUEUE_COUNTERS, this.#values(start, QUEUE_COUNTERS.length))
  }

  /** Those of all threads together. */
  total(): Readonly<BlockCounters> {
    const threads = Array.from({ length: this.#threads }, (_, thread) => this.ofThread(thread))
    const total = {}
    for (const name of BLOCK_COUNTERS) {
      const sum = () => threads.reduce((before, counters) => before + counters[name], 0)
      const last = () => threads.find(({ lastErrno }) => lastErrno !== 0)?.lastErrno ?? 0
      Object.defineProperty(total, name, { enumerable: true, get: name === "lastErrno" ? last : sum })
    }
    return total as Readonly<BlockCounters>
  }

  #values(start: number, length: number): Float64Array {
    return new Float64Array(this.buffer, start * DOUBLE, length)
  }
}

function countersOn<Name extends string>(names: readonly Name[], values: Float64Array): Record<Name, number> {
  const counters = {}
  for (const [index, name] of names.entries()) {
    Object.defineProperty(counters, name, {
      enumerable: true,
      get: () => values[index],
      set: (value: number) => {
        values[index] = value
      },
    })
  }
  return counters as Record<Name, number>
}
