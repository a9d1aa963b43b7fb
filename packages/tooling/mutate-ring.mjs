// @ts-check
// node packages/tooling/mutate-ring.mjs [--only TEXT]: applies each defect of mutate-ring-list.mjs to @virtkit/virtqueue,
// one at a time and in memory only, and expects its tests to fail. Takes minutes. Exits with 1 if a defect survives.
import { spawn } from "node:child_process"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { parseArgs } from "node:util"
import { MUTATIONS } from "./mutate-ring-list.mjs"

const ROOT = fileURLToPath(new URL("../..", import.meta.url))
const SOURCES = join(ROOT, "packages/virtqueue/src")
/** A defect may leave a test waiting for ever: that is being caught too. */
const TIMEOUT_MS = 60_000

/**
 * Whether the tests pass with this defect, or with none.
 * @param {string} [mutation] its number
 * @returns {Promise<boolean>}
 */
function passes(mutation) {
  const config = fileURLToPath(new URL("./mutate-ring.config.mjs", import.meta.url))
  const vitest = join(ROOT, "node_modules/vitest/vitest.mjs")
  const args = [vitest, "run", "--config", config, "--bail=1", "packages/virtqueue"]
  const env = { ...process.env, VIRTKIT_MUTATION: mutation ?? "" }
  // In a process group of its own: a test process that loops for ever does not end with its parent.
  const child = spawn(process.execPath, args, { cwd: ROOT, env, stdio: "ignore", detached: true })
  const { pid } = child
  if (pid === undefined) throw new Error("vitest does not start")
  const timer = setTimeout(() => process.kill(-pid, "SIGKILL"), TIMEOUT_MS)
  return new Promise((resolve) => {
    child.once("close", (status) => {
      clearTimeout(timer)
      resolve(status === 0)
    })
  })
}

const { values } = parseArgs({ options: { only: { type: "string", default: "" } } })
for (const [file, from] of MUTATIONS) {
  const count = readFileSync(join(SOURCES, file), "utf8").split(from).length - 1
  if (count !== 1) throw new Error(`${file} has ${count} times: ${from}`)
}
if (!(await passes())) throw new Error("the tests fail without a defect")
let survivors = 0
let tried = 0
for (const [number, [file, from, to, defect]] of MUTATIONS.entries()) {
  if (!`${file} ${defect}`.includes(values.only)) continue
  tried++
  if (!(await passes(String(number)))) continue
  survivors++
  console.log(`survived: ${file}, ${defect}: ${from.trim()}  ->  ${to.trim()}`)
}
console.log(`${tried - survivors} of ${tried} defects were caught`)
process.exitCode = survivors === 0 ? 0 : 1
