import { closeSync, constants, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { ConfigError } from "@virtkit/interface"
import { mmapMemory } from "@virtkit/memory/mmap"
import { type DirectAlignment, directAlignment, probeIoUring } from "@virtkit/native"
import { type BlockFileOptions, block, createQcow2 } from "@virtkit/virtio-blk"
import { afterAll, afterEach, beforeEach, describe, expect, it, vi } from "vitest"
import { fileBackend } from "../src/backends/file.js"
import { qcow2Backend } from "../src/backends/qcow2/index.js"
import { Disk, FLUSH, MappedTestMemory, OK, pattern } from "./helpers.js"
import { drive } from "./qcow2-helpers.js"

const MiB = 2 ** 20
const folder = mkdtempSync(join(tmpdir(), "virtkit-cache-"))
const opened: Disk[] = []
/** What the engine was given: operation, flags, descriptor. */
let submitted: { op: number; flags: number; fd: number }[] = []

vi.mock("@virtkit/native", async (original) => {
  const native = await original<typeof import("@virtkit/native")>()
  class BlockEngine extends native.BlockEngine {
    override submit(count: number): number {
      for (let i = 0; i < count; i++)
        submitted.push({ op: this.ops[i]!, flags: this.flags[i]!, fd: this.fds[i]! })
      return super.submit(count)
    }
  }
  return { ...native, BlockEngine }
})

beforeEach(() => {
  submitted = []
})
afterEach(async () => {
  for (const d of opened.splice(0)) await d.device.close()
})
afterAll(() => rmSync(folder, { recursive: true }))

async function open(cache: NonNullable<BlockFileOptions["cache"]>, format: "raw" | "qcow2"): Promise<Disk> {
  const path = join(folder, `${cache}.${format}`)
  rmSync(path, { force: true })
  if (format === "raw") writeFileSync(path, Buffer.alloc(MiB))
  else await createQcow2({ path, size: MiB })
  const d = new Disk(await block({ path, format, cache }), {
    memory: new MappedTestMemory(4 * MiB),
    queueSize: 64,
  })
  d.harness.start()
  opened.push(d)
  return d
}

/** Whether a write in place waits for the disk, and how many flushes a flush makes. */
async function flags(d: Disk): Promise<{ write: number; flushes: number }> {
  expect((await d.write(0, pattern(4096, 1))).status).toBe(OK)
  submitted = []
  expect((await d.write(0, pattern(4096, 2))).status).toBe(OK)
  const write = submitted.find(({ op }) => op === 1)!.flags & 1
  submitted = []
  expect((await d.request(FLUSH)).status).toBe(OK)
  return { write, flushes: submitted.filter(({ op }) => op === 2).length }
}

describe("what a raw disk's cache promises", () => {
  it("writeback, direct: a write waits for nothing, a flush for the disk", async () => {
    expect(await flags(await open("writeback", "raw"))).toEqual({ write: 0, flushes: 1 })
    expect(await flags(await open("direct", "raw"))).toEqual({ write: 0, flushes: 1 })
  })

  it("writethrough: every write waits for the disk", async () => {
    const d = await open("writethrough", "raw")
    expect(d.device.config[32]).toBe(0)
    expect(await flags(d)).toEqual({ write: 1, flushes: 1 })
  })

  it("unsafe: nothing waits", async () => {
    expect(await flags(await open("unsafe", "raw"))).toEqual({ write: 0, flushes: 0 })
  })
})

describe("what a qcow2 disk's cache promises", () => {
  /** What is in the file, for one who opens it now: as after a kill. */
  async function after(d: Disk, name: string): Promise<Uint8Array> {
    const copy = join(folder, `${name}.copy`)
    writeFileSync(copy, readFileSync(join(folder, `${name}.qcow2`)))
    const other = new Disk(await block({ path: copy, format: "qcow2" }), {
      memory: new MappedTestMemory(4 * MiB),
      queueSize: 64,
    })
    other.harness.start()
    expect(d.device.counters.failed).toBe(0)
    const { data } = await other.read(8, 4096)
    await other.device.close()
    return data.slice()
  }

  it.each(["writeback", "direct", "unsafe"] as const)(
    "%s: what was flushed is in the image",
    async (cache) => {
      const d = await open(cache, "qcow2")
      expect((await d.write(8, pattern(4096, 1))).status).toBe(OK)
      expect(await after(d, cache)).toEqual(new Uint8Array(4096))
      expect((await d.request(FLUSH)).status).toBe(OK)
      expect(await after(d, cache)).toEqual(pattern(4096, 1))
    },
  )

  it("writethrough: what was written is in the image, and a write in place waits for the disk", async () => {
    const d = await open("writethrough", "qcow2")
    expect((await d.write(8, pattern(4096, 1))).status).toBe(OK)
    expect(await after(d, "writethrough")).toEqual(pattern(4096, 1))
    submitted = []
    expect((await d.write(8, pattern(4096, 2))).status).toBe(OK)
    expect(submitted).toMatchObject([{ op: 1, flags: 1 }])
  })
})

const noDirect = (() => {
  try {
    closeSync(openSync(join(folder, "probe"), constants.O_CREAT | constants.O_RDWR | constants.O_DIRECT))
    return ""
  } catch {
    return " (skipped: the file system of temporary files has no direct I/O)"
  }
})()

/** What the kernel asks for, or what is taken for granted where it does not say. */
function alignment(path: string): DirectAlignment {
  const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECT)
  const found = directAlignment(fd)
  closeSync(fd)
  return found ?? { memory: 4096, offset: 4096 }
}

describe.skipIf(noDirect !== "")(`cache=direct${noDirect}`, () => {
  it.each(["raw", "qcow2"] as const)(
    "%s: what is aligned goes past the page cache, the rest does not, and both see the same bytes",
    async (format) => {
      const path = join(folder, `aligned.${format}`)
      if (format === "raw") writeFileSync(path, Buffer.alloc(MiB))
      else await createQcow2({ path, size: MiB })
      const options = { path, readonly: false, unsafe: false, direct: true, depth: 8 }
      const backend =
        format === "raw" ? await fileBackend(options) : await qcow2Backend({ ...options, backing: [] })
      const memory = mmapMemory(MiB)
      const run = drive(backend, memory, 8)
      memory.write(0, pattern(MiB / 2, 7))
      expect(await run({ op: 1, offset: 0, length: MiB / 2 })).toBe(0)
      const fds = new Set<number>()
      const move = async (op: number, offset: number, address: number, length: number) => {
        submitted = []
        expect(await run({ op, offset, address, length })).toBe(0)
        expect(submitted).toHaveLength(1)
        fds.add(submitted[0]!.fd)
        // Bit 2: not to be tried at once, since it would wait for the disk.
        return submitted[0]!.flags >> 2
      }
      const { memory: address, offset } = alignment(path)
      expect(await move(1, 4096, 4096, 8192)).toBe(1)
      // A cluster of its own in a qcow2 image begins at a multiple of everything.
      expect(await move(1, offset, 8192, 8192)).toBe(1)
      expect(await move(1, 8192, address, 4096)).toBe(1)
      expect(await move(1, 8192, 4096, offset)).toBe(1)
      expect(await move(1, offset / 2, 8192, 4096)).toBe(0)
      expect(await move(1, 8192, address / 2, 4096)).toBe(0)
      expect(await move(1, 8192, 4096, offset / 2)).toBe(0)
      expect(await move(0, 0, MiB / 2, 16384)).toBe(1)
      expect(await move(0, 512, MiB / 2 + 16384 + 1, 16384 - 512)).toBe(0)
      expect(fds.size).toBe(2)
      const past = new Uint8Array(16384 - 512)
      const through = new Uint8Array(16384 - 512)
      memory.read(MiB / 2 + 512, past)
      memory.read(MiB / 2 + 16384 + 1, through)
      expect(past).toEqual(through)
      await backend.close()
    },
  )

  it.each(probeIoUring() === 0 ? (["io_uring", "threads"] as const) : (["threads"] as const))(
    "%s: both ways together make one disk, whatever is aligned",
    async (engine) => {
      const path = join(folder, "mixed")
      const expected = pattern(MiB / 4, 3)
      writeFileSync(path, expected)
      const backend = await fileBackend({
        path,
        readonly: false,
        unsafe: false,
        direct: true,
        depth: 1,
        engine,
      })
      const memory = mmapMemory(MiB)
      const run = drive(backend, memory, 1)
      let random = 12345
      const below = (limit: number) => {
        random = (Math.imul(random, 1103515245) + 12345) & 0x7fffffff
        return Math.floor((random / 0x80000000) * limit)
      }
      const ways = new Set<number>()
      for (let i = 0; i < 400; i++) {
        const op = below(2)
        // Sectors, of which few are whole blocks of the file system; anywhere in memory.
        const length = 512 * (1 + below(16))
        const offset = 512 * below((expected.length - length) / 512 + 1)
        const address = [4096, 512, 4, 1][below(4)]! * (1 + below(64))
        const data = pattern(length, i)
        if (op === 1) {
          memory.write(address, data)
          expected.set(data, offset)
        }
        submitted = []
        expect(await run({ op, offset, address, length })).toBe(0)
        ways.add(submitted[0]!.flags >> 2)
        if (op === 1) continue
        memory.read(address, data)
        expect(data).toEqual(expected.subarray(offset, offset + length))
      }
      expect([...ways].sort()).toEqual([0, 1])
      await backend.close()
      expect(readFileSync(path).equals(expected)).toBe(true)
    },
  )

  it("says so where a file system has no direct I/O", async () => {
    await expect(
      fileBackend({ path: "/proc/self/maps", readonly: true, unsafe: false, direct: true, depth: 1 }),
    ).rejects.toThrow(ConfigError)
  })
})
