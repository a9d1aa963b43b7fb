// A ring benchmark of two threads in a process of its own: the driver in a worker, the device here. Prints JSON, see
// RingResult; chains a second of wall time, since both threads are busy all the time, of the tenth of short rounds that was
// the quickest: in the others, on a machine with other work, a thread waits for one that does not run. Argument: JSON of a
// RingTask. With --trace-gc the collections of either thread between the lines `measured:` and `done:` are those of the
// measured chains.
import { once } from "node:events"
import { writeSync } from "node:fs"
import { Worker } from "node:worker_threads"
import { heapGrowth } from "./heap.js"
import { type RingTask, ringOf } from "./ring-device.js"
import type { DriverTask } from "./ring-driver-thread.js"
import type { RingResult } from "./ring-process.js"

const CHAINS = 20_000
const MIN_ROUNDS = 100
const MAX_ROUNDS = 20_000
const WARM_UP_MS = 2000
const MEASURED_MS = 2000

const { queue, buffer, shape } = ringOf(JSON.parse(process.argv[2]!) as RingTask)
const stop = new Int32Array(new SharedArrayBuffer(4))
const workerData: DriverTask = { buffer: buffer as SharedArrayBuffer, shape, stop }
// The device polls: the driver does not look whether it is to notify.
queue.disableNotification()
const worker = new Worker(new URL("./ring-driver-thread.js", import.meta.url), { workerData })

const started = performance.now()
while (performance.now() - started < WARM_UP_MS) run(CHAINS)

const rates = new Float64Array(MAX_ROUNDS)
let rounds = 0
writeSync(1, "measured:\n")
const begun = performance.now()
while (rounds < MIN_ROUNDS || (rounds < MAX_ROUNDS && performance.now() - begun < MEASURED_MS)) {
  rates[rounds++] = measure(CHAINS)
}
const bytesPerMillion = heapGrowth(() => run(1e6))
writeSync(1, "done:\n")
Atomics.store(stop, 0, 1)
await once(worker, "exit")
const result: RingResult = {
  chainsPerSecond: rates.subarray(0, rounds).sort()[Math.floor(0.9 * rounds)]!,
  bytesPerMillion,
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
