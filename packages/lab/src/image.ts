import { createHash } from "node:crypto"
import {
  copyFile,
  cp,
  mkdir,
  mkdtemp,
  readdir,
  realpath,
  rename,
  rm,
  stat,
  symlink,
  writeFile,
} from "node:fs/promises"
import { dirname, join } from "node:path"
import { lookUp, prune } from "./cache.js"
import type { Kernel } from "./kernel.js"
import { mergedUsr, sharedLibraries } from "./libraries.js"
import { modulesDep, resolveModules } from "./modules.js"
import { cacheDir } from "./paths.js"
import { needTool, run } from "./tools.js"

/** Changes with what this file puts into an image, so that older ones are not used. */
const LAYOUT = 1
/** Images that are kept; the one used least recently goes first. */
const KEEP = 4
/** Loaded on demand in the lab by modprobe. */
const MODULES = [
  "kvm-amd",
  "tun",
  "vhost-net",
  "vhost-vsock",
  "virtio-scsi",
  "sd_mod",
  "loop",
  "dummy",
  "bridge",
  "veth",
]

/** What the lab's /usr is made of. */
export interface ImageOptions {
  kernel: Kernel
  /** Programs by name, or files and directories by absolute path. Programs bring their shared libraries along. */
  include?: readonly string[]
  /** Default: `cacheDir()`. */
  cacheDir?: string
  log?: (line: string) => void
}

/** For `include`: QEMU as a peer inside the lab. */
export const qemuInclude: readonly string[] = [
  "qemu-system-x86_64",
  "/usr/share/qemu/bios-microvm.bin",
  "/usr/share/qemu/qboot.rom",
  "/usr/share/qemu/linuxboot_dma.bin",
  "/usr/share/qemu/pvh.bin",
  "/usr/share/qemu/kvmvapic.bin",
  "/usr/share/seabios/bios-256k.bin",
  "/usr/share/seabios/bios-microvm.bin",
]

async function fingerprint(path: string): Promise<string> {
  const real = await realpath(path)
  const status = await stat(real)
  if (!status.isDirectory()) return `${real}:${status.size}:${status.mtimeMs}:${status.ino}`
  const names = (await readdir(real)).sort()
  const parts = await Promise.all(names.map((name) => fingerprint(join(real, name)).catch(() => name)))
  return `${real}(${parts.join(",")})`
}

/** Sources and their places of everything from the host. */
async function inputs(include: readonly string[]): Promise<[source: string, target: string][]> {
  return [
    [process.execPath, "/usr/bin/node"],
    [needTool("busybox"), "/usr/bin/busybox"],
    ...include.map((item): [string, string] =>
      item.startsWith("/") ? [item, mergedUsr(item)] : [needTool(item), `/usr/bin/${item}`],
    ),
  ]
}

/** The image is mounted on /usr: a path outside of it goes to the same place below. */
function place(stage: string, target: string): string {
  return join(stage, mergedUsr(target).replace(/^\/usr\//, "/"))
}

async function addFile(stage: string, source: string, target: string): Promise<void> {
  const path = place(stage, target)
  await mkdir(dirname(path), { recursive: true })
  const real = await realpath(source)
  if ((await stat(real)).isDirectory()) {
    await cp(real, path, { recursive: true, dereference: true })
    return
  }
  await copyFile(real, path)
  for (const library of await sharedLibraries(real)) {
    const libraryPath = place(stage, library.target)
    await mkdir(dirname(libraryPath), { recursive: true })
    await copyFile(library.source, libraryPath)
  }
}

async function addModules(stage: string, kernel: Kernel): Promise<void> {
  const root = join(stage, "lib/modules", kernel.release)
  const modules = await resolveModules(kernel, MODULES)
  for (const module of modules) {
    const path = join(root, module.path)
    await mkdir(dirname(path), { recursive: true })
    await writeFile(path, module.data)
  }
  await mkdir(root, { recursive: true })
  await writeFile(join(root, "modules.dep"), modulesDep(modules))
}

async function addApplets(stage: string): Promise<void> {
  const present = new Set(await readdir(join(stage, "bin")))
  for (const name of await readdir(join(stage, "sbin")).catch(() => [])) present.add(name)
  for (const applet of (await run("busybox", ["--list"])).toString().trim().split("\n")) {
    if (!present.has(applet)) await symlink("busybox", join(stage, "bin", applet))
  }
}

async function treeSize(directory: string): Promise<number> {
  let total = 0
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    const path = join(directory, entry.name)
    if (entry.isDirectory()) total += 8192 + (await treeSize(path))
    else if (entry.isFile()) total += ((await stat(path)).size + 8191) & ~4095
  }
  return total
}

async function build(options: ImageOptions, path: string): Promise<void> {
  const work = await mkdtemp(join(dirname(path), ".build-"))
  try {
    const stage = join(work, "usr")
    for (const directory of ["bin", "sbin", "lib", "lib64"])
      await mkdir(join(stage, directory), { recursive: true })
    for (const [source, target] of await inputs(options.include ?? [])) await addFile(stage, source, target)
    await addModules(stage, options.kernel)
    await addApplets(stage)
    const size = Math.ceil(((await treeSize(stage)) * 1.05) / 2 ** 20) + 8
    const image = join(work, "image")
    const features = [
      "-O",
      "^has_journal,^resize_inode",
      "-m",
      "0",
      "-E",
      "root_owner=0:0,lazy_itable_init=1",
    ]
    await run("mke2fs", ["-q", "-F", "-t", "ext4", ...features, "-d", stage, image, `${size}M`])
    await rename(image, path)
  } finally {
    await rm(work, { recursive: true, force: true })
  }
}

/**
 * The lab's /usr as an ext4 image: this process's Node.js, busybox, kernel modules and `include`. Kept in the cache and
 * built anew when one of its inputs has changed. Gives its path.
 *
 * @throws ConfigError when mke2fs, busybox or one of `include` is missing
 */
export async function labImage(options: ImageOptions): Promise<string> {
  const hash = createHash("sha256").update(`${LAYOUT} ${options.kernel.release} ${MODULES}`)
  for (const [source, target] of await inputs(options.include ?? []))
    hash.update(`${target}=${await fingerprint(source)}\n`)
  const folder = join(options.cacheDir ?? cacheDir(), "lab")
  const path = join(folder, `${hash.digest("hex").slice(0, 16)}.ext4`)
  await mkdir(folder, { recursive: true })
  if (await lookUp(path)) return path
  options.log?.("building the lab's image")
  await build(options, path)
  await prune(folder, KEEP)
  return path
}
