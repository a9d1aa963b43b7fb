// @ts-check
// package.json, tsconfig.json and the imports of every package agree, and a published package has what npm users expect.
import { existsSync, readFileSync } from "node:fs"
import { join, relative, resolve, sep } from "node:path"
import { importsOf, workspaceNamed } from "./check-imports.mjs"
import { filesBelow, readJson, runAlone, workspaces } from "./check-lib.mjs"

/** @typedef {import("./check-lib.mjs").Workspace} Workspace */

/** @param {string} root */
export function check(root) {
  const all = workspaces(root)
  const versions = new Map(all.map(({ manifest }) => [manifest.name, manifest.version]))
  const findings = all.flatMap((workspace) => [
    ...everyPackage(workspace),
    ...(workspace.manifest.private === true ? [] : publishedPackage(root, workspace)),
    ...dependencyRanges(workspace, versions),
    ...dependenciesAndImports(workspace, versions),
    ...references(workspace, all),
  ])
  findings.push(...rootReferences(root, all), ...lockFile(root, all))
  return { findings, summary: `${all.length} packages: manifests, references and imports agree` }
}

/** @param {Workspace} workspace */
function everyPackage({ path, folder, manifest }) {
  const findings = []
  if (!existsSync(join(path, "README.md"))) findings.push(`${folder}: README.md is missing`)
  if (manifest.type !== "module") findings.push(`${folder}/package.json: "type" must be "module"`)
  if (manifest.license !== "Apache-2.0")
    findings.push(`${folder}/package.json: "license" must be "Apache-2.0"`)
  if (!manifest.description) findings.push(`${folder}/package.json: "description" is missing`)
  for (const script of ["preinstall", "install", "postinstall", "prepare"]) {
    if (manifest.scripts?.[script]) {
      findings.push(`${folder}/package.json: a "${script}" script (npm blocks them, users distrust them)`)
    }
  }
  return findings
}

/**
 * @param {string} root
 * @param {Workspace} workspace
 */
function publishedPackage(root, { path, folder, manifest }) {
  const findings = []
  const file = `${folder}/package.json`
  if (manifest.engines?.node === undefined) findings.push(`${file}: "engines.node" is missing`)
  if (manifest.sideEffects !== false) findings.push(`${file}: "sideEffects" must be false`)
  if (manifest.publishConfig?.access !== "public")
    findings.push(`${file}: "publishConfig.access" must be "public"`)
  if (manifest.files === undefined) findings.push(`${file}: "files" is missing`)
  for (const [subpath, target] of Object.entries(manifest.exports ?? { ".": undefined })) {
    const typed = typeof target === "object" && target !== null && Object.keys(target)[0] === "types"
    if (!typed && subpath !== "./package.json")
      findings.push(`${file}: exports "${subpath}" must name "types" first`)
  }
  const license = join(path, "LICENSE")
  if (!existsSync(license)) findings.push(`${folder}: LICENSE is missing`)
  else if (readFileSync(license, "utf8") !== readFileSync(join(root, "LICENSE"), "utf8")) {
    findings.push(`${folder}/LICENSE: differs from the root's`)
  }
  return findings
}

/**
 * @param {Workspace} workspace
 * @param {Map<string, string | undefined>} versions of the workspaces
 */
function dependencyRanges({ folder, manifest }, versions) {
  const declared = Object.entries({ ...manifest.dependencies, ...manifest.devDependencies })
  return declared.flatMap(([name, range]) => {
    const own = versions.get(name)
    if (own !== undefined && range !== own)
      return [`${folder}/package.json: ${name} must be "${own}", is "${range}"`]
    return /^\d+\.\d+\.\d+/.test(range) ? [] : [`${folder}/package.json: pin ${name}: "${range}" is a range`]
  })
}

/**
 * What src/ imports is in dependencies, what only tests import in devDependencies, and nothing else is.
 * @param {Workspace} workspace
 * @param {Map<string, unknown>} names of the workspaces
 */
function dependenciesAndImports({ path, folder, manifest }, names) {
  /** @type {Map<string, "src" | "test">} */
  const used = new Map()
  for (const file of filesBelow(path, /\.(m?js|m?ts)$/)) {
    for (const { specifier } of importsOf(file)) {
      const name = workspaceNamed(specifier, names.keys())
      if (name === undefined || name === manifest.name) continue
      if (!file.startsWith(join(path, "test") + sep)) used.set(name, "src")
      else if (!used.has(name)) used.set(name, "test")
    }
  }
  const dependencies = Object.keys({ ...manifest.dependencies, ...manifest.peerDependencies })
  const development = Object.keys(manifest.devDependencies ?? {})
  const findings = []
  for (const [name, where] of used) {
    const declared = dependencies.includes(name) || (where === "test" && development.includes(name))
    const field = where === "src" ? "dependencies" : "devDependencies"
    if (!declared)
      findings.push(`${folder}/package.json: ${where}/ imports ${name}, which is not in ${field}`)
  }
  for (const name of [...dependencies, ...development].filter((name) => names.has(name))) {
    if (!used.has(name)) findings.push(`${folder}/package.json: ${name} is never imported`)
    else if (used.get(name) === "test" && dependencies.includes(name) && manifest.private !== true) {
      findings.push(`${folder}/package.json: only test/ imports ${name}: it belongs in devDependencies`)
    }
    if (dependencies.includes(name) && development.includes(name)) {
      findings.push(`${folder}/package.json: ${name} is in dependencies and in devDependencies`)
    }
  }
  return findings
}

/**
 * A package's tsconfig.json references exactly the TypeScript packages among its dependencies.
 * @param {Workspace} workspace
 * @param {Workspace[]} all
 */
function references({ path, folder, manifest }, all) {
  if (!existsSync(join(path, "tsconfig.json"))) return []
  const expected = all
    .filter(
      (other) =>
        manifest.dependencies?.[other.manifest.name] && existsSync(join(other.path, "tsconfig.json")),
    )
    .map((other) => relative(path, other.path))
  return differences(`${folder}/tsconfig.json`, referencesIn(path), expected)
}

/**
 * @param {string} root
 * @param {Workspace[]} all
 */
function rootReferences(root, all) {
  const expected = all
    .filter(({ path }) => existsSync(join(path, "tsconfig.json")))
    .map(({ folder }) => folder)
  return differences("tsconfig.json", referencesIn(root), expected)
}

/**
 * `npm ci` refuses a lock file that has other dependencies than package.json.
 * @param {string} root
 * @param {Workspace[]} all
 */
function lockFile(root, all) {
  if (!existsSync(join(root, "package-lock.json"))) return []
  /** @type {{ packages: Record<string, import("./check-lib.mjs").Manifest> }} */
  const { packages } = readJson(join(root, "package-lock.json"))
  return all.flatMap(({ folder, manifest }) => {
    const locked = packages[folder]
    const fields = /** @type {const} */ (["dependencies", "devDependencies", "peerDependencies"])
    const same = fields.every((field) => sorted(manifest[field]) === sorted(locked?.[field]))
    return same ? [] : [`package-lock.json: out of date for ${folder}; run npm install`]
  })
}

/** @param {Record<string, string> | undefined} dependencies */
function sorted(dependencies = {}) {
  return JSON.stringify(Object.entries(dependencies).sort())
}

/**
 * @param {string} directory
 * @returns {string[]} relative to it
 */
function referencesIn(directory) {
  /** @type {{ references?: { path: string }[] }} */
  const { references = [] } = readJson(join(directory, "tsconfig.json"))
  return references.map(({ path }) => relative(directory, resolve(directory, path)))
}

/**
 * @param {string} file
 * @param {string[]} found
 * @param {string[]} expected
 */
function differences(file, found, expected) {
  return [
    ...expected.filter((path) => !found.includes(path)).map((path) => `${file}: no reference to ${path}`),
    ...found
      .filter((path) => !expected.includes(path))
      .map((path) => `${file}: needless reference to ${path}`),
  ]
}

await runAlone(import.meta.url, check)
