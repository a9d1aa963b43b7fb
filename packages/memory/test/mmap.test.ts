import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { Worker } from "node:worker_threads"
import { ConfigError, StateError, SystemError } from "@virtkit/interface"
import { fromShared, GuestMemoryMap, heapMemory } from "@virtkit/memory"
import { type MmapBacking, mmapMemory, mmapPage, mmapRegion } from "@virtkit/memory/mmap"
import { afterAll, describe, expect, it } from "vitest"

const PAGE = 4096
const MiB = 2 ** 20
const GiB = 2 ** 30
const folder = mkdtempSync(join(tmpdir(), "virtkit-mmap-"))
afterAll(() => rmSync(folder, { recursive: true }))

setFlagsFromString("--expose-gc")
const gc = runInNewContext("gc") as () => void
const status = (field: string) =>
  Number(new RegExp(`${field}:\\s+(\\d+)`).exec(readFileSync("/proc/self/status", "latin1"))![1]) * 1024
const mappings = () => readFileSync("/proc/self/maps", "latin1").split("\n").length
const descriptors = () => readdirSync("/proc/self/fd").length
const freeHugePages = Number(readFileSync("/proc/sys/vm/nr_hugepages", "latin1"))

const backings: [string, MmapBacking][] = [
  ["anonymous", "anonymous"],
  ["memfd", "memfd"],
  ["shared file", { file: join(folder, "shared") }],
]

describe.each(backings)("mmapMemory, %s", (_, backing) => {
  it("has both parts of RAM, with host addresses that fit together", () => {
    const memory = mmapMemory(
      [
        { guestAddress: 0, size: 4 * MiB },
        { guestAddress: 4 * GiB, size: 2 * MiB },
      ],
      { backing },
    )
    memory.writeUint32(4 * MiB - 4, 1)
    memory.writeUint32(4 * GiB, 2)
    expect(memory.readUint32(4 * MiB - 4)).toBe(1)
    expect(memory.readUint32(0)).toBe(0)
    expect(memory.readUint32(4 * GiB)).toBe(2)
    const base = memory.hostAddress(0, 4 * MiB)
    expect(base).toBeGreaterThan(0)
    expect(base % PAGE).toBe(0)
    expect(memory.hostAddress(4 * MiB - 1, 1)).toBe(base + 4 * MiB - 1)
    expect(memory.hostAddress(4 * MiB - 1, 2)).toBe(0)
    expect(memory.hostAddress(4 * GiB + 16, 4)).toBe(memory.regions[1]!.hostAddress + 16)
    memory.close()
    expect(() => memory.readUint8(0)).toThrow(StateError)
  })

  it("gives all back: resident memory, mappings and descriptors are flat over 200 rounds", async () => {
    const round = () => {
      const memory = mmapMemory(8 * MiB, { backing, hugePages: false })
      memory.fill(0, 2 * MiB, 1)
      memory.close()
    }
    const settle = async () => {
      gc()
      await new Promise((resolve) => setImmediate(resolve))
      gc()
      await new Promise((resolve) => setImmediate(resolve))
    }
    for (let i = 0; i < 10; i++) round()
    await settle()
    const before = { rss: status("VmRSS"), maps: mappings(), fds: descriptors() }
    for (let i = 0; i < 200; i++) {
      round()
      if (i % 50 === 49) await settle()
    }
    expect(descriptors()).toBe(before.fds)
    const flat = () => status("VmRSS") - before.rss < 16 * MiB && mappings() - before.maps < 10
    // V8 frees buffers on another thread.
    for (let i = 0; i < 50 && !flat(); i++) await settle()
    expect(status("VmRSS") - before.rss).toBeLessThan(16 * MiB)
    expect(mappings() - before.maps).toBeLessThan(10)
  })
})

describe("mmapMemory", () => {
  it("holds more than 4 GiB in one region, of which only touched pages cost memory", () => {
    const before = status("VmRSS")
    const memory = mmapMemory(9 * GiB, { hugePages: false })
    expect(memory.regions[1]!.size).toBe(6 * GiB)
    const end = 10 * GiB
    memory.writeBigUint64(end - 8, 0x1234n)
    memory.writeUint32(8 * GiB + 4, 77)
    memory.write(end - 2 * PAGE, new Uint8Array(PAGE).fill(9))
    memory.fill(9 * GiB - 10, 100, 3)
    expect(memory.readBigUint64(end - 8)).toBe(0x1234n)
    expect(memory.readUint32(8 * GiB + 4)).toBe(77)
    expect(memory.readUint32(4 * GiB + 4)).toBe(0)
    expect(memory.readUint8(end - PAGE - 1)).toBe(9)
    expect(memory.readUint8(9 * GiB + 89)).toBe(3)
    expect(memory.readUint8(9 * GiB + 90)).toBe(0)
    expect(status("VmRSS") - before).toBeLessThan(32 * MiB)
    memory.close()
  })

  it("hands a memfd out by which others see the same memory", () => {
    const memory = mmapMemory(2 * MiB, { backing: "memfd" })
    const file = memory.regions[0]!.file!
    memory.writeUint8(5, 9)
    const bytes = new Uint8Array(1)
    const fd = openSync(`/proc/self/fd/${file.fd}`, "r")
    readSync(fd, bytes, 0, 1, file.offset + 5)
    closeSync(fd)
    expect(bytes[0]).toBe(9)
    memory.close()
  })

  it("writes a shared file and leaves a private one alone", () => {
    const file = join(folder, "ram")
    const shared = mmapMemory(
      [
        { guestAddress: PAGE, size: PAGE },
        { guestAddress: 4 * PAGE, size: PAGE },
      ],
      {
        backing: { file },
      },
    )
    shared.writeUint8(4 * PAGE, 42)
    shared.close()
    expect(statSync(file).size).toBe(2 * PAGE)
    expect(readFileSync(file)[PAGE]).toBe(42)

    const own = mmapMemory(2 * PAGE, { backing: { file, shared: false } })
    expect(own.readUint8(PAGE)).toBe(42)
    expect(own.regions[0]!.file).toBeUndefined()
    own.writeUint8(PAGE, 1)
    own.close()
    expect(readFileSync(file)[PAGE]).toBe(42)
  })

  it("allocates beforehand when asked", () => {
    const before = status("VmRSS")
    const memory = mmapMemory(32 * MiB, { prealloc: true })
    expect(status("VmRSS") - before).toBeGreaterThan(30 * MiB)
    memory.close()
  })

  it("has pages for registers", () => {
    const page = mmapPage()
    expect(page.view.byteLength).toBe(PAGE)
    expect(page.hostAddress % PAGE).toBe(0)
    page.view.setUint32(PAGE - 4, 1)
  })

  it("says what is wrong in one line", () => {
    const descriptorsBefore = descriptors()
    expect(() => mmapMemory([{ guestAddress: 0, size: 2 ** 50 }])).toThrow(ConfigError)
    expect(() => mmapMemory(PAGE, { backing: { file: "/nonexistent/x" } })).toThrow(SystemError)
    expect(() => mmapMemory(PAGE, { backing: { file: "/dev/null" } })).toThrow(/ftruncate/)
    const short = join(folder, "short")
    writeFileSync(short, "x")
    expect(() => mmapMemory(PAGE, { backing: { file: short, shared: false } })).toThrow(
      new ConfigError(`memory file ${short} has 1 bytes, 4096 are needed`),
    )
    expect(() => mmapMemory(PAGE, { backing: "hugetlb" })).toThrow(/not a multiple of the huge page size/)
    expect(() => mmapRegion(1, PAGE)).not.toThrow()
    expect(descriptors()).toBe(descriptorsBefore)
    expect(existsSync("/nonexistent")).toBe(false)
  })

  it(`uses huge pages or says how to get them (this host has ${freeHugePages})`, () => {
    const make = () => mmapMemory(2 * MiB, { backing: "hugetlb" })
    if (freeHugePages === 0) {
      expect(make).toThrow(/set more huge pages aside, as in: sysctl vm.nr_hugepages=N/)
      return
    }
    const memory = make()
    memory.writeUint8(MiB, 1)
    expect(memory.readUint8(MiB)).toBe(1)
    memory.close()
  })
})

describe("share", () => {
  it("lets a worker use the same memory", async () => {
    const memory = mmapMemory(6 * GiB)
    memory.writeUint32(4 * GiB, 10)
    const shared = memory.share()
    const worker = new Worker(
      `const { workerData, parentPort } = require("node:worker_threads")
       const r = workerData.regions[1]
       const view = new DataView(r.buffer, r.byteOffset, r.size)
       view.setUint32(2 * 2 ** 30, view.getUint32(0, true) + 1, true)
       parentPort.postMessage(r.hostAddress)`,
      { eval: true, workerData: shared },
    )
    const ended = new Promise((resolve) => worker.once("exit", resolve))
    const hostAddress = await new Promise((resolve) => worker.once("message", resolve))
    await ended
    expect(hostAddress).toBe(memory.hostAddress(4 * GiB, 1))
    expect(memory.readUint32(6 * GiB)).toBe(11)

    const other = fromShared(structuredClone(shared))
    other.writeUint32(100, 5)
    expect(memory.readUint32(100)).toBe(5)
    expect(other.hostAddress(100, 4)).toBe(memory.hostAddress(100, 4))
    other.close()
    expect(memory.readUint32(100)).toBe(5)
    memory.close()
  })

  it("needs shared buffers", () => {
    expect(() => heapMemory(PAGE).share()).toThrow(StateError)
    const memory = heapMemory(PAGE, { shared: true })
    const other = fromShared(memory.share())
    other.writeUint8(1, 2)
    expect(memory.readUint8(1)).toBe(2)
    expect(new GuestMemoryMap([]).share().regions).toEqual([])
  })
})
