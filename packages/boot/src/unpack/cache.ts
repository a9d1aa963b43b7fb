import { createHash, randomBytes } from "node:crypto"
import { mkdir, readdir, rename, rm, stat, utimes, writeFile } from "node:fs/promises"
import { join } from "node:path"
import type { ByteSource } from "../source.js"

const PREFIX = "vmlinux-"
/** Unpacked kernels have some 50 MB: the oldest ones go. */
const KEPT = 4
const SAMPLE = 64 * 1024

/**
 * The path at which the unpacked form of `kernel` is or would be kept.
 *
 * Of a file, size, modification time and both ends go into the key: the ends hold the version, build number and date,
 * and the file's CRC or signature. Hashing all of it would take as long as unpacking where virtkit itself is emulated.
 */
export async function cachePath(cacheDir: string, kernel: ByteSource): Promise<string> {
  const hash = createHash("sha256").update(`${kernel.size} ${kernel.modified ?? ""}`)
  const sample = kernel.modified === undefined ? kernel.size : Math.min(SAMPLE, kernel.size)
  const bytes = new Uint8Array(sample)
  for (const offset of new Set([0, kernel.size - sample])) {
    await kernel.read(offset, bytes)
    hash.update(bytes)
  }
  return join(cacheDir, `${PREFIX}${hash.digest("hex").slice(0, 32)}`)
}

/** Whether the file is there; if so it counts as used now. */
export async function isCached(path: string): Promise<boolean> {
  const now = new Date()
  return utimes(path, now, now).then(
    () => true,
    () => false,
  )
}

/**
 * Keeps `bytes` at `path`. Other processes see all of the file or none of it. A cache that cannot be written is no
 * reason not to boot: false then.
 */
export async function keep(path: string, cacheDir: string, bytes: Uint8Array): Promise<boolean> {
  const temporary = `${path}.${process.pid}-${randomBytes(4).toString("hex")}`
  try {
    await mkdir(cacheDir, { recursive: true })
    await writeFile(temporary, bytes)
    await rename(temporary, path)
    await prune(cacheDir)
    return true
  } catch {
    await rm(temporary, { force: true }).catch(() => {})
    return false
  }
}

async function prune(cacheDir: string): Promise<void> {
  const names = (await readdir(cacheDir)).filter((name) => /^vmlinux-[0-9a-f]{32}$/.test(name))
  const files = await Promise.all(
    names.map(async (name) => ({ name, used: (await stat(join(cacheDir, name))).mtimeMs })),
  )
  const oldest = files.sort((a, b) => b.used - a.used).slice(KEPT)
  for (const { name } of oldest) await rm(join(cacheDir, name), { force: true })
}
