// @ts-check
// What the checks share: the workspaces, their source files, running a tool, reporting. A check is a module
// `check-NAME.mjs` that exports `check(root)`; it runs alone (`node check-NAME.mjs [ROOT]`) or under check.mjs.
import { spawn } from "node:child_process"
import { existsSync, readdirSync, readFileSync, realpathSync } from "node:fs"
import { availableParallelism } from "node:os"
import { basename, join, relative, resolve } from "node:path"
import { fileURLToPath, pathToFileURL } from "node:url"

/** The checkout that holds these scripts and the tools that they run. */
export const repository = fileURLToPath(new URL("../..", import.meta.url)).replace(/\/$/, "")

/**
 * @typedef {object} Result
 * @property {string} summary what was looked at, for the line printed when nothing was found
 * @property {string[]} findings one line a defect, starting with the file it is in
 *
 * @typedef {Record<string, string>} Dependencies
 * @typedef {object} Manifest the fields of package.json that the checks read
 * @property {string} name
 * @property {string} [version]
 * @property {boolean} [private]
 * @property {string} [description]
 * @property {string} [license]
 * @property {string} [type]
 * @property {boolean} [sideEffects]
 * @property {Record<string, string>} [engines]
 * @property {Record<string, unknown>} [exports]
 * @property {Record<string, string>} [bin]
 * @property {string[]} [files]
 * @property {Record<string, string>} [scripts]
 * @property {Record<string, string>} [publishConfig]
 * @property {string[]} [workspaces]
 * @property {Dependencies} [dependencies]
 * @property {Dependencies} [devDependencies]
 * @property {Dependencies} [peerDependencies]
 * @property {Dependencies} [optionalDependencies]
 *
 * @typedef {object} Workspace
 * @property {string} path absolute
 * @property {string} folder relative to the root, such as "packages/bus"
 * @property {string} id its name in docs/architecture.md: the last part of the folder
 * @property {Manifest} manifest
 */

/**
 * @param {string} path
 * @returns {any}
 */
export function readJson(path) {
  return JSON.parse(readFileSync(path, "utf8"))
}

/**
 * Every workspace of the monorepo at `root`, sorted by folder. Understands plain folders and `folder/*`.
 * @param {string} root
 * @returns {Workspace[]}
 */
export function workspaces(root) {
  /** @type {Manifest} */
  const manifest = readJson(join(root, "package.json"))
  const folders = (manifest.workspaces ?? []).flatMap((pattern) =>
    pattern.endsWith("/*")
      ? entriesOf(join(root, pattern.slice(0, -2))).map((entry) => join(pattern.slice(0, -2), entry))
      : [pattern],
  )
  return folders
    .filter((folder) => existsSync(join(root, folder, "package.json")))
    .sort()
    .map((folder) => ({
      path: join(root, folder),
      folder,
      id: basename(folder),
      manifest: readJson(join(root, folder, "package.json")),
    }))
}

/** @param {string} directory may be missing */
function entriesOf(directory) {
  return existsSync(directory) ? readdirSync(directory) : []
}

/**
 * The files below `directory`, absolute and sorted, without node_modules, build output and dot folders.
 * @param {string} directory may be missing
 * @param {RegExp} pattern of the file's name
 * @returns {string[]}
 */
export function filesBelow(directory, pattern) {
  if (!existsSync(directory)) return []
  return readdirSync(directory, { withFileTypes: true })
    .flatMap((entry) => {
      const path = join(directory, entry.name)
      if (entry.isDirectory()) return ignoredFolders.has(entry.name) ? [] : filesBelow(path, pattern)
      return entry.isFile() && pattern.test(entry.name) ? [path] : []
    })
    .sort()
}

const ignoredFolders = new Set([
  "node_modules",
  "dist",
  "build",
  "prebuilds",
  "coverage",
  "api",
  ".git",
  ".nx",
])

/**
 * The project's Markdown: the root's, docs/ and every workspace's, absolute.
 * @param {string} root
 */
export function markdownFiles(root) {
  return [
    ...readdirSync(root)
      .filter((name) => name.endsWith(".md"))
      .map((name) => join(root, name)),
    ...filesBelow(join(root, "docs"), /\.md$/),
    ...workspaces(root).flatMap(({ path }) => filesBelow(path, /^(?!CHANGELOG).*\.md$/)),
  ]
}

/**
 * Runs a command without input and with a bounded time; never throws.
 * @param {string} command the name of a tool in node_modules/.bin, or of a program
 * @param {string[]} args
 * @param {{ cwd: string, timeout?: number, env?: Record<string, string> }} options timeout in ms, 10 minutes if not given
 * @returns {Promise<{ status: number, stdout: string, output: string }>} output is stdout and stderr together
 */
export function run(command, args, { cwd, timeout = 600_000, env = {} }) {
  const tool = join(repository, "node_modules", ".bin", command)
  return new Promise((done) => {
    const child = spawn(existsSync(tool) ? tool : command, args, {
      cwd,
      timeout,
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, NO_COLOR: "1", FORCE_COLOR: "0", NX_DAEMON: "false", ...env },
    })
    let stdout = ""
    let output = ""
    child.stdout.setEncoding("utf8").on("data", (text) => {
      stdout += text
      output += text
    })
    child.stderr.setEncoding("utf8").on("data", (text) => {
      output += text
    })
    child.on("error", (error) => done({ status: 127, stdout, output: `${output}${error.message}` }))
    child.on("close", (status, signal) => {
      if (signal) output += `\n${command} ended by ${signal} (time limit ${timeout / 1000} s)`
      done({ status: status ?? 128, stdout, output })
    })
  })
}

/**
 * Maps with at most as many at a time as there are processors; results in the order of `items`.
 * @template T, R
 * @param {readonly T[]} items
 * @param {(item: T) => Promise<R>} work
 * @returns {Promise<R[]>}
 */
export async function inParallel(items, work) {
  /** @type {R[]} */
  const results = []
  const queue = items.entries()
  const worker = async () => {
    for (const [index, item] of queue) results[index] = await work(item)
  }
  await Promise.all(Array.from({ length: availableParallelism() }, worker))
  return results
}

/**
 * The findings of a tool that prints them itself: its output's lines when it failed.
 * @param {{ status: number, output: string }} result
 * @param {string} [what] prepended when the tool said nothing
 * @returns {string[]}
 */
export function toolFindings({ status, output }, what = "the tool") {
  if (status === 0) return []
  const lines = output.split("\n").filter((line) => line.trim() !== "" && !line.startsWith("npm warn"))
  return lines.length > 0 ? lines : [`${what} failed with status ${status} and said nothing`]
}

/**
 * `path` as people want to read it.
 * @param {string} root
 * @param {string} path
 */
export function shown(root, path) {
  return relative(root, path) || "."
}

/**
 * Makes a check a command of its own: runs it when its module is the program.
 * @param {string} url the module's import.meta.url
 * @param {(root: string) => Result | Promise<Result>} check
 */
export async function runAlone(url, check) {
  const program = process.argv[1]
  if (program === undefined || pathToFileURL(realpathSync(program)).href !== url) return
  const { findings, summary } = await check(resolve(process.argv[2] ?? repository))
  for (const finding of findings) console.log(finding)
  if (findings.length === 0) console.log(`ok: ${summary}`)
  process.exitCode = findings.length === 0 ? 0 : 1
}
