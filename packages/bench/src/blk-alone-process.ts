// A block device with its driver on the same thread, in a process of its own: a JSON of AloneTask to a JSON of AloneResult, see runTraced.
import { readFileSync, writeSync } from "node:fs"
import { setImmediate } from "node:timers/promises"
import { mmapMemory } from "@virtkit/memory/mmap"
import { type BlockDevice, block } from "@virtkit/virtio-blk"
import { createQueue } from "@virtkit/virtqueue"
import { BLOCK, BlkRing, RING_BYTES } from "./blk-ring.js"
import { heapGrowth } from "./heap.js"
import { summarize } from "./summary.js"

export interface AloneTask {
  readonly file: string
  /** Of the file, whose blocks start with their numbers and are in the page cache. */
  readonly blocks: number
  readonly write: boolean
  /** Bytes of a request. */
  readonly bytes: number
  readonly depth: number
}

export interface AloneResult {
  /** Nanoseconds of processor time for a request, driver and device together: median of the rounds. */
  readonly nanoseconds: number
  /** Bytes by which the heap grew for each request; what a round of them needs once is in it. */
  readonly bytesPerRequest: number
}

/** Above 4 GiB, where an address is no small integer any more. */
const BASE = 2 ** 33
/** VERSION_1, EVENT_IDX, INDIRECT_DESC, VIRTIO_BLK_F_FLUSH. */
const FEATURES = (1n << 32n) | (1n << 29n) | (1n << 28n) | (1n << 9n)
const ROUNDS = 11
/** Some 0.1 s: short enough for most to be undisturbed. */
const ROUND_BYTES = 100_000 * BLOCK
const MOST_ATTEMPTS = 100
const MISSED = new Error("the disk is not in the page cache")
const MIN_WARM_UP_MS = 1000
const MAX_WARM_UP_MS = 10_000

const task = JSON.parse(process.argv[2]!) as AloneTask
const { blocks, write, bytes, depth } = task
const blocksEach = bytes / BLOCK
const places = Math.floor(blocks / blocksEach)
const times = new Float64Array(ROUNDS)
const requests = Math.floor(ROUND_BYTES / Math.max(bytes, BLOCK))

const memory = mmapMemory([{ guestAddress: BASE, size: RING_BYTES }])
const { buffer, byteOffset } = memory.regions[0]!
const ring = new BlkRing(
  { buffer: buffer as SharedArrayBuffer, byteOffset, size: RING_BYTES, fd: -1, guestAddress: BASE },
  0,
)
const device = await start()

let random = 0x9e37_79b9
ring.prepare(write, bytes)
for (let slot = 0; slot < depth; slot++) ring.add(slot, next(), 0)

const started = performance.now()
while (performance.now() - started < MIN_WARM_UP_MS) await undisturbed(run)
let growing = true
while (growing && performance.now() - started < MAX_WARM_UP_MS) growing = (await undisturbed(growth)) > 0

writeSync(1, "measured:\n")
let grown = 0
for (let round = 0; round < ROUNDS; round++) {
  times[round] = await undisturbed(measure)
  grown += await undisturbed(growth)
}
writeSync(1, "done:\n")
const result: AloneResult = {
  nanoseconds: summarize([...times]).median,
  bytesPerRequest: grown / (ROUNDS * requests),
}
process.stdout.write(`${JSON.stringify(result)}\n`)
await device.reset()
await device.close()

async function start(): Promise<BlockDevice> {
  const { queue, reason } = createQueue({
    index: 0,
    size: ring.size,
    desc: ring.desc,
    avail: ring.avail,
    used: ring.used,
    memory,
    eventIdx: true,
    indirect: true,
    onInterrupt: () => {},
    onBroken: (broken) => {
      throw new Error(broken)
    },
  })
  if (queue === undefined) throw new Error(reason)
  const disk = await block({ path: task.file, queueSize: ring.size, mayWait: true })
  disk.activate({
    memory,
    features: FEATURES,
    queues: [queue],
    updateConfig: (update) => update(),
    needsReset: (why) => {
      throw new Error(why)
    },
    defer: () => {},
  })
  return disk
}

function growth(): number {
  return heapGrowth(run)
}

/**
 * What is measured needs no turn of the event loop: all requests are done when the device was notified. Where the kernel has
 * taken blocks out of the page cache, all are read, and it is measured again.
 */
async function undisturbed(work: () => number): Promise<number> {
  for (let attempt = 0; attempt < MOST_ATTEMPTS; attempt++) {
    try {
      return work()
    } catch (error) {
      if (error !== MISSED) throw error
    }
    while (device.inFlight > 0) await setImmediate()
    replace(ring.reap())
    readFileSync(task.file)
  }
  throw new Error(`the disk was not in the page cache ${MOST_ATTEMPTS} times`)
}

function replace(count: number): void {
  for (let i = 0; i < count; i++) ring.add(ring.reaped[i]!, next(), 0)
}

function measure(): number {
  const before = process.cpuUsage()
  const done = run()
  const { user, system } = process.cpuUsage(before)
  return (1000 * (user + system)) / done
}

/** Keeps the depth in flight for so many requests, and returns how many that were. Throws MISSED when one is not done at once. */
function run(): number {
  let done = 0
  while (done < requests) {
    if (ring.publish()) device.notify(0)
    const count = ring.reap()
    if (count === 0) throw MISSED
    done += count
    replace(count)
  }
  return done
}

function next(): number {
  random ^= random << 13
  random ^= random >>> 17
  random ^= random << 5
  return ((random >>> 0) % places) * blocksEach
}
