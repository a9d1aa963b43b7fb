import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { join } from "node:path"
import { drive } from "./blk.js"
import { makeDisk } from "./blk-disk.js"
import type { Measured } from "./blk-driver.js"
import { startBackEnd } from "./blk-peers.js"
import { BLOCK } from "./blk-ring.js"
import type { Section } from "./report.js"
import { summarize } from "./summary.js"

const DISK_BYTES = 2 ** 30
const DEPTH = 32
const SAMPLE_MS = 1000
/** Until then compilers work, and memory grows. */
const SETTLED_MS = 30_000

/** A line of --trace-gc: "[123:0x1] 456 ms: Scavenge 5.2 (6.5) -> 4.8 (7.0) MB, 0.34 / 0.00 ms". */
const COLLECTION = / ms: (Scavenge|Mark-Compact)\b.* MB, ([\d.]+) \/ /

interface Sample {
  readonly ms: number
  readonly mebibytes: number
}

/** `virtkit serve blk` for `seconds` of reads and as many of writes: its resident memory, and what its garbage collector does. */
export async function measureBlkLong(seconds: number): Promise<Section> {
  const folder = mkdtempSync(join(process.env.VIRTKIT_BENCH_FOLDER ?? "/var/tmp", "virtkit-bench-"))
  const pauses: { kind: string; ms: number }[] = []
  const samples: Sample[] = []
  try {
    const file = join(folder, "disk")
    makeDisk(file, DISK_BYTES)
    const backEnd = await startBackEnd("virtkit-traced", {
      ...{ file, direct: false, queues: 1, socket: join(folder, "socket") },
      heard: (line) => {
        const found = COLLECTION.exec(line)
        if (found !== null) pauses.push({ kind: found[1]!, ms: Number(found[2]) })
      },
    })
    const began = performance.now()
    const timer = setInterval(
      () => samples.push({ ms: performance.now() - began, mebibytes: residentMebibytes(backEnd.pid) }),
      SAMPLE_MS,
    )
    try {
      const results = await drive({
        backEnds: [{ socket: backEnd.socket, pid: backEnd.pid }],
        queues: 1,
        blocks: DISK_BYTES / BLOCK,
        workloads: [false, true].map((write) => ({
          ...{ write, sequential: false, bytes: BLOCK, depth: DEPTH, polling: false },
        })),
        runs: seconds,
        warmUpMs: 0,
        measuredMs: 1000,
      })
      return report(results.flat(2), samples, pauses)
    } finally {
      clearInterval(timer)
      await backEnd.close()
    }
  } finally {
    rmSync(folder, { recursive: true })
  }
}

function report(
  results: readonly Measured[],
  samples: readonly Sample[],
  pauses: readonly { kind: string; ms: number }[],
): Section {
  const requests = results.reduce((sum, { rate }) => sum + rate, 0) // each run is a second
  const settled = samples.filter(({ ms }) => ms >= SETTLED_MS).map(({ mebibytes }) => mebibytes)
  const delayed = (100 * pauses.length * DEPTH) / requests
  const major = pauses.filter(({ kind }) => kind !== "Scavenge")
  const p999 = summarize(results.map((one) => one.p999))
  return {
    title: `virtkit serve blk, 4 KiB at depth ${DEPTH} in the page cache, ${results.length} s`,
    head: ["", ""],
    rows: [
      ["requests", Math.round(requests).toLocaleString("en")],
      ["resident MiB each minute", perMinute(samples).join(", ")],
      ...(settled.length > 0 ? [["resident MiB after 30 s, range", range(settled)]] : []),
      ["median us, of seconds", summarize(results.map(({ median }) => median)).median.toFixed(1)],
      [
        "p99.9 us, of seconds",
        `${p999.median.toFixed(0)} (${p999.min.toFixed(0)} to ${p999.max.toFixed(0)})`,
      ],
      ["collections, young and old", `${pauses.length - major.length}, ${major.length}`],
      ["longest pause of one, ms", Math.max(0, ...pauses.map(({ ms }) => ms)).toFixed(2)],
      ["requests that collections may have delayed", `${delayed.toFixed(4)} % at most`],
    ],
    notes: [
      `Each collection delays the ${DEPTH} requests in flight, so the 99.9th percentile is not theirs below 0.1 %.`,
    ],
  }
}

function range(values: readonly number[]): string {
  const { min, max } = summarize(values)
  return `${min.toFixed(1)} to ${max.toFixed(1)}`
}

function perMinute(samples: readonly Sample[]): string[] {
  const step = 60_000 / SAMPLE_MS
  return samples.filter((_sample, index) => index % step === 0).map(({ mebibytes }) => mebibytes.toFixed(1))
}

function residentMebibytes(pid: number): number {
  const [, kibibytes] = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "latin1"))!
  return Number(kibibytes) / 1024
}
