// The driver of a ring benchmark in a thread of its own: keeps the ring full until it is told to stop.
import { parentPort, workerData } from "node:worker_threads"
import { leanDriver, type RingShape } from "./ring-drivers.js"

/** What the thread is given. */
export interface DriverTask {
  readonly buffer: SharedArrayBuffer
  readonly shape: RingShape
  /** One word: anything but 0 ends it. */
  readonly stop: Int32Array
}

const { buffer, shape, stop } = workerData as DriverTask
const driver = leanDriver(buffer, shape)
/** So many chains are made available at a time: neither side then waits for every single one of the other's. */
const batch = Math.max(1, driver.chains >> 2)

driver.disableInterrupt()
let free = driver.chains
while (Atomics.load(stop, 0) === 0) {
  if (free >= batch) {
    driver.fill(free)
    free = 0
  }
  free += driver.reap()
}
parentPort?.close()
