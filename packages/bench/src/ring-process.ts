// One ring benchmark in a process of its own: prints JSON, see RingResult. Argument: JSON of a RingTask. With --trace-gc
// the collections between the lines `measured:` and `done:` are those of the measured chains.
import { writeSync } from "node:fs"
import { getHeapStatistics } from "node:v8"
import type { Chain } from "@virtkit/interface"
import { heapMemory } from "@virtkit/memory"
import { createQueue, type DeviceQueue, drainQueue } from "@virtkit/virtqueue"
import {
  AVAIL,
  BYTES,
  DESC,
  type LeanDriver,
  LeanPackedDriver,
  LeanSplitDriver,
  USED,
} from "./ring-drivers.js"
import { summarize } from "./summary.js"

export interface RingTask {
  readonly packed: boolean
  readonly inOrder: boolean
  readonly size: number
  readonly descriptors: number
  readonly indirect: boolean
}

export interface RingResult {
  /** Chains made, popped, pushed and taken back in a second of processor time: median of the rounds. */
  readonly chainsPerSecond: number
  /** Bytes by which the heap grew for each million of them. */
  readonly bytesPerMillion: number
}

const MILLION = 1_000_000
const ROUNDS = 9
/** Above 4 GiB, where an address is no small integer any more. */
const BASE = 2 ** 33

const task = JSON.parse(process.argv[2]!) as RingTask
const memory = heapMemory([{ guestAddress: BASE, size: BYTES }], { shared: true })
const shape = { ...task, base: BASE }
const { buffer } = memory.regions[0]!
const driver: LeanDriver = task.packed
  ? new LeanPackedDriver(buffer, shape)
  : new LeanSplitDriver(buffer, shape)
const queue = makeQueue()
const handle = (chain: Chain): void => queue.push(chain, chain.writableBytes)

// Long enough for the compiler, which waits its turn on a machine with other work.
const started = performance.now()
while (performance.now() - started < 1500) run(MILLION)
const rates = new Float64Array(ROUNDS)
writeSync(1, "measured:\n")
const before = getHeapStatistics().used_heap_size
for (let round = 0; round < ROUNDS; round++) rates[round] = measure(MILLION)
const grown = getHeapStatistics().used_heap_size - before
writeSync(1, "done:\n")
const result: RingResult = {
  chainsPerSecond: summarize([...rates]).median,
  bytesPerMillion: grown / ROUNDS,
}
process.stdout.write(`${JSON.stringify(result)}\n`)

function makeQueue(): DeviceQueue {
  const made = createQueue({
    ...task,
    index: 0,
    desc: BASE + DESC,
    avail: BASE + AVAIL,
    used: BASE + USED,
    memory,
    eventIdx: true,
    indirect: task.indirect,
    onInterrupt: () => {},
    onBroken: (reason) => {
      throw new Error(reason)
    },
  })
  if (made.queue === undefined) throw new Error(made.reason)
  made.queue.enableNotification()
  return made.queue
}

/** Sends at least so many chains, a full ring at a time; returns how many. */
function run(chains: number): number {
  let done = 0
  while (done < chains) {
    driver.fill()
    drainQueue(queue, handle)
    done += driver.reap()
  }
  return done
}

/** Chains in a second of processor time, which other work on the machine does not stretch. */
function measure(chains: number): number {
  const start = process.cpuUsage()
  const done = run(chains)
  const { user, system } = process.cpuUsage(start)
  return (1e6 * done) / (user + system)
}
