// The thread that runs a target: started by `runTarget`, which watches it.
import { register } from "node:module"
import { parentPort, workerData } from "node:worker_threads"
import { type CampaignResult, campaign, kindOf } from "./campaign.js"
import { minimise } from "./minimise.js"
import type { Plant } from "./plant.js"
import type { FuzzTarget } from "./target.js"

/** Runs of {@link minimise}. */
const ATTEMPTS = 2000

export interface WorkerOptions {
  readonly target: string
  readonly corpus: readonly Uint8Array[]
  readonly seeds: boolean
  readonly seed: number
  readonly seconds: number
  readonly runs: number
  /** Make an input that fails shorter. */
  readonly minimise: boolean
  /** A defect to put into the code under test. */
  readonly plant: Plant | undefined
  readonly shared: SharedArrayBuffer
}

export type WorkerMessage =
  | { readonly kind: "failed"; readonly input: Uint8Array; readonly error: string }
  | ({ readonly kind: "done" } & Pick<CampaignResult, "runs" | "seconds" | "kept">)

/** What {@link WorkerOptions.shared} holds: two 32-bit words, then the input of the present run. */
export const SHARED: { runs: 0; length: 1; input: 8; bytes: number } = {
  runs: 0,
  length: 1,
  input: 8,
  bytes: 1 << 17,
}

if (parentPort !== null) await main(workerData as WorkerOptions, parentPort)

async function main(options: WorkerOptions, port: NonNullable<typeof parentPort>): Promise<void> {
  // Before any of the code under test is loaded.
  if (options.plant !== undefined) register("./plant-hook.js", import.meta.url, { data: options.plant })
  const { loadTarget } = await import("./targets/index.js")
  const target = await loadTarget(options.target)
  const words = new Int32Array(options.shared, 0, 2)
  const bytes = new Uint8Array(options.shared, SHARED.input)
  const before = (input: Uint8Array) => {
    bytes.set(input.subarray(0, bytes.length))
    words[SHARED.length] = input.length
    Atomics.add(words, SHARED.runs, 1)
  }
  const { runs, seconds, kept, failure } = await campaign(target, { ...options, before })
  const post = (message: WorkerMessage) => port.postMessage(message)
  if (failure !== undefined) {
    const error = describe(failure.error)
    post({ kind: "failed", input: failure.input, error })
    if (options.minimise) {
      const fails = (input: Uint8Array) => {
        before(input)
        return failsAlike(target, input, kindOf(failure.error))
      }
      post({ kind: "failed", input: await minimise(failure.input, fails, ATTEMPTS), error })
    }
  }
  post({ kind: "done", runs, seconds, kept })
}

async function failsAlike(target: FuzzTarget, input: Uint8Array, kind: string): Promise<boolean> {
  try {
    await target.run(input)
    return false
  } catch (error) {
    return kindOf(error) === kind
  }
}

function describe(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error)
}
