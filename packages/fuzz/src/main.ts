import { readFileSync } from "node:fs"
import { parseArgs } from "node:util"
import { readCorpus, writeCorpus, writeFailed } from "./corpus.js"
import { NATIVE_TARGETS, runNative } from "./native.js"
import { PLANTS } from "./planted.js"
import { type RunOptions, type RunReport, runTarget } from "./run-target.js"
import { loadTarget, TARGET_NAMES } from "./targets/index.js"

/** A defect must be found within that time. */
const PLANTED_SECONDS = 60
/** Inputs that `--save` keeps of a target: the shortest ones. */
const MOST_SAVED = 16

const ALL_NAMES = [...TARGET_NAMES, ...Object.keys(NATIVE_TARGETS)]
const WIDTH = 17

const USAGE = `npm run fuzz -- [OPTIONS] [TARGET...]     without TARGET: all, one after the other

  --list         say which targets there are
  --seconds N    how long each is fuzzed (60)
  --runs N       and how many inputs at most
  --seed N       for the same inputs again; else the time decides, and the summary says it
  --save         keep the shortest inputs that make a difference in the corpus
  --replay FILE  run one input, of one TARGET
  --planted      show that the defect planted for each target is found (within ${PLANTED_SECONDS} s)
`

const OPTIONS = {
  list: { type: "boolean" },
  seconds: { type: "string", default: "60" },
  runs: { type: "string" },
  seed: { type: "string" },
  save: { type: "boolean" },
  replay: { type: "string" },
  planted: { type: "boolean" },
  help: { type: "boolean", short: "h" },
} as const

interface Settings {
  readonly names: readonly string[]
  readonly seconds: number
  readonly runs: number
  readonly seed: number
  readonly save: boolean
}

/** Returns the exit status: 0, 1 when something was found (`--planted`: was not found), 2 for wrong usage. */
export async function main(args: string[]): Promise<number> {
  try {
    const { values, positionals } = parseArgs({ args, options: OPTIONS, allowPositionals: true })
    if (values.help) return say(USAGE)
    if (values.list) return await list()
    for (const name of positionals) await aboutOf(name)
    const settings = {
      names: positionals.length > 0 ? positionals : ALL_NAMES,
      seconds: numberOf(values.seconds, "--seconds"),
      runs: values.runs === undefined ? Number.POSITIVE_INFINITY : numberOf(values.runs, "--runs"),
      seed: values.seed === undefined ? Date.now() % 0x7fff_ffff : numberOf(values.seed, "--seed"),
      save: values.save ?? false,
    }
    if (values.replay !== undefined) return await replay(positionals, values.replay)
    return await (values.planted ? findPlanted(settings) : fuzz(settings))
  } catch (error) {
    if (!(error instanceof RangeError || (error as { code?: string }).code?.startsWith("ERR_PARSE_ARGS")))
      throw error
    process.stderr.write(`${(error as Error).message}\n\n${USAGE}`)
    return 2
  }
}

async function list(): Promise<number> {
  for (const name of ALL_NAMES) say(`${name.padEnd(WIDTH)}${await aboutOf(name)}\n`)
  return 0
}

/** Throws RangeError when there is no such target. */
async function aboutOf(name: string): Promise<string> {
  return (NATIVE_TARGETS[name] ?? (await loadTarget(name))).about
}

function run(options: RunOptions): Promise<RunReport> {
  return options.target in NATIVE_TARGETS ? runNative(options) : runTarget(options)
}

async function fuzz(settings: Settings): Promise<number> {
  let findings = 0
  for (const target of settings.names) {
    const report = await run({ ...settings, target, corpus: [...readCorpus(target).values()] })
    say(`${summary(report)}, seed ${settings.seed}, ${report.finding === undefined ? 0 : 1} findings\n`)
    if (report.finding !== undefined) {
      findings++
      const path = writeFailed(target, report.finding.input)
      say(`\n${report.finding.error}\n\n  npm run fuzz -- ${target} --replay ${path}\n\n`)
    } else if (settings.save) {
      writeCorpus(target, report.kept, MOST_SAVED)
    }
  }
  return findings === 0 ? 0 : 1
}

async function replay(targets: readonly string[], file: string): Promise<number> {
  const [target, ...more] = targets
  if (target === undefined || more.length > 0) throw new RangeError("--replay needs one target")
  const corpus = [new Uint8Array(readFileSync(file))]
  const report = await run({ target, corpus, seeds: false, seed: 0, seconds: 0, minimise: false })
  say(report.finding === undefined ? `${target}: no finding\n` : `${report.finding.error}\n`)
  return report.finding === undefined ? 0 : 1
}

/** The corpus is left out: it may know the way to the defect already. */
async function findPlanted({ names, seed }: Settings): Promise<number> {
  let missed = 0
  for (const plant of PLANTS.filter(({ target }) => names.includes(target))) {
    const { target, defect } = plant
    const common = { target, corpus: [], seed, seconds: PLANTED_SECONDS, minimise: false }
    const { finding, runs, seconds } = await run({ ...common, plant })
    if (finding === undefined) missed++
    const [what = ""] = (finding?.error ?? "").split("\n")
    const end = finding === undefined ? "NOT FOUND" : `found: ${what}`
    say(`${target.padEnd(WIDTH)}${defect}: ${runs} runs, ${seconds.toFixed(1)} s, seed ${seed}, ${end}\n`)
  }
  return missed === 0 ? 0 : 1
}

function summary({ target, runs, seconds, kept }: RunReport): string {
  const rate = Math.round(runs / Math.max(seconds, 0.001))
  return `${target.padEnd(WIDTH)}${runs} runs in ${seconds.toFixed(1)} s (${rate}/s), ${kept.length} inputs kept`
}

function numberOf(text: string, name: string): number {
  const value = Number(text)
  if (!Number.isInteger(value) || value < 0) throw new RangeError(`${name} must be a number from 0`)
  return value
}

function say(text: string): number {
  process.stdout.write(text)
  return 0
}
