import { closeSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { VirtkitError } from "@virtkit/interface"
import { mmapMemory } from "@virtkit/memory/mmap"
import { createQcow2 } from "@virtkit/virtio-blk"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { parseHeader } from "../src/backends/qcow2/header.js"
import { qcow2Backend } from "../src/backends/qcow2/index.js"
import { drive, noQemu, qemuImg, qemuIo, random } from "./qcow2-helpers.js"

const MiB = 2 ** 20
/** More with VIRTKIT_QCOW2_MUTANTS. */
const MUTANTS = Number(process.env.VIRTKIT_QCOW2_MUTANTS ?? 150)
/** What no image may get at. */
const SECRET = 0x5ec2e7

const folder = mkdtempSync(join(tmpdir(), "virtkit-hostile-"))
const path = (name: string) => join(folder, name)
const memory = mmapMemory(MiB)
afterAll(() => rmSync(folder, { recursive: true }))

/** Images with all kinds of entries, by name. */
const seeds = new Map<string, Buffer>()

beforeAll(async () => {
  await createQcow2({ path: path("seed"), size: 4 * MiB, clusterSize: 4096 })
  await createQcow2({ path: path("v2"), size: 4 * MiB, clusterSize: 512, version: 2 })
  for (const name of ["seed", "v2"]) {
    const backend = await open(path(name))
    const run = drive(backend, memory, 4)
    for (const offset of [0, 65536, MiB, 2 * MiB + 512]) {
      memory.fill(0, 16384, 1 + (offset % 251))
      await run({ op: 1, offset, length: 16384 })
    }
    await run({ op: 4, offset: MiB, length: 8192, unmap: false })
    await run({ op: 3, offset: 65536, length: 8192 })
    await backend.close()
    seeds.set(name, readFileSync(path(name)))
  }
  if (noQemu !== "") return
  writeFileSync(path("text"), "some text that can be compressed\n".repeat(20_000))
  for (const type of ["zlib", "zstd"]) {
    const made = path(`made-${type}`)
    const options = `cluster_size=4k,compression_type=${type}`
    qemuImg("convert", "-c", "-O", "qcow2", "-f", "raw", "-o", options, path("text"), made)
    qemuImg("snapshot", "-c", "s", made)
    qemuIo(made, "write -P 3 8k 20k")
    seeds.set(type, readFileSync(made))
  }
  const extended = path("extended")
  qemuImg("create", "-q", "-f", "qcow2", "-o", "extended_l2=on,cluster_size=16k", extended, "4M")
  qemuIo(extended, "write -P 1 1k 3k", "write -P 2 100k 33k")
  seeds.set("extended", readFileSync(extended))
})

function open(image: string, readonly = false) {
  return qcow2Backend({ path: image, readonly, unsafe: false, direct: false, backing: [], depth: 8 })
}

/** Changes a few bytes, mostly where numbers are: in the header and the tables. */
function mutate(image: Buffer, next: (below: number) => number): Buffer {
  const bytes = Buffer.from(image)
  const clusterSize = 2 ** bytes.readUInt32BE(20)
  const tables = [0, Number(bytes.readBigUInt64BE(40)), Number(bytes.readBigUInt64BE(48))]
  for (const table of tables.slice(1)) {
    const inner = Number(bytes.readBigUInt64BE(table) & 0xfffffffffffe00n)
    if (inner < bytes.length) tables.push(inner)
  }
  const interesting = [0, 1, 2, 0x40, 0x7f, 0x80, 0xc0, 0xff]
  for (let i = 0, count = 1 + next(4); i < count; i++) {
    const table = tables[next(tables.length)]!
    const room = table === 0 ? 112 : Math.min(clusterSize, next(2) === 0 ? 64 : clusterSize)
    const at = Math.min(bytes.length - 9, table + next(room))
    switch (next(4)) {
      case 0:
        bytes[at] = interesting[next(interesting.length)]!
        break
      case 1:
        bytes[at] = next(256)
        break
      case 2: {
        // An entry that names another table, or a place far away.
        const aligned = at - (at % 8)
        const target = next(3) === 0 ? 2 ** 40 + next(2 ** 30) * 4096 : tables[next(tables.length)]!
        bytes.writeBigUInt64BE(BigInt(target) | (next(2) === 0 ? 0n : 1n << 63n), aligned)
        break
      }
      default:
        bytes.copy(bytes, at, tables[next(tables.length)]!, tables[next(tables.length)]! + 8)
    }
  }
  return next(20) === 0 ? bytes.subarray(0, next(bytes.length)) : bytes
}

/** Uses an image as a guest would. Resolves to how many requests failed; throws when anything else than errors comes of it. */
async function exercise(image: string, readonly: boolean, next: (below: number) => number): Promise<number> {
  const backend = await open(image, readonly)
  let failed = 0
  try {
    const run = drive(backend, memory, 8)
    const { size } = backend.info
    const offsets = [0, 65536, MiB, 2 * MiB, 1024 * next(4096), size - 16384]
    for (let i = 0; i < 24; i++) {
      const offset =
        Math.floor(Math.max(0, Math.min(offsets[next(offsets.length)]!, size - 16384)) / 512) * 512
      const length = Math.min(size, 512 * (1 + next(32)))
      const op = readonly ? 0 : next(5)
      const error = await run({ op, offset, length: op === 2 ? 0 : length, unmap: next(2) === 0 })
      expect(Number.isInteger(error) && error >= 0 && error < 200).toBe(true)
      if (error !== 0) failed++
    }
  } finally {
    await backend.close().catch((error: Error) => expect(error).toBeInstanceOf(Error))
  }
  return failed
}

describe("bad-input #26: damaged images", () => {
  it("give typed errors and failed requests, grow within reason, and leave no descriptor behind", async () => {
    const next = random(26)
    const image = path("mutant")
    const fds = readdirSync("/proc/self/fd").length
    const tally = { refused: 0, failing: 0, fine: 0 }
    const names = [...seeds.keys()]
    for (let i = 0; i < MUTANTS; i++) {
      const name = names[next(names.length)]!
      writeFileSync(image, mutate(seeds.get(name)!, next))
      try {
        const failed = await exercise(image, name === "extended" || next(3) === 0, next)
        if (failed > 0) tally.failing++
        else tally.fine++
      } catch (error) {
        expect(error, `mutant ${i} of ${name}`).toBeInstanceOf(VirtkitError)
        tally.refused++
      }
      expect(readFileSync(image).length).toBeLessThan(128 * MiB)
    }
    expect(readdirSync("/proc/self/fd").length).toBe(fds)
    // The mutations reach all three outcomes.
    expect(Math.min(tally.refused, tally.failing, tally.fine)).toBeGreaterThan(0)
    if (process.env.VIRTKIT_QCOW2_MUTANTS !== undefined) console.log(tally)
  }, 600_000)

  it("bad-input #25: whatever an image says, only it is read", async () => {
    const secret = path("secret")
    writeFileSync(
      secret,
      Buffer.alloc(65536, Uint8Array.of(SECRET >> 16, (SECRET >> 8) & 0xff, SECRET & 0xff)),
    )
    const next = random(25)
    const bytes = Buffer.from(seeds.get("seed")!)
    // A backing file name in the header, at any place that the parser may be talked into.
    for (let i = 0; i < 40; i++) {
      const mutant = Buffer.from(bytes)
      const at = 104 + next(300)
      mutant.write(secret, at)
      mutant.writeBigUInt64BE(BigInt(next(4) === 0 ? next(2 ** 31) : at), 8)
      mutant.writeUInt32BE(next(4) === 0 ? next(2 ** 31) : secret.length, 16)
      writeFileSync(path("tempting"), mutant)
      await expect(open(path("tempting"))).rejects.toBeInstanceOf(VirtkitError)
    }
  })
})

describe("headers", () => {
  it("of random bytes are parsed or refused with a typed error, and name nothing outside the file", () => {
    const next = random(1)
    const base = seeds.get("seed")!.subarray(0, 4096)
    for (let i = 0; i < 20_000; i++) {
      const bytes = Buffer.from(base)
      for (let n = 0, count = 1 + next(6); n < count; n++) bytes[next(next(4) === 0 ? 4096 : 112)] = next(256)
      const length = 2 ** next(40)
      try {
        const header = parseHeader("x", bytes.subarray(0, next(10) === 0 ? next(4096) : 4096), length)
        expect(header.l1Offset + header.l1Size * 8).toBeLessThanOrEqual(length)
        expect(header.l1Size * 8).toBeLessThanOrEqual(8 * MiB)
        expect(header.refcountTableClusters * header.clusterSize).toBeLessThanOrEqual(8 * MiB)
        expect(header.refcountTableOffset % header.clusterSize).toBe(0)
      } catch (error) {
        expect(error).toBeInstanceOf(VirtkitError)
      }
    }
  })

  it.each([
    ["no qcow2", (b: Buffer) => b.writeUInt8(0, 0), "it is not a qcow2 image"],
    ["version 4", (b: Buffer) => b.writeUInt32BE(4, 4), "qcow2 version 4 is not supported"],
    ["clusters of 2^31", (b: Buffer) => b.writeUInt32BE(31, 20), "clusters of 2^31 bytes are not possible"],
    ["encryption", (b: Buffer) => b.writeUInt32BE(1, 32), "encrypted images are not supported"],
    [
      "a data file",
      (b: Buffer) => b.writeUInt8(4, 79),
      "its data is in another file, which is not supported",
    ],
    ["an unknown feature", (b: Buffer) => b.writeUInt8(0x20, 79), "features that are not known here: 0x20"],
    ["a huge L1 table", (b: Buffer) => b.writeUInt32BE(0xffffffff, 36), "which is too many"],
    ["a short L1 table", (b: Buffer) => b.writeUInt32BE(0, 36), "its L1 table has 0 entries and needs"],
    ["a huge refcount table", (b: Buffer) => b.writeUInt32BE(0xffffffff, 56), "which is too many"],
    ["a header of 4 GiB", (b: Buffer) => b.writeUInt32BE(0xfffffff8, 100), "is not possible"],
    ["many snapshots", (b: Buffer) => b.writeUInt32BE(0xffffffff, 60), "snapshots, which is too many"],
    ["counts of 2^9 bits", (b: Buffer) => b.writeUInt32BE(9, 96), "reference counts of 2^9 bits"],
    ["a disk of 3 bytes", (b: Buffer) => b.writeBigUInt64BE(3n, 24), "a disk of 3 bytes is not possible"],
  ])("say what is wrong: %s", (_name, edit, message) => {
    const bytes = Buffer.from(seeds.get("seed")!)
    edit(bytes)
    expect(() => parseHeader("x", bytes, bytes.length)).toThrow(message)
  })

  it("of files that are no images are refused without a descriptor left open", async () => {
    const fds = readdirSync("/proc/self/fd").length
    writeFileSync(path("nothing"), "")
    for (const name of ["nothing", "secret"].map(path)) {
      closeSync(openSync(name, "a"))
      await expect(open(name)).rejects.toBeInstanceOf(VirtkitError)
    }
    await expect(open(folder)).rejects.toBeInstanceOf(VirtkitError)
    await expect(open("/dev/null")).rejects.toThrow("neither a file nor a block device")
    expect(readdirSync("/proc/self/fd").length).toBe(fds)
  })
})
