import { mutate } from "./mutate.js"
import { Random } from "./random.js"
import type { FuzzTarget } from "./target.js"
import { withoutNumbers } from "./words.js"

/** Things beyond that number are not told apart any more: what is kept stays bounded. */
const MOST_THINGS = 4000

export interface CampaignOptions {
  /** Inputs to start from. */
  readonly corpus: readonly Uint8Array[]
  /** Start from the target's seeds too. */
  readonly seeds: boolean
  readonly seed: number
  /** It ends after so many seconds or runs, whichever comes first; each start input is run whatever they say. */
  readonly seconds: number
  readonly runs: number
  /** Called before each run: what is to be known of it when it never ends. */
  before(input: Uint8Array): void
}

export interface CampaignResult {
  readonly runs: number
  readonly seconds: number
  /** For each thing that happened the shortest input with which it did; no input twice. */
  readonly kept: readonly Uint8Array[]
  /** What ended it early. */
  readonly failure: { readonly input: Uint8Array; readonly error: unknown } | undefined
}

/** Then the event loop has its turn: what devices' streams leave for it would fill the memory. */
const RUNS_A_TURN = 256

/** Runs a target with changed inputs until one fails or time is up. Which inputs follows from the seed and the corpus. */
export async function campaign(target: FuzzTarget, options: CampaignOptions): Promise<CampaignResult> {
  const { corpus, runs: mostRuns, before } = options
  const random = new Random(options.seed)
  const kept: Uint8Array[] = []
  const shortest = new Map<string, Uint8Array>()
  const start = performance.now()
  const end = start + options.seconds * 1000
  const first = options.seeds ? [...corpus, ...target.seeds()] : corpus
  let runs = 0
  let failure: CampaignResult["failure"]
  while (failure === undefined && (runs < first.length || (runs < mostRuns && performance.now() < end))) {
    const input = first[runs] ?? mutate(random.pick(kept), random.pick(kept), random, target.maxBytes)
    runs++
    before(input)
    try {
      const pending = target.run(input)
      keep(input, pending instanceof Promise ? await pending : pending)
    } catch (error) {
      failure = { input, error }
    }
    if (runs % RUNS_A_TURN === 0) await new Promise((resolve) => setImmediate(resolve))
  }
  const seconds = (performance.now() - start) / 1000
  return { runs, seconds, kept: [...new Set(shortest.values())], failure }

  function keep(input: Uint8Array, happened: Iterable<string>): void {
    let better = false
    for (const thing of happened) {
      const known = shortest.get(thing)
      if (known === undefined ? shortest.size >= MOST_THINGS : known.length <= input.length) continue
      shortest.set(thing, input)
      better = true
    }
    // What it starts with is there for a reason, though nothing new may happen.
    if (better || runs <= first.length) kept.push(input)
  }
}

/** The first line of an error's message without its numbers: two failures with the same one are the same. */
export function kindOf(error: unknown): string {
  const [line = ""] = String(error instanceof Error ? error.message : error).split("\n")
  return withoutNumbers(line)
}
