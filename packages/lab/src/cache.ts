import { readdir, rm, stat, utimes } from "node:fs/promises"
import { join } from "node:path"

/** Work of a process that was killed is left under a name with a dot: after this time, nobody is at it any more. */
const ABANDONED_MS = 3_600_000

async function modified(path: string): Promise<number> {
  return (await stat(path).catch(() => undefined))?.mtimeMs ?? 0
}

/** Whether a file of the cache is there. If so, it counts as used now. */
export async function lookUp(path: string): Promise<boolean> {
  if ((await modified(path)) === 0) return false
  const now = new Date()
  await utimes(path, now, now).catch(() => {}) // a cache that only another user may write serves all the same
  return true
}

/** Keeps the `keep` files of a cache folder that were used last, and removes what killed processes have left. */
export async function prune(folder: string, keep: number): Promise<void> {
  const entries = await Promise.all(
    (await readdir(folder)).map(async (name) => ({ name, time: await modified(join(folder, name)) })),
  )
  const old = entries
    .filter(({ name }) => !name.startsWith("."))
    .sort((a, b) => b.time - a.time)
    .slice(keep)
  const abandoned = entries.filter(
    ({ name, time }) => name.startsWith(".") && time < Date.now() - ABANDONED_MS,
  )
  // A lab that runs from a removed file keeps it: QEMU has it open.
  for (const { name } of [...old, ...abandoned])
    await rm(join(folder, name), { recursive: true, force: true })
}
