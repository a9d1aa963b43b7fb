// @ts-check
// Every row of the table of bad input in docs/threat-model.md has a test that names it: "bad-input #8: ...". Rows are the
// numbers in the table's first column. Conformance suites count as tests.
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { filesBelow, runAlone, shown, workspaces } from "./check-lib.mjs"

/** @param {string} root */
export function check(root) {
  const rows = rowsIn(readFileSync(join(root, "docs", "threat-model.md"), "utf8"))
  /** @type {Map<number, number>} */
  const tests = new Map()
  /** @type {string[]} */
  const findings = []
  for (const { path } of workspaces(root)) {
    const files = [...filesBelow(join(path, "test"), /\.ts$/), ...filesBelow(join(path, "src"), /\.ts$/)]
    for (const file of files) {
      for (const row of rowsTested(readFileSync(file, "utf8"))) {
        tests.set(row, (tests.get(row) ?? 0) + 1)
        if (!rows.includes(row))
          findings.push(`${shown(root, file)}: bad-input #${row} is in no row of the table`)
      }
    }
  }
  for (const row of rows) {
    if (!tests.has(row)) findings.push(`docs/threat-model.md: no test names bad-input #${row}`)
  }
  const count = [...tests.values()].reduce((sum, n) => sum + n, 0)
  return { findings, summary: `${count} tests for ${rows.length} rows of bad input` }
}

/**
 * @param {string} markdown
 * @returns {number[]}
 */
function rowsIn(markdown) {
  const cells = markdown.matchAll(/^\|\s*(\d+(?:, \d+)*)\s*\|/gm)
  return [...cells].flatMap((match) => (match[1] ?? "").split(", ").map(Number))
}

/**
 * The rows that names of tests mention: `it("bad-input #8: ...")`, `("... (bad-input #12 and #33)")`.
 * @param {string} source
 * @returns {number[]}
 */
function rowsTested(source) {
  const names = source.matchAll(
    /\b(?:it|test|describe)[\w.]*(?:\([^"'`]*\))?\(\s*(["'`])((?:(?!\1).)*bad-input #(?:(?!\1).)*)\1/gs,
  )
  return [...names].flatMap((match) => [...(match[2] ?? "").matchAll(/#(\d+)/g)].map((row) => Number(row[1])))
}

await runAlone(import.meta.url, check)
