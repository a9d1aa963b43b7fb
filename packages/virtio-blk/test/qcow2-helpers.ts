import { execFileSync, spawnSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { GuestMemory } from "@virtkit/interface"
import { type BlockBackend, type BlockFileOptions, block } from "@virtkit/virtio-blk"
import { afterAll, afterEach } from "vitest"
import { Disk, FLUSH, MappedTestMemory, OK } from "./helpers.js"

/** Why tests with QEMU's programs cannot run; empty when they can. */
export const noQemu: string =
  spawnSync("qemu-img", ["--version"]).status === 0 ? "" : " (skipped: qemu-img is not installed)"

export function qemuImg(...args: string[]): string {
  return execFileSync("qemu-img", args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] })
}

/** qemu-img check: its exit status, and what it found. */
export function check(path: string): { status: number; report: string } {
  const { status, stdout, stderr } = spawnSync("qemu-img", ["check", "-f", "qcow2", path], {
    encoding: "utf8",
    maxBuffer: 64 * 2 ** 20,
  })
  return { status: status ?? -1, report: stdout + stderr }
}

/** The disk's bytes as qemu-img sees them. */
export function contentByQemu(path: string): Buffer {
  const raw = `${path}.raw`
  qemuImg("convert", "-f", "qcow2", "-O", "raw", path, raw)
  const bytes = readFileSync(raw)
  rmSync(raw)
  return bytes
}

export function qemuIo(path: string, ...commands: string[]): string {
  const args = commands.flatMap((command) => ["-c", command])
  return execFileSync("qemu-io", ["-f", "qcow2", ...args, path], { encoding: "utf8" })
}

/** Has qemu-io carry out many commands; none of them fails. */
export function qemuIoScript(path: string, commands: readonly string[]): void {
  const input = `${commands.filter((command) => command !== "").join("\n")}\nquit\n`
  const output = execFileSync("qemu-io", ["-f", "qcow2", "-d", "unmap", path], { encoding: "utf8", input })
  const failed = output.split("\n").filter((line) => /failed|rror/.test(line))
  if (failed.length > 0) throw new Error(`qemu-io: ${failed[0]}`)
}

export interface Bench {
  readonly folder: string
  path(name: string): string
  open(path: string, options?: Partial<BlockFileOptions>): Promise<Disk>
}

/** A folder for the tests of a file, and disks that are closed after each. */
export function bench(): Bench {
  const folder = mkdtempSync(join(tmpdir(), "virtkit-qcow2-"))
  const opened: Disk[] = []
  afterAll(() => rmSync(folder, { recursive: true }))
  afterEach(async () => {
    for (const disk of opened.splice(0)) await disk.device.close()
  })
  return {
    folder,
    path: (name) => join(folder, name),
    async open(path, options = {}) {
      const disk = new Disk(await block({ path, format: "qcow2", ...options }), {
        memory: new MappedTestMemory(8 * 2 ** 20),
        queueSize: 64,
      })
      disk.harness.start()
      opened.push(disk)
      return disk
    },
  }
}

export async function readAll(disk: Disk): Promise<Buffer> {
  const step = 2 ** 20
  const parts: Uint8Array[] = []
  for (let at = 0; at < disk.device.size; at += step) {
    const { status, data } = await disk.read(at / 512, Math.min(step, disk.device.size - at))
    if (status !== OK) throw new Error(`read at ${at} gave status ${status}`)
    parts.push(data.slice())
  }
  return Buffer.concat(parts)
}

export async function flush(disk: Disk): Promise<void> {
  const { status } = await disk.request(FLUSH)
  if (status !== OK) throw new Error(`flush gave status ${status}`)
}

/** Numbers from 0 to 2^32 - 1, the same for the same seed (mulberry32). */
export function random(seed: number): (below: number) => number {
  let state = seed | 0
  return (below) => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) % below
  }
}

export function randomBytes(next: (below: number) => number, length: number): Buffer {
  const bytes = Buffer.alloc(length)
  const seed = next(2 ** 32)
  for (let i = 0; i < length; i += 4) bytes.writeInt32LE(Math.imul(seed + i, 0x9e3779b1), i)
  return bytes
}

export interface Request {
  op: number
  offset: number
  length: number
  /** Where the bytes are in guest memory, in one piece. Default 0. */
  address?: number
  sync?: boolean
  unmap?: boolean
}

/** Gives a backend requests as a device would, without rings: each resolves to 0 or an errno. */
export function drive(
  backend: BlockBackend,
  memory: GuestMemory,
  depth: number,
): (r: Request) => Promise<number> {
  const waiting: (((error: number) => void) | undefined)[] = []
  backend.start({
    memory,
    depth,
    complete(request, error) {
      const resolve = waiting[request.tag]
      waiting[request.tag] = undefined
      resolve?.(error)
    },
    completed() {},
    woken() {},
  })
  return ({ op, offset, length, address = 0, sync = false, unmap = true }) =>
    new Promise((resolve) => {
      let tag = 0
      while (waiting[tag] !== undefined) tag++
      waiting[tag] = resolve
      backend.submit({
        tag,
        op,
        offset,
        length,
        sync,
        unmap,
        addresses: Float64Array.of(address),
        lengths: Uint32Array.of(length),
        count: op <= 1 ? 1 : 0,
      })
      backend.commit()
    })
}
