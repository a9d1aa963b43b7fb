import { fileURLToPath } from "node:url"
import type { Section } from "./report.js"
import type { RingTask } from "./ring-device.js"
import type { RingResult } from "./ring-process.js"
import { type Summary, summarize } from "./summary.js"
import { runTraced } from "./traced.js"

const ONE_THREAD = fileURLToPath(new URL("./ring-process.js", import.meta.url))
const TWO_THREADS = fileURLToPath(new URL("./ring-pair-process.js", import.meta.url))
const KINDS = ["split", "packed"] as const

/** The queue alone: a driver that does only what it must and a device that gives all back at once, on one thread. */
export function measureRing(runs: number): Promise<Section> {
  const title =
    "The ring alone, driver and device on one JavaScript thread: million chains in a second of processor time"
  return Promise.resolve(measureRings(title, ONE_THREAD, [128, 256, 512, 1024], runs))
}

/** The same with the driver in another thread, over memory that they share. Both are busy all the time. */
export function measureRingThreads(runs: number): Promise<Section> {
  const title = "The ring alone, driver and device on a thread each: million chains a second"
  return Promise.resolve(measureRings(title, TWO_THREADS, [256, 1024], runs))
}

/** `program` takes a RingTask and prints a RingResult. */
function measureRings(title: string, program: string, sizes: readonly number[], runs: number): Section {
  const rows: string[][] = []
  const ratios: number[] = []
  let collections = 0
  for (const descriptors of [1, 3]) {
    for (const indirect of [false, true]) {
      for (const size of sizes) {
        const task = { descriptors, indirect, size, inOrder: false }
        const results = alternate(program, task, runs)
        const [split, packed] = KINDS.map((kind) => {
          return summarize(results[kind].map((one) => one.chainsPerSecond / 1e6))
        }) as [Summary, Summary]
        const bytes = KINDS.flatMap((kind) => results[kind].map((one) => one.bytesPerMillion))
        collections += KINDS.flatMap((kind) => results[kind]).reduce((sum, one) => sum + one.collections, 0)
        ratios.push(packed.median / split.median)
        rows.push([
          `${descriptors} ${indirect ? "indirect" : "direct"}, queue of ${size}`,
          shown(split),
          shown(packed),
          (packed.median / split.median).toFixed(2),
          Math.round(summarize(bytes).median).toString(),
        ])
      }
    }
  }
  return {
    title,
    head: ["descriptors of a chain", "split", "packed", "packed / split", "bytes per million"],
    rows,
    notes: [
      `Packed is ${summarize(ratios).median.toFixed(2)} x split in the median of the rows.`,
      `Collections in the measured parts, by --trace-gc: ${collections}.`,
    ],
  }
}

interface Measured extends RingResult {
  /** Garbage collections while it was measured. */
  readonly collections: number
}

/** Split, packed, split, packed ... */
function alternate(
  program: string,
  task: Omit<RingTask, "packed">,
  runs: number,
): Record<(typeof KINDS)[number], Measured[]> {
  const results: Record<(typeof KINDS)[number], Measured[]> = { split: [], packed: [] }
  for (let run = 0; run < runs; run++) {
    for (const kind of KINDS) results[kind].push(measureOne(program, { ...task, packed: kind === "packed" }))
  }
  return results
}

function measureOne(program: string, task: RingTask): Measured {
  const { result, collections } = runTraced<RingResult>(program, task)
  return { ...result, collections }
}

function shown({ median, min, max }: Summary): string {
  return `${median.toFixed(1)} (${min.toFixed(1)} to ${max.toFixed(1)})`
}
