// node_modules as package-lock.json wants it.
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { findProgram, run, say, UserMustAct } from "./bootstrap-lib.mjs"

/**
 * The `packages` of a lock file.
 *
 * @param {string} path
 * @returns {Record<string, { version?: string, resolved?: string, link?: boolean, optional?: boolean, devOptional?: boolean }>}
 */
function locked(path) {
  try {
    return JSON.parse(readFileSync(path, "utf8")).packages ?? {}
  } catch {
    return {}
  }
}

/**
 * Whether every package is there in the version that the lock file names. npm keeps a lock file of what it has
 * installed; optional packages may be for other systems.
 *
 * @param {string} root
 */
function upToDate(root) {
  const installed = locked(join(root, "node_modules/.package-lock.json"))
  for (const [path, wanted] of Object.entries(locked(join(root, "package-lock.json")))) {
    if (!path.startsWith("node_modules/") || wanted.optional || wanted.devOptional) continue
    const found = installed[path]
    if (!found || found.version !== wanted.version || found.resolved?.startsWith("file:")) return false
    if (wanted.link && !existsSync(join(root, path, "package.json"))) return false
  }
  return existsSync(join(root, "node_modules/typescript/package.json"))
}

/** @param {string} root */
export async function nodeModules(root) {
  if (upToDate(root)) return
  const npm = findProgram("npm")
  if (!npm) throw new UserMustAct("npm is missing: install it beside node, then try again")
  say("installing the npm packages that package-lock.json lists, into node_modules (npm ci)")
  await run(npm, ["ci", "--include=dev", "--no-audit", "--no-fund", "--loglevel=error"], root)
}
