import { spawn } from "node:child_process"
import { createHash } from "node:crypto"
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { basename, join } from "node:path"
import { fileURLToPath } from "node:url"
import type { Plant } from "./plant.js"
import type { RunOptions, RunReport } from "./run-target.js"

const ROOT = fileURLToPath(new URL("../../..", import.meta.url))

/** A libFuzzer harness in native/fuzz, and the files of native/src that it is about. */
export interface NativeTarget {
  readonly about: string
  readonly harness: string
  readonly sources: readonly string[]
}

export const NATIVE_TARGETS: Readonly<Record<string, NativeTarget>> = {
  "native-frames": {
    about: "C++: frames between a TAP and guest buffers (libFuzzer)",
    harness: "frames.cc",
    sources: ["net_frames.cc"],
  },
  "native-io": {
    about: "C++: block I/O on segments of guest memory (libFuzzer)",
    harness: "io.cc",
    sources: ["io_ops.cc"],
  },
  "native-block": {
    about: "C++: submission arrays of the block engine (libFuzzer)",
    harness: "block.cc",
    sources: ["block_jobs.cc", "io_ops.cc"],
  },
  "native-requests": {
    about: "C++: buffers of KVM's ioctls (libFuzzer)",
    harness: "requests.cc",
    sources: ["kvm_requests.cc"],
  },
}

/**
 * libFuzzer's own limits: seconds of one run, MiB, bytes of an input. The seconds are those of a clock: on a machine that has too much
 * to do, a run may get no processor for a while.
 */
const LIMITS = ["-timeout=60", "-rss_limit_mb=2048", "-max_len=2048"]
const MINIMISE_SECONDS = 10
const FLAGS = ["-std=c++20", "-fno-omit-frame-pointer", "-fno-sanitize-recover=undefined", "-D_GNU_SOURCE"]
const SANITIZERS = "address,undefined"

/** As `runTarget`, of a target in C++: built with clang, libFuzzer, and the sanitizers of addresses and undefined behaviour. */
export async function runNative(options: RunOptions): Promise<RunReport> {
  const { target, seed, seconds, plant } = options
  const folder = mkdtempSync(join(tmpdir(), "virtkit-fuzz-"))
  try {
    const program = await buildFuzzer(target, folder, plant)
    const [fresh, start] = [join(folder, "fresh"), join(folder, "start")]
    for (const path of [fresh, start]) mkdirSync(path)
    for (const [index, input] of options.corpus.entries()) writeFileSync(join(start, String(index)), input)
    const runs = options.runs === undefined || options.runs === Number.POSITIVE_INFINITY ? -1 : options.runs
    // To libFuzzer 0 is for ever.
    const limits = [
      ...LIMITS,
      `-seed=${seed || 1}`,
      `-max_total_time=${Math.max(1, seconds)}`,
      `-runs=${runs}`,
    ]
    const begin = performance.now()
    const args = [...limits, "-print_final_stats=1", `-artifact_prefix=${folder}/found-`, fresh, start]
    const { status, output } = await run(program, args, folder)
    const report = {
      target,
      runs: Number(/number_of_executed_units:\s*(\d+)/.exec(output)?.[1] ?? 0),
      seconds: (performance.now() - begin) / 1000,
      kept: [...readAll(fresh), ...readAll(start)],
    }
    if (status === 0) return { ...report, finding: undefined }
    const found = readdirSync(folder).find((name) => name.startsWith("found-"))
    const input = found === undefined ? new Uint8Array(0) : await shortest(program, folder, found, options)
    return { ...report, finding: { input, error: told(output) } }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** Runs inputs with the sanitizers but without libFuzzer, which any g++ can; throws with what it said. */
export async function replayNative(target: string, inputs: readonly Uint8Array[]): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "virtkit-replay-"))
  try {
    const program = await buildReplay(target)
    const files = inputs.map((input, index) => {
      const file = join(folder, `input${index}`)
      writeFileSync(file, input)
      return file
    })
    const { status, output } = await run(program, files, folder)
    if (status !== 0) throw new Error(`${target}: ${told(output)}`)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** Built again only when what it is made of has changed: compiling takes seconds. */
async function buildReplay(target: string): Promise<string> {
  const cache = join(ROOT, "node_modules/.cache/virtkit-fuzz")
  const program = join(cache, `${target}-${sourcesHash(target)}`)
  if (existsSync(program)) return program
  mkdirSync(cache, { recursive: true })
  // Moved there whole, since others may look for it.
  renameSync(
    await build("g++", target, cache, undefined, ["-O0", `-fsanitize=${SANITIZERS}`], "replay.cc"),
    program,
  )
  return program
}

/** Of all that a harness is built from, headers included. */
function sourcesHash(target: string): string {
  const { harness, sources } = NATIVE_TARGETS[target]!
  const headers = readdirSync(join(ROOT, "native/src")).filter((name) => name.endsWith(".h"))
  const files = [...sources, ...headers].map((name) => `src/${name}`)
  for (const name of [harness, "input.h", "replay.cc"]) files.push(`fuzz/${name}`)
  const hash = createHash("sha256")
  for (const file of files) hash.update(readFileSync(join(ROOT, "native", file)))
  return hash.digest("hex").slice(0, 16)
}

/** clang comes with the first use: see `npm run fuzz`. */
async function buildFuzzer(target: string, folder: string, plant: Plant | undefined): Promise<string> {
  const bootstrap = [join(ROOT, "packages/tooling/bootstrap.mjs"), "fuzz-native"]
  const { status, output } = await run(process.execPath, bootstrap, ROOT)
  if (status !== 0) throw new Error(output)
  return build("clang++", target, folder, plant, ["-O1", "-g", `-fsanitize=fuzzer,${SANITIZERS}`])
}

async function build(
  compiler: string,
  target: string,
  folder: string,
  plant: Plant | undefined,
  flags: readonly string[],
  ...more: string[]
): Promise<string> {
  const { harness, sources } = NATIVE_TARGETS[target]!
  const native = join(ROOT, "native")
  const program = join(folder, `${target}-${process.pid}`)
  const files = sources.map((name) => {
    const path = join(native, "src", name)
    return plant?.file === `native/src/${name}` ? planted(path, folder, plant) : path
  })
  const include = ["-I", join(native, "src"), "-I", join(native, "fuzz")]
  const all = [...[harness, ...more].map((name) => join(native, "fuzz", name)), ...files]
  const args = [...FLAGS, ...flags, ...include, ...all, "-o", program]
  const { status, output } = await run(compiler, args, ROOT)
  if (status !== 0) throw new Error(`${compiler} failed:\n${output}`)
  return program
}

function planted(path: string, folder: string, { from, to, file }: Plant): string {
  const source = readFileSync(path, "utf8")
  if (source.split(from).length !== 2) throw new Error(`${file} must have once: ${from}`)
  const copy = join(folder, basename(path))
  writeFileSync(
    copy,
    source.replace(from, () => to),
  )
  return copy
}

async function shortest(
  program: string,
  folder: string,
  found: string,
  { minimise }: RunOptions,
): Promise<Uint8Array> {
  const path = join(folder, found)
  if (minimise === false) return new Uint8Array(readFileSync(path))
  const shorter = join(folder, "shortest")
  const args = ["-minimize_crash=1", `-max_total_time=${MINIMISE_SECONDS}`, `-exact_artifact_path=${shorter}`]
  await run(program, [...LIMITS, ...args, path], folder)
  return new Uint8Array(readFileSync(existsSync(shorter) ? shorter : path))
}

function readAll(folder: string): Uint8Array[] {
  return readdirSync(folder).map((name) => new Uint8Array(readFileSync(join(folder, name))))
}

/** From the sanitizer's or the harness's first line on, as far as it helps. */
function told(output: string): string {
  const lines = output.split("\n")
  const first = lines.findIndex((line) => /ERROR|runtime error|SUMMARY/.test(line))
  return lines.slice(Math.max(0, first), Math.max(0, first) + 16).join("\n")
}

function run(
  program: string,
  args: readonly string[],
  cwd: string,
): Promise<{ status: number; output: string }> {
  return new Promise((resolve) => {
    const child = spawn(program, args, { cwd, stdio: ["ignore", "pipe", "pipe"] })
    let output = ""
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (data: Buffer) => {
        output = (output + data.toString("latin1")).slice(-200_000)
      })
    }
    child.once("error", (error) => resolve({ status: -1, output: error.message }))
    child.once("close", (status) => resolve({ status: status ?? -1, output }))
  })
}
