// @ts-check
// Biome's lint rules, warnings included.
import { run, runAlone, toolFindings } from "./check-lib.mjs"

/** @param {string} root */
export async function check(root) {
  const result = await run("biome", ["lint", "--error-on-warnings", "--max-diagnostics=100"], { cwd: root })
  return { findings: toolFindings(result, "biome lint"), summary: "no lint finding" }
}

await runAlone(import.meta.url, check)
