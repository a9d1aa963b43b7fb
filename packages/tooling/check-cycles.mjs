// @ts-check
// No cycles: between packages (all kinds of dependencies, tests included), nor between the files of a package
// (imports of types alone do not count there: they are gone at run time).
import { existsSync } from "node:fs"
import { dirname, resolve } from "node:path"
import { importsOf, workspaceNamed } from "./check-imports.mjs"
import { filesBelow, runAlone, shown, workspaces } from "./check-lib.mjs"

/**
 * One cycle through each node that closes one, as lists of nodes; a cycle is given once.
 * @param {Map<string, Iterable<string>>} graph
 * @returns {string[][]}
 */
export function cycles(graph) {
  /** @type {Map<string, "open" | "done">} */
  const state = new Map()
  /** @type {string[][]} */
  const found = []
  /** @type {string[]} */
  const path = []
  /** @param {string} node */
  const visit = (node) => {
    state.set(node, "open")
    path.push(node)
    for (const next of graph.get(node) ?? []) {
      if (state.get(next) === "open") found.push([...path.slice(path.indexOf(next)), next])
      else if (!state.has(next)) visit(next)
    }
    path.pop()
    state.set(node, "done")
  }
  for (const node of graph.keys()) if (!state.has(node)) visit(node)
  return found
}

/** @param {string} root */
export function check(root) {
  const all = workspaces(root)
  const names = all.map(({ manifest }) => manifest.name)
  /** @type {Map<string, Set<string>>} */
  const packages = new Map()
  /** @type {Map<string, Set<string>>} */
  const files = new Map()
  for (const { path, manifest } of all) {
    const declared = [manifest.dependencies, manifest.devDependencies, manifest.peerDependencies]
    const targets = new Set(
      declared.flatMap((d) => Object.keys(d ?? {})).filter((name) => names.includes(name)),
    )
    packages.set(manifest.name, targets)
    for (const file of filesBelow(path, /\.(m?js|m?ts)$/)) {
      /** @type {Set<string>} */
      const edges = new Set()
      for (const { specifier, typeOnly } of importsOf(file)) {
        const name = workspaceNamed(specifier, names)
        if (name !== undefined && name !== manifest.name) targets.add(name)
        const local = specifier.startsWith(".") ? localFile(file, specifier) : undefined
        if (local !== undefined && !typeOnly) edges.add(local)
      }
      files.set(file, edges)
    }
  }
  const findings = [
    ...cycles(packages).map((cycle) => `packages: ${cycle.join(" -> ")}`),
    ...cycles(files).map((cycle) => `files: ${cycle.map((file) => shown(root, file)).join(" -> ")}`),
  ]
  return { findings, summary: `no cycle among ${packages.size} packages, nor among ${files.size} files` }
}

/**
 * The file that a relative import means: `./x.js` stands for `x.ts`.
 * @param {string} from
 * @param {string} specifier
 */
function localFile(from, specifier) {
  const path = resolve(dirname(from), specifier)
  return [path.replace(/\.js$/, ".ts"), path].find((candidate) => existsSync(candidate))
}

await runAlone(import.meta.url, check)
