// What the steps of the bootstrap share: talking to people, running programs, stamps.
import { spawn } from "node:child_process"
import { createHash } from "node:crypto"
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from "node:fs"
import { userInfo } from "node:os"
import { delimiter, dirname, join } from "node:path"

/** What only the user can mend: printed as it is, exit status 2. */
export class UserMustAct extends Error {}

/**
 * One line for people. Nothing of this goes to stdout.
 *
 * @param {string} text
 */
export function say(text) {
  process.stderr.write(`virtkit: ${text}\n`)
}

/**
 * Path of a program, or undefined; the sbin directories count, although a user's PATH may lack them.
 *
 * @param {string} name
 * @returns {string | undefined}
 */
export function findProgram(name) {
  const directories = [...(process.env.PATH ?? "").split(delimiter), "/usr/local/sbin", "/usr/sbin", "/sbin"]
  for (const directory of directories) {
    // What node_modules brings along comes and goes with it.
    if (!directory.startsWith("/") || directory.includes("/node_modules/")) continue
    const path = join(directory, name)
    try {
      accessSync(path, constants.X_OK)
      return path
    } catch {}
  }
  return undefined
}

/** The environment for programs: with a home directory even where HOME is empty, and nobody to ask. */
export function environment() {
  return {
    ...process.env,
    HOME: process.env.HOME || userInfo().homedir,
    DEBIAN_FRONTEND: "noninteractive",
    NX_DAEMON: "false",
  }
}

/**
 * Runs a program silently. When it fails, the end of what it said is in the error.
 *
 * @param {string} program
 * @param {readonly string[]} args
 * @param {string} cwd
 */
export async function run(program, args, cwd) {
  const child = spawn(program, args, { cwd, env: environment(), stdio: ["ignore", "pipe", "pipe"] })
  let output = ""
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (chunk) => {
      output = (output + chunk).slice(-8000)
    })
  }
  const status = await new Promise((resolve) => {
    child.once("error", (error) => resolve(error.message))
    child.once("close", (code, signal) => resolve(code ?? signal))
  })
  if (status === 0) return
  throw new Error(`${program} ${args.join(" ")} failed (${status}):\n${output.trimEnd()}`)
}

/**
 * A hash of files and of all the files in directories, by name and contents.
 *
 * @param {string} root
 * @param {readonly string[]} paths relative to `root`; those that do not exist are left out
 * @param {(name: string) => boolean} [wanted] says which files count
 */
export function hashFiles(root, paths, wanted = () => true) {
  const hash = createHash("sha256")
  const visit = (/** @type {string} */ path) => {
    const full = join(root, path)
    if (!existsSync(full)) return
    const entries = directoryEntries(full)
    if (!entries) {
      if (wanted(path)) hash.update(`${path}\0`).update(readFileSync(full))
      return
    }
    for (const name of entries) visit(join(path, name))
  }
  for (const path of paths) visit(path)
  return hash.digest("hex")
}

/**
 * @param {string} path
 * @returns {string[] | undefined} undefined for a file
 */
function directoryEntries(path) {
  try {
    return readdirSync(path).sort()
  } catch {
    return undefined
  }
}

/**
 * @param {string} path
 * @returns {string} what `writeStamp` wrote, or ""
 */
export function readStamp(path) {
  return existsSync(path) ? readFileSync(path, "utf8") : ""
}

/**
 * @param {string} path
 * @param {string} text
 */
export function writeStamp(path, text) {
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, text)
}
