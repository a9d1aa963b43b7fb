import { readdir, readFile } from "node:fs/promises"

/** Processes whose parent, or whose parent's parent, is `pid`: QEMU, whatever started it. */
export async function children(pid: number): Promise<number[]> {
  const found: number[] = []
  for (const name of await readdir("/proc")) {
    const stat = /^\d+$/.test(name) ? await readFile(`/proc/${name}/stat`, "utf8").catch(() => "") : ""
    if (Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]) === pid) found.push(Number(name))
  }
  return found
}
