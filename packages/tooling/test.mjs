// @ts-check
// `npm test [-- ARGUMENTS OF VITEST]`: every test, and those files of tests in labs that failed once more, in new labs: see
// docs/decisions/0018-lab-tests-are-repeated-once.md. Says so, and what became of it.
import { spawnSync } from "node:child_process"
import { appendFileSync, mkdtempSync, readFileSync, realpathSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath, pathToFileURL } from "node:url"

/** With more than these, something is wrong with more than a lab. */
const MOST_FILES = 3

/** @typedef {import("./vitest-report.mjs").TestReport} TestReport */

/**
 * The files of a run that are worth repeating: none unless all that failed was in a few files of tests in labs.
 *
 * @param {TestReport} report
 * @returns {string[]}
 */
export function worthRepeating({ failed, files }) {
  const names = Object.keys(files)
  const inFiles = names.reduce((sum, name) => sum + (files[name]?.failed ?? 0), 0)
  const labs = names.every((name) => name.endsWith(".lab.test.ts"))
  return labs && inFiles === failed && names.length <= MOST_FILES ? names : []
}

/**
 * What counts of a run of which some files are run again: the rest.
 *
 * @param {TestReport} report
 * @param {string[]} repeated
 * @returns {TestReport}
 */
export function withoutFiles(report, repeated) {
  const result = { ...report, files: { ...report.files }, repeated }
  for (const name of repeated) {
    result.passed -= result.files[name]?.passed ?? 0
    result.failed -= result.files[name]?.failed ?? 0
    result.skipped = result.skipped.filter((test) => !test.startsWith(`${name} > `))
    delete result.files[name]
  }
  return result
}

/** @param {string[]} words @param {string} report a file */
function vitest(words, report) {
  const program = fileURLToPath(new URL("../../node_modules/vitest/vitest.mjs", import.meta.url))
  const env = { ...process.env, VIRTKIT_TEST_REPORT: report }
  const { status, signal } = spawnSync(process.execPath, [program, "run", ...words], {
    env,
    stdio: "inherit",
  })
  if (signal !== null) process.kill(process.pid, signal)
  return status ?? 1
}

/** @param {string} path @returns {TestReport | undefined} */
function readReport(path) {
  try {
    return JSON.parse(readFileSync(path, "utf8"))
  } catch {
    return undefined // vitest did not get to its end
  }
}

/** @param {string[]} words */
function main(words) {
  const directory = mkdtempSync(join(tmpdir(), "virtkit-test-"))
  /** @param {TestReport} report */
  const tell = (report) => {
    const path = process.env.VIRTKIT_TEST_REPORT
    if (path) appendFileSync(path, `${JSON.stringify(report)}\n`)
  }
  try {
    const status = vitest(words, join(directory, "first"))
    const first = readReport(join(directory, "first"))
    if (first === undefined) return status
    const again = status === 0 ? [] : worthRepeating(first)
    if (again.length === 0) {
      tell(first)
      return status
    }
    process.stdout.write(
      `virtkit: failed in the lab, and run once more in a new one (docs/decisions/0018): ${again.join(" ")}\n`,
    )
    const options = words.filter((word) => word.startsWith("-"))
    const second = vitest([...again, ...options], join(directory, "second"))
    tell(withoutFiles(first, again))
    const report = readReport(join(directory, "second"))
    if (report !== undefined) tell(report)
    return second
  } finally {
    rmSync(directory, { recursive: true })
  }
}

if (process.argv[1] !== undefined && pathToFileURL(realpathSync(process.argv[1])).href === import.meta.url) {
  process.exitCode = main(process.argv.slice(2))
}
