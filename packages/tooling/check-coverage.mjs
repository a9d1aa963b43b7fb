// @ts-check
// Every statement, function and branch of the packages that read what a driver writes is reached by their own tests. What
// cannot be reached is left out by a comment that says why: `/* v8 ignore next -- @preserve WHY */`.
import { existsSync, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { readJson, run, runAlone, shown, toolFindings } from "./check-lib.mjs"

const PACKAGES = ["virtqueue", "virtio"]

/**
 * @typedef {{ start: { line?: number }, end?: unknown }} Place
 * @typedef {object} FileCoverage what Istanbul's JSON says of a file; each map has a count for each key of its counterpart
 * @property {Record<string, Place>} statementMap
 * @property {Record<string, number>} s
 * @property {Record<string, { name: string, decl: Place }>} fnMap
 * @property {Record<string, number>} f
 * @property {Record<string, { type: string, loc: Place, locations: Place[] }>} branchMap
 * @property {Record<string, number[]>} b
 */

/**
 * @param {string} name the file's
 * @param {FileCoverage} file
 * @returns {string[]} a line for each line of the file with something in it that no test reaches
 */
export function uncovered(name, file) {
  /** @type {Map<number, string>} */
  const lines = new Map()
  /** @type {(what: string, ...places: (Place | undefined)[]) => void} */
  const add = (what, ...places) => {
    const line = places.map((place) => place?.start.line).find((one) => one !== undefined) ?? 0
    if (!lines.has(line)) lines.set(line, what)
  }
  for (const [key, { name: called, decl }] of Object.entries(file.fnMap)) {
    if (file.f[key] === 0) add(`no test calls ${called}`, decl)
  }
  for (const [key, place] of Object.entries(file.statementMap)) {
    if (file.s[key] === 0) add("no test gets there", place)
  }
  for (const [key, { type, loc, locations }] of Object.entries(file.branchMap)) {
    for (const [at, count] of (file.b[key] ?? []).entries()) {
      if (count === 0) add(`no test takes way ${at + 1} of ${locations.length} (${type})`, locations[at], loc)
    }
  }
  return [...lines].sort(([a], [b]) => a - b).map(([line, what]) => `${name}:${line}: ${what}`)
}

/** @param {string} root */
export async function check(root) {
  const directory = mkdtempSync(join(tmpdir(), "virtkit-coverage-"))
  try {
    const args = ["run", "--coverage", "--coverage.reporter=json", `--coverage.reportsDirectory=${directory}`]
    for (const name of PACKAGES) args.push(`--coverage.include=packages/${name}/src/**`)
    // Those of their own packages alone: what others reach by chance is not tested.
    args.push(...PACKAGES.map((name) => `packages/${name}/test/`))
    // The counts of the gate are those of all tests.
    const result = await run("vitest", args, { cwd: root, env: { VIRTKIT_TEST_REPORT: "" } })
    const report = join(directory, "coverage-final.json")
    const findings = toolFindings(result, "vitest --coverage")
    if (findings.length > 0 || !existsSync(report))
      return { findings: [...findings, "no coverage"], summary: "" }
    /** @type {[string, FileCoverage][]} */
    const files = Object.entries(readJson(report))
    return {
      findings: files.flatMap(([path, file]) => uncovered(shown(root, path), file)),
      summary: `the tests of ${PACKAGES.join(" and ")} reach every branch of their ${files.length} files`,
    }
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

await runAlone(import.meta.url, check)
