// @ts-check
// Imports between packages point down: the table of layers in docs/architecture.md says who may import whom.
import { readFileSync } from "node:fs"
import { dirname, join, resolve, sep } from "node:path"
import { importsOf, workspaceNamed } from "./check-imports.mjs"
import { filesBelow, runAlone, shown, workspaces } from "./check-lib.mjs"

/**
 * @typedef {object} Rule one package's row
 * @property {string} layer "0" to "9" or a word such as "test"
 * @property {"nothing" | "everything below" | "anything" | "listed"} kind
 * @property {Map<string, string[]>} listed package ids allowed by name, with the paths below src/ that they are confined
 *   to, if any
 */

/**
 * Reads the rows `| layer | packages | may import |`. Cells hold package ids in backquotes; the last cell holds
 * "nothing", "anything", "everything below", and ids, each perhaps with "in `path`" or "in `path` and `path`".
 * @param {string} markdown
 * @returns {Map<string, Rule>} by package id
 */
export function parseLayers(markdown) {
  /** @type {Map<string, Rule>} */
  const rules = new Map()
  for (const line of markdown.split("\n")) {
    const cells = line.split("|").map((cell) => cell.trim())
    const [, layer, packages, allowed] = cells
    if (layer === undefined || packages === undefined || allowed === undefined || cells.length !== 5) continue
    if (!/^(\d|test|tools)$/.test(layer)) continue
    const listed = new Map(
      [...allowed.matchAll(/`([\w-]+)`((?: (?:in|and) `[^`]+`)*)/g)].map(([, to = "", paths = ""]) => [
        to,
        [...paths.matchAll(/`([^`]+)`/g)].map(([, path = ""]) => path),
      ]),
    )
    const kind = /** @type {const} */ (["anything", "everything below", "nothing"]).find((k) =>
      allowed.includes(k),
    )
    for (const [, id] of packages.matchAll(/`([\w-]+)`/g)) {
      if (id !== undefined) rules.set(id, { layer, kind: kind ?? "listed", listed })
    }
  }
  return rules
}

/**
 * Why `from` may not import `to`, or undefined if it may.
 * @param {Map<string, Rule>} rules
 * @param {{ id: string, file: string, test: boolean }} from file: relative to its src/ or test/
 * @param {string} to
 * @returns {string | undefined}
 */
export function refusal(rules, from, to) {
  const rule = rules.get(from.id)
  const target = rules.get(to)
  if (rule === undefined || target === undefined) return undefined // reported once for the package
  const { kind, listed } = rule
  if (kind === "anything") return undefined
  const below = /^\d$/.test(target.layer) && target.layer < rule.layer
  if (from.test && /^\d$/.test(rule.layer) && (below || (to === "testkit" && rule.layer !== "0")))
    return undefined
  if (kind === "everything below" && below) return undefined
  if (!listed.has(to)) return `${from.id} (layer ${rule.layer}) may not import ${to} (layer ${target.layer})`
  if (target.layer > rule.layer)
    return `the table lets ${from.id} import upwards: ${to} is in layer ${target.layer}`
  const confined = listed.get(to)
  if (!from.test && confined?.length && !confined.some((path) => from.file.startsWith(path))) {
    return `${from.id} may import ${to} only in src/${confined.join(" and src/")}`
  }
  return undefined
}

/** @param {string} root */
export function check(root) {
  const rules = parseLayers(readFileSync(join(root, "docs", "architecture.md"), "utf8"))
  const all = workspaces(root)
  const ids = new Map(all.map(({ manifest, id }) => [manifest.name, id]))
  /** @type {string[]} */
  const findings = []
  for (const id of rules.keys()) {
    if (!all.some((workspace) => workspace.id === id)) findings.push(`docs/architecture.md: no package ${id}`)
  }
  let count = 0
  for (const { id, path, folder } of all) {
    if (!rules.has(id)) findings.push(`docs/architecture.md: ${folder} is in no layer`)
    for (const file of filesBelow(path, /\.(m?js|m?ts)$/)) {
      const inSource = file.startsWith(join(path, "src") + sep)
      const test = !inSource && id !== "native" && id !== "tooling"
      const local = file.slice(join(path, inSource ? "src" : "test").length + 1)
      for (const { specifier, line } of importsOf(file)) {
        const name = workspaceNamed(specifier, ids.keys())
        const to = name === undefined ? undefined : ids.get(name)
        count += to === undefined ? 0 : 1
        const escapes = specifier.startsWith(".") && !resolve(dirname(file), specifier).startsWith(path + sep)
        const reason = escapes
          ? `${specifier} leaves the package: import it by its name`
          : to === undefined || to === id
            ? undefined
            : refusal(rules, { id, file: local, test }, to)
        if (reason !== undefined) findings.push(`${shown(root, file)}:${line}: ${reason}`)
      }
    }
  }
  return { findings, summary: `${count} imports between ${all.length} packages point down` }
}

await runAlone(import.meta.url, check)
