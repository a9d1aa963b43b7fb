import { spawn, spawnSync } from "node:child_process"
import { once } from "node:events"
import {
  closeSync,
  constants,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { Worker } from "node:worker_threads"
import {
  BlockEngine,
  type BlockEngineOptions,
  blockFileInfo,
  directAlignment,
  lockFile,
  MemoryMapping,
  probeIoUring,
  writeTogether,
} from "@virtkit/native"
import { afterAll, afterEach, beforeEach, describe, expect, it, vi } from "vitest"

const READ = 0
const WRITE = 1
const FLUSH = 2
const DISCARD = 3
const WRITE_ZEROES = 4
const EBADF = -9
const ECANCELED = -125
const MiB = 2 ** 20

const addon = new URL("../index.js", import.meta.url).href
const folder = mkdtempSync(join(tmpdir(), "virtkit-block-"))
afterAll(() => rmSync(folder, { recursive: true }))

interface Request {
  op: number
  fd?: number
  offset?: number
  length?: number
  flags?: number
  /** Offsets and lengths in the test's memory. */
  segments?: [number, number][]
}

/** An engine with promises, for tests only. */
function promised(options: Partial<BlockEngineOptions> = {}) {
  const waiting = new Map<number, (result: number) => void>()
  const engine = new BlockEngine({ depth: 8, segments: 3000, ...options }, (count) => settle(count))
  function settle(count: number) {
    for (let i = 0; i < count; i++) {
      const tag = engine.completedTags[i]!
      const resolve = waiting.get(tag)!
      waiting.delete(tag)
      resolve(engine.results[i]!)
    }
  }
  let nextTag = 1
  function submit(requests: Request[]): Promise<number[]> {
    let segment = 0
    const results = requests.map((request, i) => {
      engine.ops[i] = request.op
      engine.fds[i] = request.fd ?? fd
      engine.flags[i] = request.flags ?? 0
      engine.offsets[i] = request.offset ?? 0
      engine.lengths[i] = request.length ?? 0
      engine.firstSegments[i] = segment
      engine.segmentCounts[i] = request.segments?.length ?? 0
      for (const [at, length] of request.segments ?? []) {
        engine.segmentAddresses[segment] = memory.hostAddress + at
        engine.segmentLengths[segment++] = length
      }
      const tag = nextTag++
      engine.tags[i] = tag
      return new Promise<number>((resolve) => waiting.set(tag, resolve))
    })
    settle(engine.submit(requests.length))
    return Promise.all(results)
  }
  /** Tags count from 1. */
  function cancel(...tags: number[]): void {
    engine.tags.set(tags)
    settle(engine.cancel(tags.length))
  }
  return { engine, submit, cancel }
}

/** The disk may be done with all before this thread gives it up. */
const AGAIN = { retry: 5 }

const threads = () =>
  readdirSync("/proc/self/task").filter(
    (id) => readFileSync(`/proc/self/task/${id}/comm`, "latin1") === "virtkit-io\n",
  ).length

let memory: MemoryMapping
let bytes: (at: number, length: number) => Uint8Array
let path: string
let fd: number
beforeEach(() => {
  memory = new MemoryMapping({ size: 4 * MiB })
  bytes = (at, length) => new Uint8Array(memory.buffer, memory.byteOffset + at, length)
  path = join(folder, "disk")
  writeFileSync(path, Buffer.alloc(MiB, 0xaa))
  fd = openSync(path, "r+")
})
afterEach(() => {
  closeSync(fd)
  memory.release()
})

/** Path of a program in `folder`, made of the C source of that name beside this file. */
function compiled(name: string, folder: string): string {
  const program = join(folder, name)
  const source = fileURLToPath(new URL(`${name}.c`, import.meta.url))
  expect(spawnSync("cc", ["-o", program, source], { encoding: "utf8" }).stderr).toBe("")
  return program
}

describe.skipIf(probeIoUring() !== 0)("BlockEngine, io_uring", () => engineTests("io_uring"))
describe("BlockEngine, threads", () => engineTests("threads"))

function engineTests(kind: "io_uring" | "threads"): void {
  it("writes and reads scattered memory", async () => {
    const { engine, submit } = promised({ kind })
    bytes(0, 100).fill(1)
    bytes(1000, 50).fill(2)
    expect(
      await submit([
        {
          op: WRITE,
          offset: 10,
          segments: [
            [0, 100],
            [500, 0],
            [1000, 50],
          ],
        },
      ]),
    ).toEqual([150])
    const file = readFileSync(path)
    expect(file[9]).toBe(0xaa)
    expect(file.subarray(10, 110).every((byte) => byte === 1)).toBe(true)
    expect(file.subarray(110, 160).every((byte) => byte === 2)).toBe(true)
    expect(file[160]).toBe(0xaa)

    expect(
      await submit([
        {
          op: READ,
          offset: 109,
          segments: [
            [2000, 1],
            [3000, 2],
          ],
        },
      ]),
    ).toEqual([3])
    expect([...bytes(2000, 1), ...bytes(3000, 3)]).toEqual([1, 2, 2, 0])
    await engine.close()
  })

  it("does a batch of every operation", async () => {
    const { engine, submit } = promised({ kind })
    const results = await submit([
      { op: READ, offset: 0, segments: [[0, 512]] },
      { op: WRITE, offset: 4096, flags: 1, segments: [[8192, 4096]] },
      { op: FLUSH },
      { op: DISCARD, offset: 65536, length: 65536, flags: 1 },
      { op: WRITE_ZEROES, offset: 262144, length: 100_000 },
      { op: WRITE_ZEROES, offset: 524288, length: 65536, flags: 2 },
    ])
    expect(results).toEqual([512, 4096, 0, 0, 0, 0])
    const file = readFileSync(path)
    const zero = (from: number, to: number) => file.subarray(from, to).every((byte) => byte === 0)
    expect(zero(4096, 8192)).toBe(true)
    expect(zero(65536, 131072)).toBe(true)
    expect(zero(262144, 362144)).toBe(true)
    expect(file[362144]).toBe(0xaa)
    expect(zero(524288, 589824)).toBe(true)
    expect(file.length).toBe(MiB)
    await engine.close()
  })

  it("moves more segments than one system call takes", async () => {
    const { engine, submit } = promised({ kind })
    const segments = Array.from({ length: 2500 }, (_, i) => [i * 200, 100] as [number, number])
    for (const [i, [at, length]] of segments.entries()) bytes(at, length).fill(i % 251)
    expect(await submit([{ op: WRITE, segments }])).toEqual([250_000])
    const file = readFileSync(path)
    for (let i = 0; i < 2500; i++) expect(file[i * 100 + 99]).toBe(i % 251)
    for (const [at, length] of segments) bytes(at, length).fill(255)
    expect(await submit([{ op: READ, segments }])).toEqual([250_000])
    for (const [i, [at]] of segments.entries()) expect(bytes(at, 1)[0]).toBe(i % 251)
    await engine.close()
  })

  it("reports short reads at the end of the file, and errors as negative errno", async () => {
    const { engine, submit } = promised({ kind })
    expect(
      await submit([
        {
          op: READ,
          offset: MiB - 100,
          segments: [
            [0, 50],
            [100, 500],
          ],
        },
        { op: READ, offset: 2 * MiB, segments: [[0, 50]] },
        { op: READ, fd: 9999, segments: [[0, 50]] },
        { op: FLUSH, fd: -1 },
        { op: DISCARD, fd: 9999, length: 10 },
      ]),
    ).toEqual([100, 0, EBADF, EBADF, EBADF])
    await engine.close()
  })

  it("reads what is in the page cache at once, within limits", () => {
    const engine = new BlockEngine({ kind, depth: 4, segments: 4 }, () => {})
    readFileSync(path)
    for (let i = 0; i < 3; i++) {
      engine.fds[i] = fd
      engine.tags[i] = 10 + i
      engine.firstSegments[i] = i
      engine.segmentCounts[i] = 1
      engine.segmentAddresses[i] = memory.hostAddress
      engine.segmentLengths[i] = i === 1 ? MiB : 4096
    }
    const completed = engine.submit(3)
    // A file system without RWF_NOWAIT (tmpfs of old kernels) has none; large reads never are, but others may be quick.
    expect([0, 2, 3]).toContain(completed)
    expect(engine.inFlight).toBe(3 - completed)
    if (completed > 0) expect([...engine.completedTags.subarray(0, 2)]).toEqual([10, 12])
    return engine.close()
  })

  it("writes whole pages at once where it is told to, and nothing that waits by its nature", async () => {
    const before = threads()
    const write = async (offset: number, length: number, flags = 0) => {
      const { engine, submit } = promised({ kind, writeNow: true })
      bytes(0, length).fill(9)
      const done = submit([{ op: WRITE, offset, flags, segments: [[0, length]] }])
      const started = threads() - before
      expect(await done).toEqual([length])
      expect(
        readFileSync(path)
          .subarray(offset, offset + length)
          .every((byte) => byte === 9),
      ).toBe(true)
      await engine.close()
      return started
    }
    const others = kind === "threads" ? 1 : 0
    expect(await write(8192, 8192)).toBe(0)
    // Parts of a page may have to be read first; what is to be durable waits for the disk; much takes long.
    expect(await write(32768, 512)).toBe(others)
    expect(await write(40960 + 512, 4096)).toBe(others)
    expect(await write(65536, 4096, 1)).toBe(others)
    expect(await write(131072, 524288)).toBe(others)
  })

  it("refuses malformed batches whole", async () => {
    const { engine, submit } = promised({ kind, depth: 2, segments: 4 })
    const refused = (change: () => void, count = 1) => {
      engine.ops[0] = FLUSH
      engine.firstSegments[0] = engine.segmentCounts[0] = engine.offsets[0] = engine.lengths[0] = 0
      change()
      expect(() => engine.submit(count)).toThrow(RangeError)
    }
    refused(() => {}, 3)
    refused(() => {}, -1)
    refused(() => {}, Number.NaN)
    refused(() => (engine.ops[0] = 5))
    refused(() => (engine.firstSegments[0] = 5))
    refused(() => (engine.segmentCounts[0] = 5))
    refused(() => (engine.offsets[0] = -1))
    refused(() => (engine.lengths[0] = Number.NaN))
    expect(engine.inFlight).toBe(0)
    expect(await submit([{ op: FLUSH }, { op: FLUSH }])).toEqual([0, 0])
    expect(() => new BlockEngine({ depth: 0, segments: 1 }, () => {})).toThrow(RangeError)
    expect(() => Reflect.construct(BlockEngine, [])).toThrow(TypeError)
    await engine.close()
  })

  it("bounds what is in flight, and its threads", async () => {
    const { engine, submit } = promised({ kind, depth: 3, threads: 2 })
    const before = threads()
    const first = submit([{ op: FLUSH }, { op: FLUSH }, { op: FLUSH }])
    expect(engine.inFlight).toBe(3)
    expect(() => engine.submit(1)).toThrow(RangeError)
    expect(threads() - before).toBe(kind === "threads" ? 2 : 0)
    await first
    expect(engine.inFlight).toBe(0)
    await engine.close()
    expect(threads()).toBe(before)
  })

  it("can be polled", () => {
    const engine = new BlockEngine({ kind, depth: 1, segments: 1 }, () => {})
    engine.ops[0] = FLUSH
    engine.fds[0] = fd
    engine.tags[0] = 77
    expect(engine.submit(1)).toBe(0)
    let count = 0
    for (const end = Date.now() + 10_000; count === 0 && Date.now() < end; ) count = engine.poll()
    expect(count).toBe(1)
    expect(engine.completedTags[0]).toBe(77)
    return engine.close()
  })

  it("wakes in a later turn, once for any number of times that it was asked to", async () => {
    const counts: number[] = []
    const engine = new BlockEngine({ kind, depth: 1, segments: 1 }, (count) => counts.push(count))
    const turns = async () => {
      for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve))
    }
    engine.setPolling(true)
    engine.wake()
    engine.wake()
    expect(counts).toEqual([])
    await turns()
    expect(counts).toEqual([0])
    await turns()
    expect(counts).toEqual([0])
    engine.wake()
    await turns()
    expect(counts).toEqual([0, 0])
    engine.wake()
    await engine.close()
    engine.wake()
    await turns()
    expect(counts).toEqual([0, 0])
  })

  it("waits at close for what is in flight, takes no more, and closes once", async () => {
    const { engine, submit } = promised({ kind })
    const before = threads()
    let completed = false
    const flushed = submit([{ op: WRITE, flags: 1, segments: [[0, MiB]] }]).then((results) => {
      completed = true
      expect(results).toEqual([MiB])
    })
    const closed = engine.close()
    expect(() => engine.submit(1)).toThrow("closed")
    await closed
    expect(completed).toBe(true)
    await flushed
    await engine.close()
    expect(engine.poll()).toBe(0)
    expect(threads()).toBe(before)
  })

  it("gives up what was cancelled and has not begun, and writes nothing of it", AGAIN, async () => {
    const { engine, submit, cancel } = promised({ kind, depth: 64, threads: 1 })
    const before = threads()
    const each = 64 * 1024
    bytes(0, 4 * MiB).fill(9)
    const tags = Array.from({ length: 64 }, (_, i) => i + 1)
    const requests = tags.map((tag): Request => {
      const offset = (tag - 1) * each
      return { op: WRITE, flags: 1, offset, segments: [[offset, each]] }
    })
    const submitted = submit(requests)
    // The last one is still wanted.
    cancel(...tags.slice(0, 63))
    const results = await submitted
    expect(results.at(-1)).toBe(each)
    const given = results.filter((result) => result === ECANCELED).length
    expect(given).toBeGreaterThan(16)
    expect(results.filter((result) => result === each)).toHaveLength(64 - given)
    const file = readFileSync(path)
    const written = results.map((_, i) => file.subarray(i * each, (i + 1) * each).every((byte) => byte === 9))
    expect(written).toEqual(results.map((result) => result === each))
    expect(engine.inFlight).toBe(0)
    // It goes on.
    expect(await submit([{ op: READ, segments: [[0, 512]] }])).toEqual([512])
    await engine.close()
    expect(threads()).toBe(before)
  })

  it("passes over tags that are not in flight", async () => {
    const { engine, submit, cancel } = promised({ kind })
    cancel(1, 2, 3)
    expect(await submit([{ op: FLUSH }])).toEqual([0])
    cancel(1)
    const two = submit([{ op: FLUSH }, { op: FLUSH }])
    cancel(1, 4, 5)
    expect(await two).toEqual([0, 0])
    expect(() => engine.cancel(9)).toThrow(RangeError)
    expect(() => engine.cancel(-1)).toThrow(RangeError)
    await engine.close()
    expect(engine.cancel(1)).toBe(0)
  })

  it("lets the process end when nothing is in flight, and completes first what is", () => {
    const code = `
      import { openSync } from "node:fs"
      import { BlockEngine } from ${JSON.stringify(addon)}
      const e = new BlockEngine({ kind: "${kind}", depth: 1, segments: 1 }, (n) => {
        console.log(n, e.results[0])
        e.close().then(() => console.log("closed"))
      })
      new BlockEngine({ kind: "${kind}", depth: 1, segments: 1 }, () => {})
      e.ops[0] = 2
      e.fds[0] = openSync(${JSON.stringify(path)}, "r+")
      e.submit(1)`
    const run = spawnSync(process.execPath, ["--input-type=module", "-e", code], {
      encoding: "utf8",
      timeout: 15_000,
    })
    expect(run.stderr).toBe("")
    expect(run.stdout).toBe("1 0\nclosed\n")
    expect(run.status).toBe(0)
  })

  it("lets the process live until it has woken", () => {
    const code = `
      import { BlockEngine } from ${JSON.stringify(addon)}
      let turns = 0
      const e = new BlockEngine({ kind: "${kind}", depth: 1, segments: 1 }, () => {
        console.log("woken")
        if (++turns < 3) e.wake()
      })
      e.wake()`
    const run = spawnSync(process.execPath, ["--input-type=module", "-e", code], {
      encoding: "utf8",
      timeout: 15_000,
    })
    expect(run.stdout).toBe("woken\nwoken\nwoken\n")
    expect(run.status).toBe(0)
  })

  it("settles close() although nothing else is left to run", () => {
    const code = `
      import { openSync } from "node:fs"
      import { BlockEngine } from ${JSON.stringify(addon)}
      const e = new BlockEngine({ kind: "${kind}", depth: 1, segments: 1 }, () => {})
      e.ops[0] = 2
      e.fds[0] = openSync(${JSON.stringify(path)}, "r+")
      e.submit(1)
      e.close().then(() => console.log("closed"))`
    const run = spawnSync(process.execPath, ["--input-type=module", "-e", code], {
      encoding: "utf8",
      timeout: 15_000,
    })
    expect(run.stdout).toBe("closed\n")
  })

  it("ends with its worker while requests are in flight", async () => {
    const before = threads()
    for (let round = 0; round < 3; round++) {
      const worker = new Worker(
        `import(${JSON.stringify(addon)}).then(({ BlockEngine }) => {
           let n = 0
           const e = new BlockEngine({ kind: "${kind}", depth: 4, segments: 1 }, (count) => {
             if (++n === 20) require("node:worker_threads").parentPort.postMessage("busy")
             // Those that are done at once are submitted again at once.
             while (count > 0) count = e.submit(count)
           })
           e.ops.fill(2)
           e.fds.fill(${fd})
           for (let count = 4; count > 0; ) count = e.submit(count)
         })`,
        { eval: true },
      )
      await new Promise((resolve, reject) => {
        worker.once("message", resolve)
        worker.once("error", reject)
      })
      await worker.terminate()
    }
    expect(threads()).toBe(before)
  })
}

describe("BlockEngine, which kind", () => {
  it("takes io_uring where it can, threads where it is told to", async () => {
    const kinds = [undefined, "auto", "threads"] as const
    const engines = kinds.map(
      (kind) => new BlockEngine({ depth: 1, segments: 1, ...(kind && { kind }) }, () => {}),
    )
    const best = probeIoUring() === 0 ? "io_uring" : "threads"
    expect(engines.map(({ kind }) => kind)).toEqual([best, best, "threads"])
    for (const engine of engines) await engine.close()
    expect(engines[0]!.kind).toBe(best)
    expect(() => new BlockEngine({ depth: 1, segments: 1, kind: "aio" as "auto" }, () => {})).toThrow(
      RangeError,
    )
  })

  it("does the same without io_uring where a sandbox forbids it", () => {
    const forbid = compiled("forbid-io-uring", folder)
    const code = `
      import { openSync } from "node:fs"
      import { BlockEngine, MemoryMapping, probeIoUring } from ${JSON.stringify(addon)}
      const memory = new MemoryMapping({ size: 65536 })
      const bytes = new Uint8Array(memory.buffer, memory.byteOffset, 65536)
      const fd = openSync(${JSON.stringify(path)}, "r+")
      const e = new BlockEngine({ depth: 2, segments: 2 }, (n) => done(n))
      console.log(probeIoUring(), e.kind)
      try { new BlockEngine({ depth: 1, segments: 1, kind: "io_uring" }, () => {}) }
      catch (error) { console.log(error.code, error.errno, error.syscall) }
      e.registerFile(fd)
      bytes.fill(7, 0, 4096)
      const submit = (op, at) => {
        e.ops[0] = op
        e.fds[0] = fd
        e.segmentCounts[0] = 1
        e.segmentAddresses[0] = memory.hostAddress + at
        e.segmentLengths[0] = 4096
        done(e.submit(1))
      }
      const steps = [() => submit(1, 0), () => submit(0, 8192), () => { console.log(bytes[8192], bytes[12287]); e.close() }]
      const done = (n) => { if (n === 0) return; console.log(n, e.results[0]); steps.shift()() }
      steps.shift()()`
    const run = spawnSync(forbid, [process.execPath, "--input-type=module", "-e", code], {
      encoding: "utf8",
      timeout: 15_000,
    })
    expect(run.stderr).toBe("")
    expect(run.stdout).toBe("1 threads\nEPERM 1 io_uring_setup\n1 4096\n1 4096\n7 7\n")
  })

  it.skipIf(probeIoUring() !== 0)("has the kernel give up what would wait for ever", async () => {
    const fifo = join(folder, "fifo")
    spawnSync("mkfifo", [fifo])
    // Whoever reads from a pipe waits until something is written to it, and a ring reads from one.
    const pipe = openSync(fifo, constants.O_RDWR)
    const { engine, submit, cancel } = promised({ kind: "io_uring" })
    const read = (at: number) => submit([{ op: READ, fd: pipe, flags: 4, segments: [[at, 1]] }])
    const first = read(0)
    const second = read(1)
    const third = read(2)
    cancel(1, 3)
    expect(await Promise.all([first, third])).toEqual([[ECANCELED], [ECANCELED]])
    expect(engine.inFlight).toBe(1)
    writeSync(pipe, "x")
    expect(await second).toEqual([1])
    expect([...bytes(0, 3)]).toEqual([0, 120, 0])
    await engine.close()
    closeSync(pipe)
  })

  it("lets go of files that were registered", async () => {
    const engine = new BlockEngine({ depth: 1, segments: 1 }, () => {})
    const other = openSync(path, "r+")
    engine.registerFile(other)
    expect(lockFile(other, true)).toBe(true)
    await engine.close()
    closeSync(other)
    expect(lockFile(fd, true)).toBe(true)
    expect(() => engine.registerFile("x" as unknown as number)).toThrow(TypeError)
  })

  it("wakes nobody while it is polled, and does again afterwards", async () => {
    let woken = 0
    const engine = new BlockEngine({ depth: 1, segments: 1 }, () => woken++)
    const flush = () => {
      engine.ops[0] = FLUSH
      engine.fds[0] = fd
      expect(engine.submit(1)).toBe(0)
    }
    engine.setPolling(true)
    flush()
    let count = 0
    for (const end = Date.now() + 10_000; count === 0 && Date.now() < end; ) count = engine.poll()
    expect([count, engine.inFlight]).toEqual([1, 0])
    await new Promise((resolve) => setImmediate(resolve))
    expect(woken).toBe(0)
    flush()
    engine.setPolling(false)
    await vi.waitFor(() => expect(woken).toBe(1), 10_000)
    await engine.close()
  })
})

describe("block files", () => {
  it("describes files and what is none", () => {
    expect(blockFileInfo(fd)).toEqual({
      kind: "file",
      size: MiB,
      logicalBlockSize: 512,
      physicalBlockSize: 512,
      optimalIoSize: 0,
      readonly: false,
    })
    const device = openSync("/dev/null", "r")
    expect(blockFileInfo(device).kind).toBe("other")
    closeSync(device)
    expect(() => blockFileInfo(9999)).toThrow(expect.objectContaining({ code: "EBADF", syscall: "fstat" }))
  })

  it("says what O_DIRECT asks for, which is enough", async () => {
    const direct = openSync(path, constants.O_RDWR | constants.O_DIRECT)
    const found = directAlignment(direct)
    // Before Linux 6.1, and on some file systems, nobody says.
    if (found !== undefined) {
      const { engine, submit } = promised()
      const segments: [number, number][] = [[found.memory, found.offset]]
      expect(await submit([{ op: READ, fd: direct, offset: found.offset, flags: 4, segments }])).toEqual([
        found.offset,
      ])
      await engine.close()
    }
    closeSync(direct)
    expect(() => directAlignment(9999)).toThrow(expect.objectContaining({ code: "EBADF", syscall: "statx" }))
  })

  it("locks out other writers, and readers from writers", () => {
    const other = openSync(path, "r+")
    const reader = openSync(path, constants.O_RDONLY)
    expect(lockFile(fd, true)).toBe(true)
    expect(lockFile(other, true)).toBe(false)
    expect(lockFile(reader, false)).toBe(false)
    expect(lockFile(fd, false)).toBe(true)
    expect(lockFile(reader, false)).toBe(true)
    expect(lockFile(other, true)).toBe(false)
    expect(() => lockFile(reader, true)).toThrow(expect.objectContaining({ code: "EBADF" }))
    closeSync(reader)
    closeSync(other)
  })
})

describe("pieces of a file that are written together", () => {
  it("are where they belong, whatever their lengths", async () => {
    const pieces = [10, 1, 4096, 100_000, 65536, 0, 300_000, 3, 700_001, 65537]
    const lengths = pieces.filter((_, i) => i % 2 === 1)
    const bytes = new Uint8Array(lengths.reduce((a, b) => a + b)).map((_, i) => 1 + (i % 255))
    const expected = readFileSync(path)
    let at = 0
    for (let i = 0; i < pieces.length; i += 2) {
      expected.set(bytes.subarray(at, at + pieces[i + 1]!), pieces[i]!)
      at += pieces[i + 1]!
    }
    const copy = bytes.slice()
    const written = writeTogether(fd, copy, Float64Array.from(pieces))
    // They were copied.
    copy.fill(0)
    await written
    expect(readFileSync(path).equals(expected)).toBe(true)
  })

  it("say what went wrong, and take no nonsense", async () => {
    const reader = openSync(path, constants.O_RDONLY)
    await expect(writeTogether(reader, new Uint8Array(1), Float64Array.of(0, 1))).rejects.toMatchObject({
      code: "EBADF",
      errno: 9,
      syscall: "pwrite",
    })
    closeSync(reader)
    const full = openSync("/dev/full", "w")
    await expect(writeTogether(full, new Uint8Array(1), Float64Array.of(0, 1))).rejects.toMatchObject({
      code: "ENOSPC",
    })
    closeSync(full)
    for (const places of [[0], [0, 2], [0, 1, 5], [-1, 1], [Number.NaN, 1], [0, 0.5, 1, 0.4]])
      expect(() => writeTogether(fd, new Uint8Array(1), Float64Array.from(places))).toThrow(RangeError)
    expect(() => writeTogether(fd, [1] as unknown as Uint8Array, Float64Array.of(0, 1))).toThrow(TypeError)
  })

  it("are written by a thread where no process can be made", () => {
    const forbid = compiled("forbid-processes", folder)
    const script = `
      import { spawnSync } from "node:child_process"
      import { openSync, readFileSync } from "node:fs"
      import { writeTogether } from ${JSON.stringify(addon)}
      console.log(spawnSync("true").error.code)
      await writeTogether(openSync(${JSON.stringify(path)}, "r+"), new Uint8Array([201, 202]), Float64Array.of(5, 1, 9, 1))
      const bytes = readFileSync(${JSON.stringify(path)})
      console.log(bytes[5], bytes[9])`
    const run = spawnSync(forbid, [process.execPath, "--input-type=module", "-e", script], {
      encoding: "utf8",
      timeout: 15_000,
    })
    expect(run.stderr).toBe("")
    expect(run.stdout).toBe("EAGAIN\n201 202\n")
  })

  it("are all written, or none, when the process is killed", async () => {
    const target = join(folder, "together")
    const count = 2048
    for (let round = 0; round < 5; round++) {
      writeFileSync(target, Buffer.alloc(count * 512))
      const script = `
        import { openSync } from "node:fs"
        import { lockFile, writeTogether } from ${JSON.stringify(addon)}
        const fd = openSync(${JSON.stringify(target)}, "r+")
        lockFile(fd, true)
        const places = new Float64Array(${count * 2}).map((_, i) => (i % 2 === 0 ? i * 256 : 8))
        process.stdout.write("ready")
        for (let value = 1; ; value = (value + 1) % 256)
          await writeTogether(fd, new Uint8Array(${count * 8}).fill(value), places)`
      const child = spawn(process.execPath, ["--input-type=module", "-e", script], {
        stdio: ["ignore", "pipe", "inherit"],
      })
      const exited = once(child, "exit")
      await once(child.stdout, "data")
      await new Promise((resolve) => setTimeout(resolve, 20 + round * 7))
      child.kill("SIGKILL")
      await exited
      // Who writes is a process of its own, and has the lock until it is done.
      const other = openSync(target, "r+")
      await vi.waitFor(() => expect(lockFile(other, true)).toBe(true), 10_000)
      closeSync(other)
      const bytes = readFileSync(target)
      const values = new Set(Array.from({ length: count }, (_, i) => bytes[i * 512]))
      expect(values.size).toBe(1)
      expect(values).not.toEqual(new Set([0]))
    }
  })
})
