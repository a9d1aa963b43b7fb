// @ts-check
// Nothing of the machine that a commit was made on gets into the repository: paths, registry hosts; nor conflict markers,
// nor large files.
import { readFileSync, statSync } from "node:fs"
import { join } from "node:path"
import { run, runAlone } from "./check-lib.mjs"

const maxBytes = 1024 * 1024

/** These name what they look for. */
const exempt = ["packages/tooling/check-hygiene.mjs", "packages/tooling/test/check-hygiene.test.ts"]

/** @type {[RegExp, string][]} */
const patterns = [
  [/(?<![\w.$}~-])\/(home|Users|work|tmp\/v)\/[\w.-]/, "a path of one machine"],
  [/registry\.(npmjs|yarnpkg)|npmmirror|artifactory|deb\.debian\.org/i, "the host of a package registry"],
  [/^(<{7}|>{7}) /, "a merge conflict marker"],
]

/** @param {string} root */
export async function check(root) {
  const listing = await run("git", ["ls-files", "-z", "--cached", "--others", "--exclude-standard"], {
    cwd: root,
  })
  if (listing.status !== 0) return { findings: [`git ls-files: ${listing.output}`], summary: "" }
  const files = listing.stdout.split("\0").filter((name) => name !== "" && !exempt.includes(name))
  /** @type {string[]} */
  const findings = []
  for (const name of files) {
    const path = join(root, name)
    const stat = statSync(path, { throwIfNoEntry: false })
    if (stat === undefined || !stat.isFile()) continue
    if (stat.size > maxBytes) findings.push(`${name}: ${stat.size} bytes; large files do not belong in git`)
    else findings.push(...findingsIn(name, readFileSync(path, "utf8")))
  }
  return { findings, summary: `${files.length} files name no machine and no registry` }
}

/**
 * @param {string} name
 * @param {string} text
 * @returns {string[]}
 */
function findingsIn(name, text) {
  if (text.includes("\0")) return []
  return text.split("\n").flatMap((line, index) => {
    const found = patterns.filter(([pattern]) => pattern.test(line)).map(([, what]) => what)
    if (name.endsWith("package-lock.json") && /"resolved": "[a-z+]+:\/\//.test(line))
      found.push("a resolved address")
    return found.map((what) => `${name}:${index + 1}: ${what}: ${line.trim().slice(0, 120)}`)
  })
}

await runAlone(import.meta.url, check)
