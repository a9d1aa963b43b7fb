import {
  closeSync,
  fstatSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { Worker } from "node:worker_threads"
import { MemoryMapping, memfdCreate } from "@virtkit/native"
import { afterAll, describe, expect, it } from "vitest"

const PAGE = 4096
const MiB = 2 ** 20
const folder = mkdtempSync(join(tmpdir(), "virtkit-memory-"))
afterAll(() => rmSync(folder, { recursive: true }))

setFlagsFromString("--expose-gc")
const gc = runInNewContext("gc") as () => void

const view = (m: MemoryMapping) => new DataView(m.buffer, m.byteOffset, m.size)
const mappings = () => readFileSync("/proc/self/maps", "latin1").split("\n").length
const resident = () => Number(/VmRSS:\s+(\d+)/.exec(readFileSync("/proc/self/status", "latin1"))![1]) * 1024
/** Lets finalizers run, which need a turn of the event loop. */
async function collect() {
  for (let i = 0; i < 3; i++) {
    gc()
    await new Promise((resolve) => setImmediate(resolve))
  }
}

describe("MemoryMapping", () => {
  it("is zeroed, aligned and writable", () => {
    const m = new MemoryMapping({ size: 4 * MiB })
    expect(m.hostAddress % (2 * MiB)).toBe(0)
    expect(m.buffer.byteLength).toBeGreaterThanOrEqual(m.byteOffset + m.size)
    expect(view(m).getUint32(4 * MiB - 4)).toBe(0)
    view(m).setUint32(0, 0xdeadbeef)
    expect(view(m).getUint32(0)).toBe(0xdeadbeef)
    m.release()
  })

  it("aligns a page to a page", () => {
    const m = new MemoryMapping({ size: PAGE, plain: true })
    expect(m.hostAddress % PAGE).toBe(0)
    view(m).setUint8(PAGE - 1, 5)
    m.release()
    expect(view(m).getUint8(PAGE - 1)).toBe(5)
  })

  it("reaches beyond 4 GiB", () => {
    const m = new MemoryMapping({ size: 5 * 1024 * MiB })
    view(m).setUint32(5 * 1024 * MiB - 4, 1)
    view(m).setUint32(2 ** 32, 2)
    expect(view(m).getUint32(5 * 1024 * MiB - 4)).toBe(1)
    expect(view(m).getUint32(0)).toBe(0)
    m.release()
  })

  it("shares a memfd between two mappings", () => {
    const fd = memfdCreate("test", 2 * MiB)
    const a = new MemoryMapping({ size: MiB, fd })
    const b = new MemoryMapping({ size: MiB, fd, fileOffset: MiB / 2 })
    const c = new MemoryMapping({ size: MiB, fd, shared: false })
    closeSync(fd)
    view(a).setUint32(MiB / 2, 7)
    expect(view(b).getUint32(0)).toBe(7)
    expect(view(c).getUint32(MiB / 2)).toBe(7)
    view(c).setUint32(MiB / 2, 8)
    expect(view(a).getUint32(MiB / 2)).toBe(7)
    for (const m of [a, b, c]) m.release()
  })

  it("seals a memfd's size", () => {
    const fd = memfdCreate("test", PAGE)
    expect(fstatSync(fd).size).toBe(PAGE)
    expect(() => ftruncateSync(fd, 0)).toThrow(/EPERM/)
    closeSync(fd)
  })

  it("maps a file, and refuses one that is too short", () => {
    const path = join(folder, "ram")
    writeFileSync(path, Buffer.alloc(2 * PAGE, 3))
    const fd = openSync(path, "r+")
    const m = new MemoryMapping({ size: PAGE, fd, fileOffset: PAGE })
    expect(view(m).getUint8(0)).toBe(3)
    view(m).setUint8(0, 9)
    const bytes = Buffer.alloc(1)
    readSync(fd, bytes, 0, 1, PAGE)
    expect(bytes[0]).toBe(9)
    expect(() => new MemoryMapping({ size: 3 * PAGE, fd })).toThrow(RangeError)
    m.release()
    closeSync(fd)
  })

  it("gives the memory back at release, keeps the buffer usable, and does so once", () => {
    const size = 64 * MiB
    const m = new MemoryMapping({ size, hugePages: false, populate: true })
    const full = resident()
    m.release()
    expect(full - resident()).toBeGreaterThan(size * 0.9)
    expect(view(m).getUint32(0)).toBe(0)
    view(m).setUint32(0, 1)
    m.release()
    expect(view(m).getUint32(0)).toBe(1)
  })

  it("keeps resident memory and mappings flat over 200 rounds, released or not", async () => {
    const round = (release: boolean) => {
      const m = new MemoryMapping({ size: 8 * MiB })
      for (let at = 0; at < m.size; at += 64 * 1024) view(m).setUint8(at, 1)
      if (release) m.release()
    }
    for (let i = 0; i < 20; i++) round(i % 2 === 0)
    await collect()
    const before = { rss: resident(), maps: mappings() }
    for (let i = 0; i < 200; i++) {
      round(i % 2 === 0)
      if (i % 20 === 19) await collect()
    }
    // V8 frees buffers on another thread.
    for (let i = 0; i < 50 && (resident() - before.rss > 16 * MiB || mappings() - before.maps > 9); i++)
      await collect()
    expect(resident() - before.rss).toBeLessThan(16 * MiB)
    expect(mappings() - before.maps).toBeLessThan(10)
  })

  it("reports what failed", () => {
    expect(() => new MemoryMapping({ size: 1 })).toThrow(RangeError)
    expect(() => new MemoryMapping({ size: PAGE + 1 })).toThrow(RangeError)
    expect(() => new MemoryMapping({ size: Number.NaN })).toThrow(RangeError)
    expect(() => new MemoryMapping({ size: 2 ** 50 })).toThrow(RangeError)
    expect(() => new MemoryMapping({ size: PAGE, alignment: 5000 })).toThrow(RangeError)
    expect(() => new MemoryMapping({} as never)).toThrow(TypeError)
    expect(() => Reflect.construct(MemoryMapping, [])).toThrow(TypeError)
    const fd = openSync(process.execPath, "r")
    expect(() => new MemoryMapping({ size: PAGE, fd })).toThrow(
      expect.objectContaining({ code: "EACCES", syscall: "mmap", errno: 13 }),
    )
    closeSync(fd)
  })

  it("is seen by a worker, and by this thread after the worker ended", async () => {
    const m = new MemoryMapping({ size: 2 * MiB })
    view(m).setUint32(8, 41)
    const worker = new Worker(
      `const { workerData, parentPort } = require("node:worker_threads")
       const v = new DataView(workerData.buffer, workerData.byteOffset, workerData.size)
       v.setUint32(8, v.getUint32(8) + 1)
       parentPort.postMessage("done")`,
      { eval: true, workerData: { buffer: m.buffer, byteOffset: m.byteOffset, size: m.size } },
    )
    await new Promise((resolve) => worker.once("exit", resolve))
    expect(view(m).getUint32(8)).toBe(42)
    m.release()
  })

  it("survives a worker that ends while it has mappings", async () => {
    const addon = new URL("../index.js", import.meta.url).href
    const worker = new Worker(
      `import(${JSON.stringify(addon)}).then(({ MemoryMapping }) => {
         const m = new MemoryMapping({ size: 4 << 20 })
         new DataView(m.buffer, m.byteOffset).setUint32(0, 1)
         require("node:worker_threads").parentPort.postMessage([m.buffer, m.byteOffset])
         globalThis.keep = m
       })`,
      { eval: true },
    )
    const ended = new Promise((resolve) => worker.once("exit", resolve))
    const [buffer, byteOffset] = await new Promise<[SharedArrayBuffer, number]>((resolve, reject) => {
      worker.once("message", resolve)
      worker.once("error", reject)
    })
    await ended
    // The worker's end released the mapping; the addresses are still this thread's buffer.
    const rest = new DataView(buffer, byteOffset)
    expect(rest.getUint32(0)).toBe(0)
    rest.setUint32(0, 5)
    expect(rest.getUint32(0)).toBe(5)
  })
})
