// @ts-check
// Every file is formatted as `npm run format` would.
import { run, runAlone, toolFindings } from "./check-lib.mjs"

/** @param {string} root */
export async function check(root) {
  const result = await run("biome", ["format", "--reporter=summary"], { cwd: root })
  return { findings: toolFindings(result, "biome format"), summary: "every file is formatted" }
}

await runAlone(import.meta.url, check)
