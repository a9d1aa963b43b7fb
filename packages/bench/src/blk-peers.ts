import { type ChildProcess, spawn } from "node:child_process"
import { existsSync, statSync } from "node:fs"
import { dirname, join } from "node:path"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"

/** The processor that back ends run on; the driver has the other one. */
const BACK_END_CPU = "1"
const START_MS = 10_000

export interface BackEndOptions {
  readonly file: string
  readonly socket: string
  readonly direct: boolean
  readonly queues: number
  /** Called with each line on its standard output. */
  readonly heard?: (line: string) => void
}

/** A process that serves the file as a disk. */
export interface BackEnd {
  readonly socket: string
  readonly pid: number
  close(): Promise<void>
}

/** The command of each back end. QEMU's daemon polls only in an I/O thread, which is why it is there twice. */
export const BACK_ENDS: Readonly<Record<string, (options: BackEndOptions) => string[]>> = {
  virtkit: (options) => virtkit(options, "auto"),
  "virtkit-threads": (options) => virtkit(options, "threads"),
  "virtkit-traced": (options) => virtkit(options, "auto", ["--trace-gc"]),
  qsd: (options) => storageDaemon(options, []),
  "qsd-iothread": (options) => storageDaemon(options, ["iothread"]),
}

function virtkit(
  { file, socket, direct, queues }: BackEndOptions,
  engine: string,
  ofNode: readonly string[] = [],
): string[] {
  const command = join(
    dirname(fileURLToPath(import.meta.resolve("virtkit/package.json"))),
    "dist/bundle/bin.js",
  )
  const disk = `${file},queues=${queues},engine=${engine}${direct ? ",cache=direct" : ""}`
  return [
    process.execPath,
    ...(process.env.VIRTKIT_BENCH_NODE_OPTIONS?.split(" ") ?? []),
    ...ofNode,
    command,
    "serve",
    "blk",
    `--socket=${socket}`,
    `--disk=${disk}`,
  ]
}

function storageDaemon(
  { file, socket, direct, queues }: BackEndOptions,
  threads: readonly string[],
): string[] {
  const driver = statSync(file).isBlockDevice() ? "host_device" : "file"
  const cache = `cache.direct=${direct ? "on" : "off"}`
  return [
    "qemu-storage-daemon",
    ...threads.flatMap((id) => ["--object", `iothread,id=${id}`]),
    ...["--blockdev", `driver=${driver},node-name=disk,filename=${file},locking=off,aio=io_uring,${cache}`],
    "--export",
    [
      "type=vhost-user-blk,id=export,node-name=disk,writable=on",
      `addr.type=unix,addr.path=${socket},num-queues=${queues}`,
      ...threads.map((id) => `iothread=${id}`),
    ].join(","),
  ]
}

/** Starts it on its processor and waits for its socket. */
export async function startBackEnd(name: string, options: BackEndOptions): Promise<BackEnd> {
  const command = BACK_ENDS[name]!(options)
  const child = spawn("taskset", ["-c", BACK_END_CPU, ...command], { stdio: ["ignore", "pipe", "pipe"] })
  createInterface(child.stdout).on("line", (line) => options.heard?.(line))
  let said = ""
  child.stderr.on("data", (chunk) => {
    said += chunk
  })
  const end = ended(child)
  const deadline = performance.now() + START_MS
  while (!existsSync(options.socket)) {
    if (child.exitCode !== null || performance.now() > deadline) {
      child.kill()
      throw new Error(`${name} did not start: ${said}`)
    }
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  return {
    socket: options.socket,
    // taskset became the program.
    pid: child.pid!,
    close: async () => {
      child.kill()
      await end
    },
  }
}

function ended(child: ChildProcess): Promise<void> {
  return new Promise((resolve, reject) => {
    child.on("exit", () => resolve())
    child.on("error", reject)
  })
}
