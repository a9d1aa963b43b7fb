import { createHash, randomUUID } from "node:crypto"
import {
  lstat,
  mkdir,
  readdir,
  readFile,
  readlink,
  realpath,
  rename,
  stat,
  writeFile,
} from "node:fs/promises"
import { join } from "node:path"
import { ConfigError } from "@virtkit/interface"
import { lookUp, prune } from "./cache.js"
import { CpioWriter } from "./cpio.js"
import type { Kernel } from "./kernel.js"
import { mergedUsr, sharedLibraries } from "./libraries.js"
import { type Module, modulesDep, resolveModules } from "./modules.js"
import { cacheDir } from "./paths.js"
import { findTool, needTool, run } from "./tools.js"

/** Changes with what this file puts into every archive, so that older ones are not used. */
const LAYOUT = 1
/** Archives that are kept. */
const KEEP = 16

/** A file or directory that goes into an initramfs. */
export interface InitramfsFile {
  /** Absolute path in the guest. */
  target: string
  /** A file, symbolic link or directory of the host ... */
  source?: string
  /** ... or the contents. */
  data?: Uint8Array | string
  /** Permissions of `data`, 0o644 by default. */
  mode?: number
}

/** What an initramfs is made of. */
export interface InitramfsOptions {
  kernel: Kernel
  /** Shell script that runs as process 1 after the default start: see `preamble`. */
  init: string
  /** Modules to load at the start, with what they need: see `resolveModules`. */
  modules?: readonly string[]
  /** Programs of the host, by name or absolute path, with their shared libraries: "mke2fs". */
  programs?: readonly string[]
  files?: readonly InitramfsFile[]
  /** Runs before `init`. Default: mounts /proc, /sys, /dev, /tmp, sets PATH and loads `modules`. */
  preamble?: string
}

/** How an init script starts when the caller does not want it otherwise. */
export const defaultPreamble: string = `mount -t devtmpfs none /dev 2>/dev/null
mount -t proc none /proc
mount -t sysfs none /sys
mkdir -p /dev/pts
mount -t devpts none /dev/pts
mount -t tmpfs none /tmp
mount -t tmpfs none /run
while read -r module; do insmod "$module" || echo "init: cannot load $module" >&2; done </lib/modules/load
`

/** Links /bin/NAME to busybox for all it can do, and the directories every root has. */
async function addBase(archive: CpioWriter): Promise<void> {
  for (const directory of [
    "dev",
    "proc",
    "sys",
    "tmp",
    "run",
    "root",
    "etc",
    "mnt",
    "usr/bin",
    "usr/sbin",
    "usr/lib",
    "usr/lib64",
  ]) {
    archive.directory(directory)
  }
  for (const name of ["bin", "sbin", "lib", "lib64"]) archive.symlink(name, `usr/${name}`)
  archive.characterDevice("dev/console", 5, 1)
  archive.characterDevice("dev/null", 1, 3, 0o666)
  const busybox = needTool("busybox")
  archive.file("usr/bin/busybox", await readFile(busybox), 0o755)
  for (const library of await sharedLibraries(busybox)) {
    archive.file(mergedUsr(library.target), await readFile(library.source), 0o755)
  }
}

async function addApplets(archive: CpioWriter): Promise<void> {
  for (const applet of (await run("busybox", ["--list"])).toString().trim().split("\n")) {
    if (!archive.has(`usr/sbin/${applet}`)) archive.symlink(`usr/bin/${applet}`, "busybox")
  }
}

async function addPrograms(archive: CpioWriter, programs: readonly string[]): Promise<void> {
  for (const name of programs) {
    const path = await realpath(name.startsWith("/") ? name : needTool(name))
    const target = name.startsWith("/") ? mergedUsr(name) : `/usr/bin/${name}`
    archive.file(target, await readFile(path), 0o755)
    for (const library of await sharedLibraries(path)) {
      archive.file(mergedUsr(library.target), await readFile(library.source), 0o755)
    }
  }
}

/** Copies a file, link or directory tree of the host into the archive. */
export async function addTree(
  archive: CpioWriter,
  source: string,
  target: string,
  filter: (path: string) => boolean = () => true,
): Promise<void> {
  const status = await lstat(source)
  if (status.isSymbolicLink()) archive.symlink(target, await readlink(source))
  else if (status.isFile()) archive.file(target, await readFile(source), status.mode & 0o777)
  else if (status.isDirectory()) {
    archive.directory(target, status.mode & 0o777)
    for (const name of (await readdir(source)).sort()) {
      const path = join(source, name)
      if (filter(path)) await addTree(archive, path, `${target}/${name}`, filter)
    }
  } else throw new ConfigError(`${source}: only files, directories and symbolic links can be copied`)
}

async function addFiles(archive: CpioWriter, files: readonly InitramfsFile[]): Promise<void> {
  for (const file of files) {
    if (file.source !== undefined) {
      const status = await stat(file.source)
      await addTree(archive, status.isFile() ? await realpath(file.source) : file.source, file.target)
    } else archive.file(file.target, file.data ?? "", file.mode ?? 0o644)
  }
}

function addModules(archive: CpioWriter, kernel: Kernel, modules: readonly Module[]): void {
  const root = `usr/lib/modules/${kernel.release}`
  for (const module of modules) archive.file(`${root}/${module.path}`, module.data)
  archive.file(`${root}/modules.dep`, modulesDep(modules))
  archive.file(
    "usr/lib/modules/load",
    modules.map((module) => `/lib/modules/${kernel.release}/${module.path}\n`).join(""),
  )
}

/**
 * An uncompressed initramfs with busybox (from the host), modules, programs and files: a bootable root of about 3 MB.
 *
 * @throws ConfigError for a module the kernel lacks or a program the host lacks
 */
export async function buildInitramfs(options: InitramfsOptions): Promise<Buffer> {
  const archive = new CpioWriter()
  await addBase(archive)
  await addPrograms(archive, options.programs ?? [])
  await addFiles(archive, options.files ?? [])
  addModules(archive, options.kernel, await resolveModules(options.kernel, options.modules ?? []))
  archive.file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
  archive.file("etc/group", "root:x:0:\n")
  const preamble = options.preamble ?? defaultPreamble
  archive.file(
    "init",
    `#!/bin/sh\nexport PATH=/usr/bin:/usr/sbin HOME=/root\n${preamble}${options.init}\n`,
    0o755,
  )
  await addApplets(archive)
  return archive.finish()
}

/** What identifies a file's contents well enough for a cache. */
async function fingerprint(path: string): Promise<string> {
  const status = await stat(path)
  return `${path}:${status.size}:${status.mtimeMs}:${status.ino}`
}

/** A hash of all that `buildInitramfs` would read, without reading it. */
async function inputHash(options: InitramfsOptions): Promise<string> {
  const hash = createHash("sha256")
  const { kernel, files = [], programs = [], ...rest } = options
  hash.update(
    JSON.stringify({
      layout: LAYOUT,
      rest,
      release: kernel.release,
      preamble: options.preamble ?? defaultPreamble,
    }),
  )
  hash.update(await fingerprint(kernel.modulesDir))
  hash.update(await fingerprint(needTool("busybox")))
  for (const name of programs)
    hash.update(await fingerprint(name.startsWith("/") ? name : (findTool(name) ?? needTool(name))))
  for (const file of files) {
    hash.update(JSON.stringify([file.target, file.mode]))
    hash.update(file.source === undefined ? (file.data ?? "") : await treeFingerprint(file.source))
  }
  return hash.digest("hex").slice(0, 16)
}

async function treeFingerprint(path: string): Promise<string> {
  if (!(await stat(path)).isDirectory()) return fingerprint(path)
  const names = (await readdir(path)).sort()
  const parts = await Promise.all(names.map((name) => treeFingerprint(join(path, name)).catch(() => name)))
  return `${path}(${parts.join(",")})`
}

/** `buildInitramfs` into a file of the cache, which is there at once when nothing has changed. Gives its path. */
export async function cachedInitramfs(
  options: InitramfsOptions,
  directory: string = cacheDir(),
): Promise<string> {
  const folder = join(directory, "initramfs")
  const path = join(folder, `${await inputHash(options)}.cpio`)
  if (await lookUp(path)) return path
  await mkdir(folder, { recursive: true })
  const partial = join(folder, `.${randomUUID()}`)
  await writeFile(partial, await buildInitramfs(options))
  await rename(partial, path)
  await prune(folder, KEEP)
  return path
}
