// A ring benchmark of two threads in a process of its own: the driver in a worker, the device here. Prints JSON, see
// RingResult; chains of wall time, since both threads are busy all the time. Argument: JSON of a RingTask. With --trace-gc
// the collections of either thread between the lines `measured:` and `done:` are those of the measured chains.
import { once } from "node:events"
import { writeSync } from "node:fs"
import { getHeapStatistics } from "node:v8"
import { Worker } from "node:worker_threads"
import { type RingTask, ringOf } from "./ring-device.js"
import type { DriverTask } from "./ring-driver-thread.js"
import type { RingResult } from "./ring-process.js"
import { summarize } from "./summary.js"

/** Short ones: on a machine with other work most are not disturbed then. */
const CHAINS = 100_000
const ROUNDS = 99
const WARM_UP_MS = 3000

const { queue, buffer, shape } = ringOf(JSON.parse(process.argv[2]!) as RingTask)
const stop = new Int32Array(new SharedArrayBuffer(4))
const workerData: DriverTask = { buffer: buffer as SharedArrayBuffer, shape, stop }
// The device polls: the driver does not look whether it is to notify.
queue.disableNotification()
const worker = new Worker(new URL("./ring-driver-thread.js", import.meta.url), { workerData })

const started = performance.now()
while (performance.now() - started < WARM_UP_MS) run(CHAINS)

const rates = new Float64Array(ROUNDS)
const asked = heapUsed()
const before = heapUsed()
writeSync(1, "measured:\n")
for (let round = 0; round < ROUNDS; round++) rates[round] = measure(CHAINS)
writeSync(1, "done:\n")
const grown = heapUsed() - before - (before - asked)
Atomics.store(stop, 0, 1)
await once(worker, "exit")
const result: RingResult = {
  chainsPerSecond: summarize([...rates]).median,
  bytesPerMillion: (1e6 * grown) / (CHAINS * ROUNDS),
}
process.stdout.write(`${JSON.stringify(result)}\n`)

/** Gives back at least so many chains; returns how many. */
function run(chains: number): number {
  let done = 0
  while (done < chains) {
    for (let chain = queue.pop(); chain !== undefined; chain = queue.pop()) {
      queue.push(chain, chain.writableBytes)
      done++
    }
    queue.flush()
  }
  return done
}

function measure(chains: number): number {
  const start = performance.now()
  const done = run(chains)
  return (1000 * done) / (performance.now() - start)
}

function heapUsed(): number {
  return getHeapStatistics().used_heap_size
}
