// @ts-check
// Runs the checks: `npm run check [-- NAME...]`. Prints a line for each that passes and the findings of each that does not.
// The status is 1 if any failed. With VIRTKIT_CHECK_REPORT=FILE it also leaves {"passed", "failed"} there for .ci/run.
import { writeFileSync } from "node:fs"
import { repository } from "./check-lib.mjs"

/** @typedef {import("./check-lib.mjs").Result} Result */

// Types first: they bring dist/ up to date, which examples, pack and docs look at.
const names = [
  "types",
  "lint",
  "format",
  "layers",
  "cycles",
  "manifests",
  "unused",
  "pack",
  "examples",
  "links",
  "bad-input",
  "docs",
  "changesets",
  "hygiene",
  "coverage",
]

/**
 * @param {string} name
 * @returns {Promise<Result>}
 */
async function result(name) {
  try {
    const { check } = await import(`./check-${name}.mjs`)
    return await check(repository)
  } catch (error) {
    return {
      findings: [error instanceof Error ? (error.stack ?? error.message) : String(error)],
      summary: "",
    }
  }
}

const chosen = process.argv.slice(2)
const unknown = chosen.filter((name) => !names.includes(name))
if (unknown.length > 0) {
  console.error(`no check ${unknown.join(", ")}; there are: ${names.join(" ")}`)
  process.exit(2)
}
let passed = 0
let failed = 0
for (const name of chosen.length > 0 ? chosen : names) {
  const start = performance.now()
  const { findings, summary } = await result(name)
  const seconds = ((performance.now() - start) / 1000).toFixed(1)
  if (findings.length === 0) {
    passed += 1
    console.log(`ok    ${name}: ${summary} (${seconds} s)`)
  } else {
    failed += 1
    console.log(`FAIL  ${name} (${seconds} s)`)
    for (const finding of findings) console.log(`      ${finding}`)
  }
}
const report = process.env.VIRTKIT_CHECK_REPORT
if (report !== undefined) writeFileSync(report, JSON.stringify({ passed, failed }))
process.exitCode = failed === 0 ? 0 : 1
