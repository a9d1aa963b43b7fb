// @ts-check
// The end of .ci/run: adds up the tests' and the checks' counts and prints `N passed, N failed, N skipped`.
// Usage: check-tally.mjs TEST_REPORT TEST_STATUS CHECK_REPORT CHECK_STATUS
import { existsSync, readFileSync, realpathSync } from "node:fs"
import { pathToFileURL } from "node:url"
import { judge } from "./check-skips.mjs"

/**
 * @typedef {import("./vitest-report.mjs").TestReport} TestReport
 * @typedef {{ passed: number, failed: number }} CheckReport
 */

/**
 * @param {object} run
 * @param {TestReport[]} run.tests one for each run of vitest; none if it did not get to its end
 * @param {number} run.testStatus exit status of `npm test`
 * @param {CheckReport | undefined} run.checks
 * @param {number} run.checkStatus
 * @param {boolean} run.ci whether a skipped test needs a reason that holds
 * @returns {{ passed: number, failed: number, skipped: number, notes: string[] }}
 */
export function tally({ tests, testStatus, checks, checkStatus, ci }) {
  /** @type {string[]} */
  const notes = []
  const skipped = tests.flatMap((report) => report.skipped)
  const passed = tests.reduce((sum, report) => sum + report.passed, 0) + (checks?.passed ?? 0)
  let failed = tests.reduce((sum, report) => sum + report.failed, 0)
  const repeated = tests.flatMap((report) => report.repeated ?? [])
  notes.push(...repeated.map((name) => `failed in its first lab, and was run again: ${name}`))
  if (failed === 0 && (testStatus !== 0 || passed === 0)) {
    failed += 1
    notes.push(`npm test ended with status ${testStatus}`)
  }
  failed += checks?.failed ?? 0
  if (checks === undefined || (checks.failed === 0 && checkStatus !== 0)) {
    failed += 1
    notes.push(`npm run check ended with status ${checkStatus}`)
  }
  if (!ci) return { passed, failed, skipped: skipped.length, notes }
  const { allowed, refused } = judge(skipped)
  notes.push(...allowed.map((name) => `skipped, as this machine cannot run it: ${name}`))
  notes.push(
    ...refused.map((name) => `FAIL: skipped without a reason that holds here (check-skips.mjs): ${name}`),
  )
  return { passed, failed: failed + refused.length, skipped: allowed.length, notes }
}

/** @param {string | undefined} path */
function lines(path) {
  if (path === undefined || !existsSync(path)) return []
  return readFileSync(path, "utf8")
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line))
}

if (process.argv[1] !== undefined && pathToFileURL(realpathSync(process.argv[1])).href === import.meta.url) {
  const [testReport, testStatus, checkReport, checkStatus] = process.argv.slice(2)
  const { passed, failed, skipped, notes } = tally({
    tests: lines(testReport),
    testStatus: Number(testStatus),
    checks: lines(checkReport)[0],
    checkStatus: Number(checkStatus),
    ci: process.env.CI !== undefined && process.env.CI !== "false",
  })
  for (const note of notes) console.log(note)
  console.log(`${passed} passed, ${failed} failed, ${skipped} skipped`)
  process.exitCode = failed === 0 ? 0 : 1
}
