// @ts-check
// The tarballs that npm would publish: what is in them, and what publint and Are The Types Wrong say of them.
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { inParallel, run, runAlone, toolFindings, workspaces } from "./check-lib.mjs"

/**
 * @typedef {import("./check-lib.mjs").Manifest} Manifest
 * @typedef {{ name: string, filename: string, files: { path: string }[] }} Packed an entry of `npm pack --json`
 */

/** @param {string} root */
export async function check(root) {
  const published = workspaces(root).filter(({ manifest }) => manifest.private !== true)
  const directory = mkdtempSync(join(tmpdir(), "virtkit-pack-"))
  try {
    const selection = published.map(({ folder }) => `--workspace=${folder}`)
    const args = ["pack", "--json", "--silent", `--pack-destination=${directory}`, ...selection]
    const packing = await run("npm", args, { cwd: root })
    if (packing.status !== 0) return { findings: toolFindings(packing, "npm pack"), summary: "" }
    /** @type {Packed[]} */
    const tarballs = JSON.parse(packing.stdout.slice(packing.stdout.indexOf("[\n")))
    const findings = await inParallel(published, async ({ folder, manifest }) => {
      const packed = tarballs.find(({ name }) => name === manifest.name)
      if (packed === undefined) return [`${folder}: npm pack made no tarball`]
      const problems = contents(
        manifest,
        packed.files.map(({ path }) => path),
      )
      problems.push(...(await lint(root, join(directory, packed.filename), manifest.bin === undefined)))
      return problems.map((problem) => `${folder}: ${problem}`)
    })
    return { findings: findings.flat(), summary: `${published.length} tarballs are complete and well-formed` }
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
}

/**
 * What is missing from or out of place in a tarball.
 * @param {Manifest} manifest
 * @param {string[]} paths
 * @returns {string[]}
 */
export function contents(manifest, paths) {
  const required = new Set(["package.json", "README.md", "LICENSE"])
  for (const target of Object.values(manifest.exports ?? {})) {
    const files = typeof target === "object" && target !== null ? Object.values(target) : [target]
    for (const file of files) required.add(String(file).replace(/^\.\//, ""))
  }
  for (const file of Object.values(manifest.bin ?? {})) required.add(file.replace(/^\.\//, ""))
  const unwanted = /(^|\/)(test|node_modules)\/|\.tsbuildinfo$|\.test\.|tsconfig/
  return [
    ...[...required].filter((path) => !paths.includes(path)).map((path) => `the tarball lacks ${path}`),
    ...(manifest.files ?? [])
      .filter(
        (entry) =>
          !/[!*]/.test(entry) && !paths.some((path) => path === entry || path.startsWith(`${entry}/`)),
      )
      .map((entry) => `"files" names ${entry}, of which the tarball has nothing`),
    ...paths.filter((path) => unwanted.test(path)).map((path) => `the tarball has ${path}`),
  ]
}

/**
 * @param {string} root
 * @param {string} tarball
 * @param {boolean} library false for a command, whose types nobody imports
 * @returns {Promise<string[]>}
 */
async function lint(root, tarball, library) {
  const publint = await run("publint", [tarball, "--strict"], { cwd: root })
  const types = library
    ? await run("attw", [tarball, "--profile", "esm-only", "--format", "ascii"], { cwd: root })
    : { status: 0, output: "" }
  const progress = /^(Running publint|Unpacking|Linting)/
  return [
    ...toolFindings(publint, "publint").filter((line) => !progress.test(line)),
    ...toolFindings(types, "attw"),
  ]
}

await runAlone(import.meta.url, check)
