// One ring benchmark in a process of its own: prints JSON, see RingResult. Argument: JSON of a RingTask. With --trace-gc
// the collections between the lines `measured:` and `done:` are those of the measured chains.
import { writeSync } from "node:fs"
import type { Chain } from "@virtkit/interface"
import { drainQueue } from "@virtkit/virtqueue"
import { heapGrowth } from "./heap.js"
import { type RingTask, ringOf } from "./ring-device.js"
import { leanDriver } from "./ring-drivers.js"
import { summarize } from "./summary.js"

export interface RingResult {
  /** Chains made, popped, pushed and taken back in a second of processor time: median of the rounds. */
  readonly chainsPerSecond: number
  /** Bytes by which the heap grew for each million of them. */
  readonly bytesPerMillion: number
}

const MILLION = 1_000_000
const ROUNDS = 9
const MIN_WARM_UP_MS = 1000
const MAX_WARM_UP_MS = 10_000

const { queue, buffer, shape } = ringOf(JSON.parse(process.argv[2]!) as RingTask)
const driver = leanDriver(buffer, shape)
queue.enableNotification()
const handle = (chain: Chain): void => queue.push(chain, chain.writableBytes)

// Long enough for the compiler, which waits its turn on a machine with other work: until the heap has stopped growing.
const started = performance.now()
while (performance.now() - started < MIN_WARM_UP_MS) run(MILLION)
while (heapGrowth(rounds) > 0 && performance.now() - started < MAX_WARM_UP_MS);

const rates = new Float64Array(ROUNDS)
writeSync(1, "measured:\n")
for (let round = 0; round < ROUNDS; round++) rates[round] = measure(MILLION)
const bytes = heapGrowth(rounds)
writeSync(1, "done:\n")
const result: RingResult = {
  chainsPerSecond: summarize([...rates]).median,
  bytesPerMillion: bytes / ROUNDS,
}
process.stdout.write(`${JSON.stringify(result)}\n`)

/** Sends at least so many chains, a full ring at a time; returns how many. */
function run(chains: number): number {
  let done = 0
  while (done < chains) {
    driver.fill(driver.chains)
    drainQueue(queue, handle)
    done += driver.reap()
    driver.enableInterrupt()
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

function rounds(): void {
  for (let round = 0; round < ROUNDS; round++) run(MILLION)
}
