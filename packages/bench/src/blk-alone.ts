import { mkdtempSync, rmSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import type { AloneResult, AloneTask } from "./blk-alone-process.js"
import { makeDisk } from "./blk-disk.js"
import { BLOCK } from "./blk-ring.js"
import type { Section } from "./report.js"
import { summarize } from "./summary.js"
import { runTraced } from "./traced.js"

const PROGRAM = fileURLToPath(new URL("./blk-alone-process.js", import.meta.url))
const DISK_BYTES = 2 ** 28

/** The block device and the driver on one thread, from ring to page cache and back: what it costs, and what garbage it makes. */
export function measureBlkAlone(runs: number): Promise<Section> {
  const folder = mkdtempSync(join(process.env.VIRTKIT_BENCH_FOLDER ?? "/var/tmp", "virtkit-bench-"))
  try {
    const file = join(folder, "disk")
    makeDisk(file, DISK_BYTES)
    const rows: string[][] = []
    let collections = 0
    for (const bytes of [BLOCK, 128 * 1024]) {
      for (const write of [false, true]) {
        // More than 256 KiB, or as many requests as the queue has, are not done at once.
        for (const depth of bytes === BLOCK ? [1, 8, 32, 64] : [1]) {
          const task: AloneTask = { file, blocks: DISK_BYTES / BLOCK, write, bytes, depth }
          const all = Array.from({ length: runs }, () => runTraced<AloneResult>(PROGRAM, task))
          collections += all.reduce((sum, one) => sum + one.collections, 0)
          rows.push([
            `${bytes / 1024} KiB ${write ? "write" : "read"}, depth ${depth}`,
            Math.round(summarize(all.map(({ result }) => result.nanoseconds)).median).toString(),
            summarize(all.map(({ result }) => result.bytesPerRequest)).median.toFixed(2),
          ])
        }
      }
    }
    return Promise.resolve({
      title: "A disk in the page cache, driver and device on one JavaScript thread",
      head: ["", "CPU ns a request", "bytes of garbage a request"],
      rows,
      notes: [`Collections in the measured parts, by --trace-gc: ${collections}.`],
    })
  } finally {
    rmSync(folder, { recursive: true })
  }
}
