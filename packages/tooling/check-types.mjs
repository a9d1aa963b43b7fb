// @ts-check
// Sources and tests pass the compiler in strict mode; also brings dist/ up to date for the checks that look at it.
import { existsSync } from "node:fs"
import { join } from "node:path"
import { run, runAlone, toolFindings } from "./check-lib.mjs"

/** @param {string} root */
export async function check(root) {
  const findings = toolFindings(await run("tsc", ["-b", "--pretty", "false"], { cwd: root }), "tsc -b")
  if (findings.length === 0 && existsSync(join(root, "tsconfig.test.json"))) {
    const args = ["-p", "tsconfig.test.json", "--pretty", "false"]
    findings.push(...toolFindings(await run("tsc", args, { cwd: root }), "tsc of the tests"))
  }
  return { findings, summary: "sources and tests compile" }
}

await runAlone(import.meta.url, check)
