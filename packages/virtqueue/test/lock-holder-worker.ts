// Lets go of the lock of a shared limit when somebody waits for it: see shared-limit.test.ts.
import { parentPort, workerData } from "node:worker_threads"

const FREE = 0
const AWAITED = 2
const lock = new Int32Array(workerData, 0, 1)
parentPort!.postMessage("ready")
while (Atomics.load(lock, 0) !== AWAITED);
Atomics.store(lock, 0, FREE)
Atomics.notify(lock, 0)
