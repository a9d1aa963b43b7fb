// @ts-check
// node packages/tooling/mutate-ring.mjs [--only TEXT]: applies each defect of mutate-ring-list.mjs to the rings and
// transports, one at a time and in memory only, and runs the conformance suites of @virtkit/testkit over them, which have
// to fail for each. Takes some minutes. Exits with 1 if a defect survives.
import { spawn } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { parseArgs } from "node:util"
import { rolldown } from "rolldown"
import { MUTATIONS } from "./mutate-ring-list.mjs"

const PACKAGES = fileURLToPath(new URL("..", import.meta.url))
const RUNNER = fileURLToPath(new URL("./mutate-ring-runner.mjs", import.meta.url))
/** A defect may leave a test waiting for ever: that is being caught too. */
const TIMEOUT_MS = 120_000
/** All suites without a defect, on a machine that is busy with other things. */
const PATIENCE_MS = 600_000
const ENTRY = "virtual:suites"

/** By package, where its defects have to show: calls of the kit's suites and nothing else. The quickest come first. */
const SUITES = {
  virtqueue: ["virtqueue/test/conformance.test.ts", "virtio-rng/test/conformance.test.ts"],
  virtio: ["virtio/test/conformance.test.ts", "virtio-pci/test/conformance.test.ts"],
  "virtio-pci": ["virtio-pci/test/conformance.test.ts"],
}

/** @typedef {readonly [file: string, from: string, to: string, defect: string]} Mutation */

/**
 * The source file of a defect, below `packages`.
 * @param {Mutation} mutation
 */
function sourceOf([file]) {
  const [name = "", rest = ""] = file.split("/")
  return { name, path: `${name}/src/${rest}` }
}

/**
 * One file with the suites, all they need, and one defect or none.
 * @param {readonly string[]} suites
 * @param {string} output
 * @param {Mutation} [mutation]
 */
async function bundle(suites, output, mutation) {
  const source = mutation && join(PACKAGES, sourceOf(mutation).path)
  const build = await rolldown({
    input: ENTRY,
    platform: "node",
    treeshake: false,
    logLevel: "silent",
    plugins: [
      {
        name: "mutate-ring",
        resolveId(id) {
          if (id === ENTRY) return id
          if (id === "vitest") return RUNNER
          if (!id.startsWith("@virtkit/")) return null
          const [, name, path = "index"] = id.split("/")
          return name === "native" ? { id, external: true } : join(PACKAGES, `${name}/src/${path}.ts`)
        },
        load(id) {
          if (id !== ENTRY) return null
          return suites.map((suite) => `import ${JSON.stringify(join(PACKAGES, suite))}`).join("\n")
        },
        transform(code, id) {
          return mutation && id === source ? code.replace(mutation[1], () => mutation[2]) : null
        },
      },
    ],
  })
  await build.write({ file: output, format: "esm", codeSplitting: false })
  await build.close()
}

/**
 * Runs a bundle; resolves to undefined when all its tests passed, else to the one that failed.
 * @param {string} path
 * @param {number} timeoutMs
 * @param {string} [only] tests whose names have this in them
 * @returns {Promise<string | undefined>}
 */
function failure(path, timeoutMs = TIMEOUT_MS, only = "") {
  const child = spawn(process.execPath, ["--max-old-space-size=512", path], {
    env: { ...process.env, VIRTKIT_ONLY: only },
    stdio: ["ignore", "pipe", "ignore"],
  })
  let output = ""
  child.stdout.on("data", (chunk) => {
    output += chunk
  })
  let late = false
  const timer = setTimeout(() => {
    late = true
    child.kill("SIGKILL")
  }, timeoutMs)
  return new Promise((resolve) => {
    child.once("close", (status) => {
      clearTimeout(timer)
      if (status === 0) resolve(undefined)
      else resolve(late ? "it never ends" : output.split("\n")[0] || "the process dies")
    })
  })
}

/**
 * Defects of one kind of ring show in the tests of that kind; the others would only take time.
 * @param {string} file
 */
function onlyFor(file) {
  if (file === "virtqueue/packed-ring.ts") return "packed"
  return file === "virtqueue/split-ring.ts" ? "split" : ""
}

/** Throws unless each defect has exactly one place. */
function checkPlaces() {
  for (const mutation of MUTATIONS) {
    const { path } = sourceOf(mutation)
    const count = readFileSync(join(PACKAGES, path), "utf8").split(mutation[1]).length - 1
    if (count !== 1) throw new Error(`${path} has ${count} times: ${mutation[1]}`)
  }
}

/** @param {string} folder */
async function main(folder) {
  const { values } = parseArgs({ options: { only: { type: "string", default: "" } } })
  const file = join(folder, "suites.mjs")
  await bundle([...new Set(Object.values(SUITES).flat())], file)
  const broken = await failure(file, PATIENCE_MS)
  if (broken !== undefined) throw new Error(`fails without a defect: ${broken}`)
  const wanted = MUTATIONS.filter(([name, , , defect]) => `${name} ${defect}`.includes(values.only))
  let survivors = 0
  for (const mutation of wanted) {
    const [name, from, to, defect] = mutation
    /** @type {string | undefined} */
    let caught
    for (const suite of SUITES[/** @type {keyof typeof SUITES} */ (sourceOf(mutation).name)]) {
      await bundle([suite], file, mutation)
      caught = await failure(file, TIMEOUT_MS, onlyFor(name))
      if (caught !== undefined) break
    }
    if (caught === undefined) survivors++
    const line = `${from.trim()}  ->  ${to.trim()}`.replaceAll(/\s+/g, " ")
    console.log(
      caught === undefined ? `SURVIVED  ${name}, ${defect}: ${line}` : `${name}, ${defect}: ${caught}`,
    )
  }
  console.log(`${wanted.length - survivors} of ${wanted.length} defects were caught`)
  process.exitCode = survivors === 0 ? 0 : 1
}

checkPlaces()
const folder = mkdtempSync(join(tmpdir(), "virtkit-mutate-"))
try {
  await main(folder)
} finally {
  rmSync(folder, { recursive: true, force: true })
}
