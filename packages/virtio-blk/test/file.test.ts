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
  OUT,
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

/** The disk may be done with all before this thread gives it up. */
const AGAIN = { retry: 5 }

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

  it.each([0, 100])("comes back to a queue that was full, poll=%i", async (poll) => {
    const d = await disk({ path, engine, poll }, { memory, queueSize: 4 })
    opened.push(d)
    for (let round = 0; round < 3; round++) {
      const ring = d.harness.ring(0)
      for (let i = 0; i < 4; i++)
        ring.add({ readable: [header(0, i)], writable: [512, 1], layout: "indirect" })
      d.harness.kick(0)
      await expect.poll(() => d.device.counters.reads).toBe(4 * (round + 1))
      expect(ring.reap()).toHaveLength(4)
    }
  })

  it("bad-input #27: reset gives up what has not begun, and answers none of it", AGAIN, async () => {
    const d = await fileDisk({ cache: "writethrough" })
    const ring = fillWithWrites(d, 0)
    d.harness.kick(0)
    expect(d.device.inFlight).toBe(60)
    const used = memory.readUint16(ring.used + 2)
    await d.harness.reset()
    const left = blocksOf(path, 9)
    expect(left).toBeLessThan(45)
    // Nothing comes later.
    d.harness.start()
    expect((await d.request(FLUSH)).status).toBe(OK)
    expect(blocksOf(path, 9)).toBe(left)
    expect(memory.readUint16(ring.used + 2)).toBe(used)
    expect((await d.write(0, pattern(512, 1))).status).toBe(OK)
  })

  it("bad-input #27: a queue that is reset has its requests given up, and no other", AGAIN, async () => {
    const d = await fileDisk({ cache: "writethrough", queues: 2, poll: 0 })
    const ring = fillWithWrites(d, 0)
    const others = Array.from({ length: 4 }, (_, i) =>
      d.harness.ring(1).add({ readable: [header(OUT, 8 * i), new Uint8Array(4096).fill(8)], writable: [1] }),
    )
    d.harness.kick(0)
    d.harness.kick(1)
    expect(d.device.inFlight).toBe(64)
    const used = memory.readUint16(ring.used + 2)
    d.harness.queues[0] = undefined as never
    await d.device.resetQueue(0)
    expect(memory.readUint16(ring.used + 2)).toBe(used)
    expect(blocksOf(path, 9)).toBeLessThan(45)
    await expect.poll(() => d.harness.ring(1).reap().length + d.device.inFlight).toBe(0)
    expect(others.map((chain) => chain.data?.at(-1))).toEqual([OK, OK, OK, OK])
    expect(blocksOf(path, 8)).toBe(4)
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

/** 60 writes of 4 KiB of nines, not published: behind the first 16 KiB of the disk. */
function fillWithWrites(d: Disk, queue: number): ReturnType<Disk["harness"]["ring"]> {
  const ring = d.harness.ring(queue)
  for (let i = 0; i < 60; i++)
    ring.add({
      readable: [header(OUT, 32 + 8 * i), new Uint8Array(4096).fill(9)],
      writable: [1],
      layout: "indirect",
    })
  return ring
}

/** How many blocks of the file are full of that byte. */
function blocksOf(file: string, byte: number): number {
  const bytes = readFileSync(file)
  let count = 0
  for (let at = 0; at < bytes.length; at += 4096)
    if (bytes.subarray(at, at + 4096).every((one) => one === byte)) count++
  return count
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
