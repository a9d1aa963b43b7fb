// @ts-check
// No unused file, export or dependency, and none undeclared (knip; its exceptions are in knip.json).
import { run, runAlone, toolFindings } from "./check-lib.mjs"

/** @param {string} root */
export async function check(root) {
  const result = await run("knip", ["--no-progress", "--no-config-hints"], { cwd: root })
  return { findings: toolFindings(result, "knip"), summary: "no unused file, export or dependency" }
}

await runAlone(import.meta.url, check)
