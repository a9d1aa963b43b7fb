import { execFile } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { makeDisk } from "./blk-disk.js"
import type { DriverResult, DriverTask, Measured, Workload } from "./blk-driver.js"
import { type BackEnd, startBackEnd } from "./blk-peers.js"
import { BLOCK } from "./blk-ring.js"
import type { Section } from "./report.js"
import { summarize } from "./summary.js"

const DRIVER = fileURLToPath(new URL("./blk-driver.js", import.meta.url))
const DRIVER_CPU = "0"
/** In the page cache all of it, and larger than what processors cache. */
const DISK_BYTES = 2 ** 30
const WARM_UP_MS = 150
const MEASURED_MS = 350

const depths = [1, 8, 32, 128]

/** The workloads, largest set; a filter of `VIRTKIT_BENCH_BLK` leaves those whose names it matches. */
function workloads(direct: boolean, queues: number): Workload[] {
  const list: Workload[] = []
  for (const polling of [false, true]) {
    for (const write of [false, true]) {
      for (const depth of depths)
        if (depth >= queues) list.push({ write, sequential: false, bytes: BLOCK, depth, polling })
    }
  }
  for (const write of [false, true])
    for (const depth of [1, 8])
      if (depth >= queues) list.push({ write, sequential: true, bytes: 128 * 1024, depth, polling: false })
  // What a disk does in a time is the same for all, and slow to measure.
  return direct ? list.filter(({ polling }) => !polling) : list
}

/** `virtkit serve blk` beside qemu-storage-daemon over vhost-user: one driver for all, on the same file, in turn. */
export async function measureBlk(runs: number): Promise<Section> {
  const filter = new RegExp(process.env.VIRTKIT_BENCH_BLK ?? "")
  const names = (process.env.VIRTKIT_BENCH_BLK_PEERS ?? "virtkit,qsd,qsd-iothread").split(",")
  const folder = mkdtempSync(join(process.env.VIRTKIT_BENCH_FOLDER ?? "/var/tmp", "virtkit-bench-"))
  try {
    const file = join(folder, "disk")
    makeDisk(file, DISK_BYTES)
    // virtkit locks its disks.
    for (const name of names) if (name.startsWith("virtkit-")) makeDisk(`${file}-${name}`, DISK_BYTES)
    const rows: string[][] = []
    for (const direct of [false, true]) {
      for (const queues of [1, 2]) {
        const named = workloads(direct, queues)
          .map((workload) => ({ workload, name: nameOf(workload, direct, queues) }))
          .filter(({ name }) => filter.test(name))
        if (named.length === 0) continue
        const results = await run({
          folder,
          file,
          direct,
          queues,
          names,
          runs,
          workloads: named.map(({ workload }) => workload),
        })
        for (const [index, { name }] of named.entries()) rows.push(...rowsOf(name, names, results[index]!))
      }
    }
    return {
      title: "virtio-blk over vhost-user: back end on processor 1, one driver on processor 0",
      head: [
        "",
        "",
        "operations/s",
        `${names[0]} / this`,
        "undisturbed",
        `${names[0]} / this`,
        "median, us",
        "p99.9, us",
        "CPU s per million",
      ],
      rows,
      notes: [
        "Medians of the runs. Undisturbed: the rate in the tenth of rounds of 10 ms that was the quickest, which other work does not change.",
      ],
    }
  } finally {
    rmSync(folder, { recursive: true })
  }
}

interface Run {
  readonly folder: string
  readonly file: string
  readonly direct: boolean
  readonly queues: number
  readonly names: readonly string[]
  readonly runs: number
  readonly workloads: readonly Workload[]
}

async function run(options: Run): Promise<DriverResult> {
  const { folder, file, direct, queues, names, runs } = options
  const backEnds: BackEnd[] = []
  try {
    for (const name of names)
      backEnds.push(
        await startBackEnd(name, {
          file: name.startsWith("virtkit-") ? `${file}-${name}` : file,
          direct,
          queues,
          socket: join(folder, `${name}-${direct}-${queues}`),
        }),
      )
    const task: DriverTask = {
      backEnds: backEnds.map(({ socket, pid }) => ({ socket, pid })),
      queues,
      blocks: DISK_BYTES / BLOCK,
      workloads: options.workloads,
      runs,
      warmUpMs: WARM_UP_MS,
      measuredMs: MEASURED_MS,
    }
    return await drive(task)
  } finally {
    for (const backEnd of backEnds) await backEnd.close()
  }
}

/** The driver on its processor, to its end. */
export async function drive(task: DriverTask): Promise<DriverResult> {
  const words = ["-c", DRIVER_CPU, process.execPath, DRIVER, JSON.stringify(task)]
  const { stdout } = await promisify(execFile)("taskset", words, { maxBuffer: 2 ** 26 }).catch((error) => {
    throw new Error(`the driver failed: ${error.stderr}`)
  })
  return JSON.parse(stdout) as DriverResult
}

function nameOf(
  { write, sequential, bytes, depth, polling }: Workload,
  direct: boolean,
  queues: number,
): string {
  return [
    `${bytes / 1024} KiB ${sequential ? "sequential" : "random"} ${write ? "write" : "read"}, depth ${depth}`,
    direct ? "O_DIRECT" : "page cache",
    `${queues} queue${queues > 1 ? "s" : ""}`,
    polling ? "polling driver" : "blocking driver",
  ].join(", ")
}

function rowsOf(
  name: string,
  peers: readonly string[],
  results: readonly (readonly Measured[])[],
): string[][] {
  const all = (index: number, what: keyof Measured) => summarize(results[index]!.map((one) => one[what]))
  const ratio = (index: number, what: keyof Measured) =>
    index === 0 ? "" : (all(0, what).median / all(index, what).median).toFixed(2)
  const count = (index: number, what: keyof Measured) =>
    Math.round(all(index, what).median).toLocaleString("en")
  return peers.map((peer, index) => [
    index === 0 ? name : "",
    peer,
    count(index, "rate"),
    ratio(index, "rate"),
    count(index, "quickRate"),
    ratio(index, "quickRate"),
    all(index, "median").median.toFixed(1),
    all(index, "p999").median.toFixed(0),
    all(index, "cpuSeconds").median.toFixed(2),
  ])
}
