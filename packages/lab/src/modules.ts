import { readdir, readFile } from "node:fs/promises"
import { join, relative } from "node:path"
import { gunzipSync } from "node:zlib"
import { ConfigError, VirtkitError } from "@virtkit/interface"
import type { Kernel } from "./kernel.js"
import { run } from "./tools.js"

/** A kernel module, ready for insmod. */
export interface Module {
  /** As in /proc/modules: with underscores. */
  name: string
  /** Below /lib/modules/RELEASE, ends in ".ko". */
  path: string
  /** Uncompressed. */
  data: Buffer
  /** Names of the modules that must be loaded before it. */
  depends: string[]
}

/** "kvm-amd" and "kvm_amd" are the same module. */
function normalize(name: string): string {
  return name.replaceAll("-", "_")
}

function moduleName(path: string): string {
  return normalize((path.split("/").pop() ?? "").replace(/\.ko(\.(xz|zst|gz))?$/, ""))
}

async function walk(directory: string, files: Map<string, string>): Promise<void> {
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    const path = join(directory, entry.name)
    if (entry.isDirectory()) await walk(path, files)
    else if (/\.ko(\.(xz|zst|gz))?$/.test(entry.name)) files.set(moduleName(entry.name), path)
  }
}

async function readModule(path: string): Promise<Buffer> {
  const bytes = await readFile(path)
  if (path.endsWith(".xz")) return run("xz", ["-dc"], { input: bytes })
  if (path.endsWith(".zst")) return run("zstd", ["-dc"], { input: bytes })
  return path.endsWith(".gz") ? gunzipSync(bytes) : bytes
}

/**
 * The `key=value` strings of a module's ".modinfo" section.
 * @throws VirtkitError when `bytes` is not a 64-bit ELF object with such a section
 */
export function moduleInfo(bytes: Buffer, name: string): Map<string, string[]> {
  const fail = (): never => {
    throw new VirtkitError("ERR_VIRTKIT_MODULE", `${name}: not a kernel module`)
  }
  if (bytes.length < 64 || bytes.readUInt32BE(0) !== 0x7f454c46 || bytes[4] !== 2) return fail()
  const table = Number(bytes.readBigUInt64LE(0x28))
  const size = bytes.readUInt16LE(0x3a)
  const count = bytes.readUInt16LE(0x3c)
  if (size < 64 || table + size * count > bytes.length) return fail()
  const section = (index: number): { name: number; start: number; end: number } => {
    const at = table + size * index
    const start = Number(bytes.readBigUInt64LE(at + 0x18))
    return { name: bytes.readUInt32LE(at), start, end: start + Number(bytes.readBigUInt64LE(at + 0x20)) }
  }
  const names = section(Math.min(bytes.readUInt16LE(0x3e), Math.max(count - 1, 0)))
  for (let index = 0; index < count; index++) {
    const candidate = section(index)
    const at = names.start + candidate.name
    if (bytes.toString("latin1", at, at + 9) !== ".modinfo\0") continue
    const info = new Map<string, string[]>()
    for (const text of bytes.toString("latin1", candidate.start, candidate.end).split("\0")) {
      const equals = text.indexOf("=")
      if (equals < 1) continue
      const key = text.slice(0, equals)
      info.set(key, [...(info.get(key) ?? []), text.slice(equals + 1)])
    }
    return info
  }
  return fail()
}

/**
 * The modules of those names and all that they need, in an order in which insmod can load them. Names that are built
 * into the kernel are left out.
 *
 * @throws ConfigError for a module that the kernel does not have
 */
export async function resolveModules(kernel: Kernel, names: readonly string[]): Promise<Module[]> {
  const files = new Map<string, string>()
  await walk(join(kernel.modulesDir, "kernel"), files)
  const builtin = new Set(
    (await readFile(join(kernel.modulesDir, "modules.builtin"), "utf8").catch(() => ""))
      .split("\n")
      .map(moduleName),
  )
  const done = new Map<string, Module>()
  const visit = async (wanted: string): Promise<void> => {
    const name = normalize(wanted)
    if (done.has(name) || builtin.has(name)) return
    const path = files.get(name)
    if (!path) throw new ConfigError(`kernel ${kernel.release} has no module ${wanted}`)
    const data = await readModule(path)
    const info = moduleInfo(data, wanted)
    const list = (key: string): string[] =>
      (info.get(key) ?? []).flatMap((text) => text.split(/[,\s]+/)).filter(Boolean)
    const depends = list("depends").map(normalize)
    for (const other of depends) await visit(other)
    done.set(name, {
      name,
      path: relative(kernel.modulesDir, path).replace(/\.ko\.(xz|zst|gz)$/, ".ko"),
      data,
      depends: depends.filter((other) => done.has(other)),
    })
  }
  for (const name of names) await visit(name)
  return [...done.values()]
}

/** The text of modules.dep, by which modprobe finds a module's file and what it needs. */
export function modulesDep(modules: readonly Module[]): string {
  const paths = new Map(modules.map((module) => [module.name, module.path]))
  const byName = new Map(modules.map((module) => [module.name, module]))
  const closure = (module: Module, seen: Set<string>): Set<string> => {
    for (const name of module.depends) {
      if (!seen.has(name)) closure(byName.get(name)!, seen.add(name))
    }
    return seen
  }
  return modules
    .map(
      (module) =>
        `${module.path}:${[...closure(module, new Set())].map((name) => ` ${paths.get(name)}`).join("")}\n`,
    )
    .join("")
}
