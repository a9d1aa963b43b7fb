import { Worker } from "node:worker_threads"
import { minimise } from "./minimise.js"
import type { Plant } from "./plant.js"
import { SHARED, type WorkerMessage, type WorkerOptions } from "./worker.js"

/** An input that hangs is tried shorter so many times, each as long as it takes to be sure. */
const HANG_ATTEMPTS = 20
const SURE_OF_HANG = 2
/** MiB of JavaScript heap: a target that needs more has found something that allocates without bound. */
const HEAP = 1024

export interface RunOptions {
  readonly target: string
  readonly corpus: readonly Uint8Array[]
  /** Start from the target's seeds too. Default true. */
  readonly seeds?: boolean
  readonly seed: number
  readonly seconds: number
  readonly runs?: number
  /** A run that takes longer, in seconds, hangs. Default 10. */
  readonly hangSeconds?: number
  /** Default true. */
  readonly minimise?: boolean
  readonly plant?: Plant | undefined
}

export interface RunReport {
  readonly target: string
  readonly runs: number
  readonly seconds: number
  readonly kept: readonly Uint8Array[]
  readonly finding: { readonly input: Uint8Array; readonly error: string } | undefined
}

/** Fuzzes a target in a thread of its own, which is ended when it hangs or dies. */
export async function runTarget(options: RunOptions): Promise<RunReport> {
  const { report, hung } = await watch(options)
  if (!hung || options.minimise === false || report.finding === undefined) return report
  const { input, error } = report.finding
  const hangs = (shorter: Uint8Array) => hangsWith(options, shorter)
  return { ...report, finding: { input: await minimise(input, hangs, HANG_ATTEMPTS), error } }
}

async function hangsWith(options: RunOptions, input: Uint8Array): Promise<boolean> {
  const once = {
    ...options,
    corpus: [input],
    seeds: false,
    runs: 1,
    hangSeconds: SURE_OF_HANG,
    minimise: false,
  }
  return (await watch(once)).hung
}

function watch(options: RunOptions): Promise<{ report: RunReport; hung: boolean }> {
  const { target, hangSeconds = 10 } = options
  const shared = new SharedArrayBuffer(SHARED.bytes)
  const words = new Int32Array(shared, 0, 2)
  const workerOptions: WorkerOptions = {
    target,
    corpus: options.corpus,
    seeds: options.seeds ?? true,
    seed: options.seed,
    seconds: options.seconds,
    runs: options.runs ?? Number.POSITIVE_INFINITY,
    minimise: options.minimise ?? true,
    plant: options.plant,
    shared,
  }
  const worker = new Worker(new URL("./worker.js", import.meta.url), {
    workerData: workerOptions,
    resourceLimits: { maxOldGenerationSizeMb: HEAP },
    // Targets close descriptors that came over sockets.
    trackUnmanagedFds: false,
  })
  const start = performance.now()
  let finding: RunReport["finding"]
  let seen = 0
  let seenAt = start
  let busyBefore = busySeconds()
  return new Promise((resolve) => {
    const finish = (hung: boolean, rest: Partial<RunReport> = {}) => {
      clearInterval(timer)
      const runs = Atomics.load(words, SHARED.runs)
      const seconds = (performance.now() - start) / 1000
      const report = { target, runs, seconds, kept: [], ...rest, finding }
      worker.removeAllListeners()
      void worker.terminate().then(() => resolve({ report, hung }))
    }
    const present = () => new Uint8Array(shared, SHARED.input, words[SHARED.length]).slice()
    const timer = setInterval(() => {
      const runs = Atomics.load(words, SHARED.runs)
      const waited = (performance.now() - seenAt) / 1000
      if (runs !== seen) {
        seen = runs
        seenAt = performance.now()
        busyBefore = busySeconds()
      } else if (
        runs > 0 &&
        waited > hangSeconds &&
        isHang(waited, busySeconds() - busyBefore, hangSeconds)
      ) {
        // While it was made shorter: what failed at first is good enough.
        const hung = finding === undefined
        finding ??= { input: present(), error: `the run did not end within ${hangSeconds} seconds` }
        finish(hung)
      }
    }, 100)
    worker.on("message", (message: WorkerMessage) => {
      if (message.kind === "failed") finding = { input: message.input, error: message.error }
      else finish(false, { runs: message.runs, seconds: message.seconds, kept: message.kept })
    })
    // Thrown outside of a run's own promise, or out of memory.
    worker.on("error", (error) => {
      finding ??= { input: present(), error: error.stack ?? error.message }
      finish(false)
    })
  })
}

/** Processor time of this process, the target's thread included. */
function busySeconds(): number {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1e6
}

/** On a machine that has too much to do a run may have got no processor at all: one that waits for ever gets more time. */
function isHang(waited: number, busy: number, hangSeconds: number): boolean {
  return busy > hangSeconds / 2 || waited > 6 * hangSeconds
}
