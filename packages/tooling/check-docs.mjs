// @ts-check
// The API documentation can be made without a warning: every {@link} resolves, every exported type is documented.
import { run, runAlone, toolFindings } from "./check-lib.mjs"

/** @param {string} root */
export async function check(root) {
  const result = await run("typedoc", ["--emit", "none", "--treatWarningsAsErrors"], { cwd: root })
  return { findings: toolFindings(result, "typedoc"), summary: "API documentation has no warning" }
}

await runAlone(import.meta.url, check)
