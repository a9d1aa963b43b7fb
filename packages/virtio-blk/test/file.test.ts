import {
  closeSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { ConfigError } from "@virtkit/interface"
import { probeIoUring } from "@virtkit/native"
import { TestMemory } from "@virtkit/testkit"
import { type BlockFileOptions, block } from "@virtkit/virtio-blk"
import { afterAll, afterEach, beforeEach, describe, expect, it } from "vitest"
import {
  DISCARD,
  type Disk,
  disk,
  FLUSH,
  header,
  IOERR,
  MappedTestMemory,
  OK,
  pattern,
  ranges,
  WRITE_ZEROES,
} from "./helpers.js"

const MiB = 2 ** 20
const folder = mkdtempSync(join(tmpdir(), "virtkit-blk-"))
afterAll(() => rmSync(folder, { recursive: true }))

const memory = new MappedTestMemory(8 * MiB)
const opened: Disk[] = []
let path: string

beforeEach(() => {
  path = join(folder, `disk-${Math.random().toString(36).slice(2)}.img`)
  writeFileSync(path, pattern(MiB, 5))
})
afterEach(async () => {
  for (const d of opened.splice(0)) await d.device.close()
})

async function fileDisk(options: Partial<BlockFileOptions> = {}): Promise<Disk> {
  const d = await disk({ path, engine, ...options }, { memory, queueSize: 64 })
  opened.push(d)
  return d
}

/** The same whatever carries requests out. */
let engine: "io_uring" | "threads"
describe.skipIf(probeIoUring() !== 0)("file backend, io_uring", () => fileTests("io_uring"))
describe("file backend, threads", () => fileTests("threads"))

function fileTests(kind: typeof engine): void {
  beforeEach(() => {
    engine = kind
  })

  it("says what carries requests out", async () => {
    expect((await fileDisk()).device.engine).toBe(kind)
  })

  it("reads and writes, in segments and in parallel", async () => {
    const d = await fileDisk()
    expect((await d.read(2, 512, 100, 412)).data).toEqual(pattern(MiB, 5).subarray(1024, 2048))
    const results = await Promise.all(
      Array.from({ length: 12 }, (_, i) => d.write(i * 8, pattern(1000, i), pattern(24, i))),
    )
    expect(results.every((result) => result.status === OK)).toBe(true)
    expect((await d.request(FLUSH)).status).toBe(OK)
    const file = readFileSync(path)
    for (let i = 0; i < 12; i++) {
      expect(file.subarray(i * 4096, i * 4096 + 1000)).toEqual(Buffer.from(pattern(1000, i)))
    }
    expect(file.length).toBe(MiB)
  })

  it("marks what it read into as dirty", async () => {
    const d = await fileDisk()
    const chain = d.harness.ring(0).add({ readable: [header(0)], writable: [512, 512, 1] })
    memory.clearWritten()
    d.harness.kick(0)
    await expect.poll(() => d.device.inFlight).toBe(0)
    for (const buffer of chain.buffers.slice(1)) {
      expect(memory.written).toContainEqual({ address: buffer.address, length: buffer.length })
    }
  })

  it.each(["writeback", "writethrough", "unsafe"] as const)(
    "discards and zeroes, cache=%s",
    async (cache) => {
      const d = await fileDisk({ cache })
      expect((await d.request(DISCARD, { out: [ranges([8, 8, 0])] })).status).toBe(OK)
      expect((await d.request(WRITE_ZEROES, { out: [ranges([101, 3, 0], [201, 1, 1])] })).status).toBe(OK)
      expect((await d.request(FLUSH)).status).toBe(OK)
      expect((await d.write(300, new Uint8Array(512))).status).toBe(OK)
      const zero = (from: number, to: number) =>
        readFileSync(path)
          .subarray(from * 512, to * 512)
          .every((byte) => byte === 0)
      expect([zero(8, 16), zero(101, 104), zero(201, 202), zero(300, 301)]).toEqual([true, true, true, true])
      expect([zero(16, 17), zero(100, 101), zero(104, 105), zero(200, 201)]).toEqual([
        false,
        false,
        false,
        false,
      ])
    },
  )

  it("bad-input #24: a read-only file keeps its bytes", async () => {
    const d = await fileDisk({ readonly: true })
    expect((await d.write(0, new Uint8Array(512))).status).toBe(IOERR)
    expect((await d.read(0, 512)).status).toBe(OK)
    expect(readFileSync(path).equals(pattern(MiB, 5))).toBe(true)
  })

  it("bad-input #25: an image that a guest made look like qcow2 stays raw, no other file is opened", async () => {
    const image = new Uint8Array(MiB)
    const secret = join(folder, "secret")
    image.set(Buffer.from("QFI\xfb\0\0\0\x03\0\0\0\0\0\0\0\x68", "latin1")) // version 3, backing file name at 0x68
    image.set(Buffer.from(secret), 0x68)
    writeFileSync(path, image)
    writeFileSync(secret, new Uint8Array(512).fill(7))
    const d = await fileDisk()
    expect((await d.read(0, 512)).data).toEqual(image.subarray(0, 512))
    expect(d.device.config.slice(0, 4)).toEqual(new Uint8Array(Uint32Array.of(MiB / 512).buffer))
  })

  it("answers reads behind the end of a file that was cut off with an error", async () => {
    const d = await fileDisk()
    truncateSync(path, MiB / 2)
    expect((await d.read(MiB / 1024 - 1, 1024)).status).toBe(IOERR)
    expect((await d.read(0, 1024)).status).toBe(OK)
  })

  it("needs guest memory with host addresses, and says so to the guest only", async () => {
    const d = await disk({ path, engine }, { memory: new TestMemory() })
    opened.push(d)
    expect((await d.read(0, 512)).status).toBe(IOERR)
    expect(d.device.counters.lastErrno).toBe(14)
  })

  it("grows with its file", async () => {
    const d = await fileDisk()
    truncateSync(path, 2 * MiB)
    await d.device.resize()
    expect(d.device.size).toBe(2 * MiB)
    await d.device.resize(3 * MiB)
    expect(readFileSync(path).length).toBe(3 * MiB)
    expect((await d.write((3 * MiB) / 512 - 1, pattern(512, 1))).status).toBe(OK)
  })

  it("bad-input #27: reset waits until the kernel is done with guest memory", async () => {
    const d = await fileDisk({ cache: "writethrough" })
    const ring = d.harness.ring(0)
    for (let i = 0; i < 8; i++) ring.add({ readable: [header(1, i), pattern(512, i)], writable: [1] })
    d.harness.kick(0)
    expect(d.device.inFlight).toBe(8)
    const used = memory.readUint16(ring.used + 2)
    await d.harness.reset()
    expect(memory.readUint16(ring.used + 2)).toBe(used)
    d.harness.start()
    expect((await d.read(0, 512)).data).toEqual(pattern(512, 0))
  })

  it("stays flat over 50 open and close rounds", async () => {
    const fds = () => readdirSync("/proc/self/fd").length
    const tasks = () => readdirSync("/proc/self/task").length
    const round = async () => {
      const d = await disk({ path, engine }, { memory, queueSize: 4 })
      await d.request(FLUSH)
      await d.device.close()
      for (const ring of d.harness.rings)
        for (const at of [ring.desc, ring.avail, ring.used]) d.harness.allocator.free(at)
    }
    await round()
    const before = [fds(), tasks()]
    for (let i = 0; i < 50; i++) await round()
    expect([fds(), tasks()]).toEqual(before)
  })
}

describe("opening", () => {
  const message = async (options: BlockFileOptions): Promise<string> => {
    try {
      const device = await block(options)
      await device.close()
      return "no error"
    } catch (error) {
      expect(error).toBeInstanceOf(ConfigError)
      return (error as Error).message.replaceAll(folder, "F").replace(path.slice(folder.length), "/D")
    }
  }

  it("says what is wrong with the image and what to do", async () => {
    const fds = readdirSync("/proc/self/fd").length
    writeFileSync(join(folder, "empty"), "")
    writeFileSync(join(folder, "odd"), "x".repeat(1000))
    expect(await message({ path: join(folder, "none") })).toBe("disk F/none does not exist")
    expect(await message({ path: join(folder, "none", "x") })).toBe("disk F/none/x does not exist")
    expect(await message({ path: folder })).toBe("disk F is neither a file nor a block device")
    expect(await message({ path: folder, readonly: true })).toBe(
      "disk F is neither a file nor a block device",
    )
    expect(await message({ path: "/dev/null" })).toBe("disk /dev/null is neither a file nor a block device")
    expect(await message({ path: join(folder, "empty") })).toBe(
      "disk F/empty is empty; give it a size, as in: truncate -s 1G F/empty",
    )
    expect(await message({ path: join(folder, "odd") })).toBe(
      "disk F/odd has 1000 bytes, which is not a multiple of 512; pad it with: truncate -s %512 F/odd",
    )
    expect(await message({ path: "/sys/kernel/uevent_seqnum" })).toBe(
      "no permission to write disk /sys/kernel/uevent_seqnum; change its owner or mode, or open it readonly",
    )
    expect(await message({ path: "" })).toBe("a disk needs a path or a backend")
    expect(await message({ path, format: "vmdk" as "raw" })).toBe(
      'format of disk F/D must be raw or qcow2, not "vmdk"',
    )
    expect(await message({ path, engine: "aio" as "auto" })).toBe(
      'engine of disk F/D must be auto, io_uring or threads, not "aio"',
    )
    expect(await message({ path, backing: ["/"] })).toBe("disk F/D: only qcow2 images have backing files")
    expect(readdirSync("/proc/self/fd").length).toBe(fds)
  })

  it("gives a disk one writer, or readers only", async () => {
    const writer = await block({ path })
    expect(await message({ path })).toBe(
      "disk F/D is in use by another virtual machine or program; stop that first, or open it readonly in both",
    )
    expect(await message({ path, readonly: true })).toBe(
      "disk F/D is being written by another virtual machine or program; stop that first",
    )
    await writer.close()
    const readers = [await block({ path, readonly: true }), await block({ path, readonly: true })]
    expect(await message({ path })).toMatch("is in use by another")
    for (const reader of readers) await reader.close()
    closeSync(openSync(path, "r"))
    expect(await message({ path })).toBe("no error")
  })
})
