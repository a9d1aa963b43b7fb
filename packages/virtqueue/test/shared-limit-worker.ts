// Takes from a shared limit as fast as it can: see shared-limit.test.ts.
import { parentPort, workerData } from "node:worker_threads"
import { SharedLimit } from "@virtkit/virtqueue"

const { buffer, rate, times, barrier } = workerData
const buckets = new SharedLimit(buffer).bucketsOf(rate)
parentPort!.once("message", () => {
  // Both at once.
  Atomics.add(barrier, 0, 1)
  while (Atomics.load(barrier, 0) < 2);
  for (let i = 0; i < times; i++) buckets.take(0, 1)
})
parentPort!.postMessage("ready")
