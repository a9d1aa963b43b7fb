// The driver of the block benchmark, one process for all back ends: takes JSON of a DriverTask, prints one of a DriverResult.
import { readdirSync, readFileSync } from "node:fs"
import { type MmapRegion, mmapRegion } from "@virtkit/memory/mmap"
import { BlkFrontEnd } from "./blk-front-end.js"
import { BLOCK, type BlkMemory, BlkRing, RING_BYTES } from "./blk-ring.js"

/** What is asked of all back ends, in turn. */
export interface Workload {
  readonly write: boolean
  readonly sequential: boolean
  /** Bytes of a request. */
  readonly bytes: number
  /** Requests in flight, all queues together. */
  readonly depth: number
  /** The driver looks at the used ring all the time, instead of waiting for an interrupt. */
  readonly polling: boolean
}

export interface DriverTask {
  readonly backEnds: readonly { readonly socket: string; readonly pid: number }[]
  readonly queues: number
  /** Of the disk. */
  readonly blocks: number
  readonly workloads: readonly Workload[]
  readonly runs: number
  readonly warmUpMs: number
  readonly measuredMs: number
}

export interface Measured {
  /** Requests a second. */
  readonly rate: number
  /** The same of the tenth of short rounds that was the quickest: in the others, on a machine with other work, one side waits to run. */
  readonly quickRate: number
  /** Microseconds. */
  readonly median: number
  readonly p999: number
  /** Of the back end, for a million requests. */
  readonly cpuSeconds: number
}

/** By workload, by back end: a result for each run. */
export type DriverResult = readonly (readonly (readonly Measured[])[])[]

interface Connected {
  readonly front: BlkFrontEnd
  readonly rings: readonly BlkRing[]
  readonly pid: number
  /** Its memory goes when nobody refers to it. */
  readonly region: MmapRegion
}

const MAX_SAMPLES = 1 << 20
const ROUND_MS = 10
const samples = new Float64Array(MAX_SAMPLES)

const task = JSON.parse(process.argv[2]!) as DriverTask
const backEnds = await Promise.all(task.backEnds.map(connect))
const results: Measured[][][] = []
for (const workload of task.workloads) {
  const byBackEnd: Measured[][] = backEnds.map(() => [])
  // The first round, in which caches and compilers get used to it, does not count.
  for (let run = -1; run < task.runs; run++) {
    // Each is the first one in turn: what it reads, the machine below may then have in its cache for the others.
    for (let i = 0; i < backEnds.length; i++) {
      const index = (i + run + 1) % backEnds.length
      const measured = measure(backEnds[index]!, workload)
      if (run >= 0) byBackEnd[index]!.push(measured)
    }
  }
  results.push(byBackEnd)
}
process.stdout.write(`${JSON.stringify(results satisfies DriverResult)}\n`)
for (const { front } of backEnds) front.close()

async function connect({ socket, pid }: { socket: string; pid: number }): Promise<Connected> {
  const region = mmapRegion(0, task.queues * RING_BYTES, { backing: "memfd", prealloc: true })
  const { buffer, byteOffset, file } = region
  const memory: BlkMemory = { buffer, byteOffset, size: task.queues * RING_BYTES, fd: file!.fd }
  const rings = Array.from({ length: task.queues }, (_, index) => new BlkRing(memory, index))
  return { front: await BlkFrontEnd.connect(socket, memory, rings), rings, pid, region }
}

/** Keeps the depth in flight for the time of a measurement, then lets it drain. */
function measure({ front, rings, pid }: Connected, workload: Workload): Measured {
  const { write, sequential, bytes, depth, polling } = workload
  const blocksEach = bytes / BLOCK
  const places = Math.floor(task.blocks / blocksEach)
  let random = 0x9e37_79b9
  let place = 0
  const next = (): number => {
    if (sequential) {
      place = place + 1 === places ? 0 : place + 1
    } else {
      random ^= random << 13
      random ^= random >>> 17
      random ^= random << 5
      place = (random >>> 0) % places
    }
    return place * blocksEach
  }
  const kick = (index: number): void => {
    if (rings[index]!.publish()) front.kicks[index]!.signal()
  }

  let inFlight = 0
  let now = performance.now()
  for (const [index, ring] of rings.entries()) {
    ring.prepare(write, bytes)
    if (polling) ring.disableInterrupt()
    const share = Math.floor(depth / rings.length) + (index < depth % rings.length ? 1 : 0)
    for (let slot = 0; slot < share; slot++) ring.add(slot, next(), now)
    inFlight += share
    kick(index)
  }

  let measuring = false
  let ending = false
  let cpuBefore = 0
  let began = 0
  let end = now + task.warmUpMs
  let done = 0
  const rounds: number[] = []
  let roundEnd = 0
  let roundDone = 0
  let result = { rate: 0, cpuSeconds: 0 }
  while (inFlight > 0) {
    let reaped = 0
    for (let index = 0; index < rings.length; index++) {
      const ring = rings[index]!
      const count = ring.reap()
      if (count === 0) continue
      reaped += count
      now = performance.now()
      for (let i = 0; i < count; i++) {
        const slot = ring.reaped[i]!
        if (measuring && done < MAX_SAMPLES) samples[done] = now - ring.started[slot]!
        if (measuring) done++
        if (ending) inFlight--
        else ring.add(slot, next(), now)
      }
      kick(index)
    }
    if (reaped > 0 && now >= end && !ending) {
      if (!measuring) {
        measuring = true
        cpuBefore = cpuSeconds(pid)
        began = performance.now()
        end = began + task.measuredMs
        roundEnd = began + ROUND_MS
      } else {
        measuring = false
        ending = true
        result = {
          rate: (1000 * done) / (now - began),
          cpuSeconds: (1e6 * (cpuSeconds(pid) - cpuBefore)) / done,
        }
      }
    }
    if (measuring && reaped > 0 && now >= roundEnd) {
      rounds.push((1000 * (done - roundDone)) / (now - roundEnd + ROUND_MS))
      roundDone = done
      roundEnd = now + ROUND_MS
    }
    if (polling || reaped > 0) continue
    let ready = false
    for (const ring of rings) if (ring.enableInterrupt()) ready = true
    if (!ready && !front.call.wait(5000))
      throw new Error(`no interrupt for 5 s: ${rings.map((ring) => ring.describe()).join("; ")}`)
  }
  const sorted = samples.subarray(0, Math.min(done, MAX_SAMPLES)).sort()
  rounds.sort((a, b) => a - b)
  return {
    ...result,
    quickRate: rounds[Math.floor(0.9 * rounds.length)]!,
    median: 1000 * sorted[Math.floor(0.5 * sorted.length)]!,
    p999: 1000 * sorted[Math.floor(0.999 * sorted.length)]!,
  }
}

/** Of all threads of a process, the kernel's for its I/O included. */
function cpuSeconds(pid: number): number {
  let nanoseconds = 0
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    try {
      nanoseconds += Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, "latin1").split(" ")[0])
    } catch {
      // It ended.
    }
  }
  return nanoseconds / 1e9
}
