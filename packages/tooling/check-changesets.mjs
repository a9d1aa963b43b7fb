// @ts-check
// Every changeset can be read by the tool that makes the release: front matter with packages of ours and how far each goes,
// then words.
import { readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { runAlone, workspaces } from "./check-lib.mjs"

const ENTRY = /^"([^"]+)": (?:patch|minor|major)$/

/**
 * @param {string} text
 * @param {ReadonlySet<string>} packages
 * @returns {string | undefined} what is wrong
 */
export function problem(text, packages) {
  const [, front, words] = /^---\n([\s\S]*?)\n---\n([\s\S]*)$/.exec(text) ?? []
  if (front === undefined || words === undefined) return "has no front matter between two lines of ---"
  for (const line of front.split("\n")) {
    const name = ENTRY.exec(line)?.[1]
    if (name === undefined) return `"${line}" is not "PACKAGE": patch, minor or major`
    if (!packages.has(name)) return `${name} is no package of this repository`
  }
  return words.trim() === "" ? "says nothing" : undefined
}

/** @param {string} root */
export function check(root) {
  const packages = new Set(workspaces(root).map(({ manifest }) => manifest.name))
  const directory = join(root, ".changeset")
  const files = readdirSync(directory).filter((file) => file.endsWith(".md") && file !== "README.md")
  const findings = files.flatMap((file) => {
    const wrong = problem(readFileSync(join(directory, file), "utf8"), packages)
    return wrong === undefined ? [] : [`.changeset/${file}: ${wrong}`]
  })
  return { findings, summary: `${files.length} changesets can be read` }
}

await runAlone(import.meta.url, check)
