import { execFileSync, spawnSync } from "node:child_process"
import { copyFileSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs"
import { mmapMemory } from "@virtkit/memory/mmap"
import { createQcow2, inspectQcow2 } from "@virtkit/virtio-blk"
import { describe, expect, it } from "vitest"
import { qcow2Backend } from "../src/backends/qcow2/index.js"
import { DISCARD, type Disk, IOERR, OK, pattern, ranges } from "./helpers.js"
import {
  bench,
  check,
  contentByQemu,
  drive,
  flush,
  noQemu,
  qemuImg,
  qemuIo,
  random,
  randomBytes,
  readAll,
} from "./qcow2-helpers.js"

const MiB = 2 ** 20
const b = bench()

/** A raw file of 3 MiB: random bytes, zeros, and text that can be compressed. */
function content(name: string): { raw: string; bytes: Buffer } {
  const next = random(name.length)
  const bytes = Buffer.alloc(3 * MiB)
  randomBytes(next, MiB / 2).copy(bytes, 0)
  for (let at = MiB; at < 2.5 * MiB; at += 16) bytes.write(`line ${at % 977}\n`, at)
  const raw = b.path(`${name}.raw`)
  writeFileSync(raw, bytes)
  return { raw, bytes }
}

/** Writes in odd places with the image's disk, and the same into `bytes`. */
async function scribble(disk: Disk, bytes: Buffer): Promise<void> {
  const next = random(7)
  for (let i = 0; i < 30; i++) {
    const at = next(bytes.length / 512 - 100)
    const part = randomBytes(next, 512 * (1 + next(99)))
    expect((await disk.write(at, part)).status).toBe(OK)
    part.copy(bytes, at * 512)
  }
  expect((await disk.request(DISCARD, { out: [ranges([2048, 1024, 0])] })).status).toBe(OK)
  bytes.set((await disk.read(2048, MiB / 2)).data, MiB)
}

describe.skipIf(noQemu !== "")(`images made by qemu-img${noQemu}`, { timeout: 60_000 }, () => {
  const kinds: [string, string[]][] = [
    ["version 2", ["-o", "compat=0.10"]],
    ["version 3", []],
    ["clusters of 512", ["-o", "cluster_size=512"]],
    ["clusters of 2 MiB", ["-o", "cluster_size=2M"]],
    ["compressed", ["-c"]],
    ["compressed, version 2", ["-c", "-o", "compat=0.10"]],
    ["compressed, clusters of 4096", ["-c", "-o", "cluster_size=4k"]],
    ["compressed, clusters of 2 MiB", ["-c", "-o", "cluster_size=2M"]],
    ["compressed by zstd", ["-c", "-o", "compression_type=zstd"]],
    ["compressed by zstd, clusters of 4096", ["-c", "-o", "compression_type=zstd,cluster_size=4k"]],
    ["metadata preallocated", ["-o", "preallocation=metadata"]],
    ...[1, 2, 4, 8, 32, 64].map((bits): [string, string[]] => [
      `reference counts of ${bits} bits`,
      ["-o", `refcount_bits=${bits},cluster_size=4k`],
    ]),
    ["lazy reference counts", ["-o", "lazy_refcounts=on"]],
  ]
  it.each(kinds)("are read and written: %s", async (name, options) => {
    const { raw, bytes } = content(name.replaceAll(/\W/g, ""))
    const path = `${raw}.qcow2`
    qemuImg("convert", "-f", "raw", "-O", "qcow2", ...options, raw, path)
    const reader = await b.open(path, { readonly: true })
    expect((await readAll(reader)).equals(bytes)).toBe(true)
    await reader.device.close()
    const writer = await b.open(path)
    await scribble(writer, bytes)
    expect((await readAll(writer)).equals(bytes)).toBe(true)
    await writer.device.close()
    expect(check(path).report).toMatch(/No errors were found/)
    expect(contentByQemu(path).equals(bytes)).toBe(true)
    // And QEMU goes on with it.
    qemuIo(path, "write -P 9 100k 300k", "flush")
    bytes.fill(9, 102400, 409600)
    expect((await readAll(await b.open(path))).equals(bytes)).toBe(true)
  })

  it("with extended L2 entries are read, and refused for writing", async () => {
    const path = b.path("extended.qcow2")
    const bytes = Buffer.alloc(4 * MiB)
    const base = b.path("extended.base")
    randomBytes(random(3), 3 * MiB).copy(bytes)
    writeFileSync(base, bytes.subarray(0, 3 * MiB))
    const options = `extended_l2=on,cluster_size=64k,backing_file=${base},backing_fmt=raw`
    qemuImg("create", "-f", "qcow2", "-o", options, path, "4M")
    qemuIo(
      path,
      "write -P 1 2k 2k",
      "write -P 2 63k 6k",
      "write -z 10k 4k",
      "write -P 3 3500k 100k",
      "write -z 1M 1M",
    )
    bytes.fill(1, 2048, 4096).fill(2, 64512, 70656).fill(0, 10240, 14336)
    bytes.fill(3, 3500 * 1024, 3600 * 1024).fill(0, MiB, 2 * MiB)
    const reader = await b.open(path, { readonly: true, backing: [base] })
    expect((await readAll(reader)).equals(bytes)).toBe(true)
    await reader.device.close()
    await expect(b.open(path, { backing: [base] })).rejects.toThrow(/extended L2 entries can only be read/)
  })

  it("that were not closed get their reference counts back (lazy reference counts)", async () => {
    const path = b.path("dirty.qcow2")
    qemuImg("create", "-f", "qcow2", "-o", "lazy_refcounts=on,cluster_size=4k", path, "16M")
    spawnSync("qemu-io", ["-c", "write -P 5 1M 3M", "-c", "flush", "-c", "abort", path])
    expect((await inspectQcow2(path)).dirty).toBe(true)
    const reader = await b.open(path, { readonly: true })
    expect((await reader.read((2 * MiB) / 512, 512)).data).toEqual(new Uint8Array(512).fill(5))
    await reader.device.close()
    const writer = await b.open(path)
    expect((await writer.write(0, pattern(512, 3))).status).toBe(OK)
    await writer.device.close()
    expect((await inspectQcow2(path)).dirty).toBe(false)
    const bytes = Buffer.alloc(16 * MiB).fill(5, MiB, 4 * MiB)
    bytes.set(pattern(512, 3))
    expect(contentByQemu(path).equals(bytes)).toBe(true)
    const { status, report } = check(path)
    expect(report).toMatch(/No errors/)
    expect(status).toBe(0)
  })

  it("keep their snapshots: what those use is copied before it is written", async () => {
    const { raw, bytes } = content("snapshots")
    const path = `${raw}.qcow2`
    qemuImg("convert", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=4k", raw, path)
    qemuImg("snapshot", "-c", "before", path)
    qemuIo(path, "write -P 77 0 64k")
    qemuImg("snapshot", "-c", "later", path)
    const { snapshots } = await inspectQcow2(path)
    expect(snapshots.map(({ id, name, size }) => ({ id, name, size }))).toEqual([
      { id: "1", name: "before", size: 3 * MiB },
      { id: "2", name: "later", size: 3 * MiB },
    ])
    const now = Buffer.from(bytes).fill(77, 0, 65536)
    const later = Buffer.from(now)
    const disk = await b.open(path)
    await scribble(disk, now)
    await disk.device.close()
    expect(check(path).report).toMatch(/No errors were found/)
    expect(contentByQemu(path).equals(now)).toBe(true)
    qemuImg("snapshot", "-a", "later", path)
    expect(contentByQemu(path).equals(later)).toBe(true)
    qemuImg("snapshot", "-a", "before", path)
    expect(contentByQemu(path).equals(bytes)).toBe(true)
    expect(check(path).report).toMatch(/No errors were found/)
  })

  it("lose bitmaps, which would be wrong after a write", async () => {
    const path = b.path("bitmap.qcow2")
    qemuImg("create", "-f", "qcow2", path, "4M")
    qemuImg("bitmap", "--add", path, "b0")
    const disk = await b.open(path)
    await disk.write(0, pattern(512, 1))
    await disk.device.close()
    const info = JSON.parse(qemuImg("info", "--output=json", path))
    expect(info["format-specific"].data.bitmaps ?? []).toEqual([])
  })
})

describe.skipIf(noQemu !== "")(`images made here${noQemu}`, { timeout: 60_000 }, () => {
  it.each([
    { clusterSize: 512, size: 32 * MiB },
    { clusterSize: 65536, size: 2 ** 40 },
    { clusterSize: 2 * MiB, size: 512 },
    { clusterSize: 65536, size: 10 * MiB, version: 2 as const },
    { clusterSize: 65536, size: 10 * MiB, lazyRefcounts: false },
  ])("are what was asked for: %o", async (options) => {
    const path = b.path(`made-${JSON.stringify(options).replaceAll(/\W/g, "")}.qcow2`)
    await createQcow2({ path, ...options })
    expect(check(path).report).toMatch(/No errors were found/)
    const info = JSON.parse(qemuImg("info", "--output=json", path))
    expect(info["virtual-size"]).toBe(options.size)
    expect(info["cluster-size"]).toBe(options.clusterSize)
    expect(info["format-specific"].data.compat).toBe(options.version === 2 ? "0.10" : "1.1")
    expect(info["format-specific"].data["lazy-refcounts"] ?? false).toBe(
      options.lazyRefcounts ?? options.version !== 2,
    )
    await expect(createQcow2({ path, ...options })).rejects.toThrow(/exists already/)
  })

  it("grow: reference counts and their table with what is written, the L1 table with the disk", async () => {
    const path = b.path("grow.qcow2")
    await createQcow2({ path, size: MiB + 512, clusterSize: 512 })
    const disk = await b.open(path)
    const bytes = Buffer.alloc(10 * MiB)
    const next = random(5)
    const step = 512 * 1024
    for (const size of [MiB + 512, 4 * MiB, 10 * MiB]) {
      await disk.device.resize(size)
      expect(disk.device.size).toBe(size)
      for (let at = 0; at < size; at += step) {
        const part = randomBytes(next, Math.min(step, size - at))
        expect((await disk.write(at / 512, part)).status).toBe(OK)
        bytes.set(part, at)
      }
      await flush(disk)
    }
    expect((await readAll(disk)).equals(bytes)).toBe(true)
    await disk.device.close()
    const { status, report } = check(path)
    expect(report).toMatch(/No errors were found/)
    expect(status).toBe(0)
    expect(contentByQemu(path).equals(bytes)).toBe(true)
  })

  it("are as long as what is used of them, and give discarded space back", async () => {
    const path = b.path("space.qcow2")
    await createQcow2({ path, size: 64 * MiB })
    const disk = await b.open(path)
    for (let at = 0; at < 8; at++) await disk.write((at * MiB) / 512, randomBytes(random(at), MiB))
    await flush(disk)
    const used = statSync(path).blocks
    expect((await disk.request(DISCARD, { out: [ranges([0, (8 * MiB) / 512, 0])] })).status).toBe(OK)
    await disk.device.close()
    expect(statSync(path).blocks).toBeLessThan(used / 4)
    expect(statSync(path).size).toBeLessThan(9 * MiB)
    expect(check(path).status).toBe(0)
  })
})

describe("a guest that writes and discards without end", () => {
  it("and never flushes makes the file no longer than its disk and what waits to be free", async () => {
    const path = b.path("churn.qcow2")
    await createQcow2({ path, size: 4 * MiB })
    const backend = await qcow2Backend({
      path,
      readonly: false,
      unsafe: true,
      direct: false,
      backing: [],
      depth: 4,
    })
    const run = drive(backend, mmapMemory(MiB), 4)
    for (let i = 0; i < 80; i++) {
      expect(await run({ op: 1, offset: 0, length: MiB })).toBe(0)
      expect(await run({ op: 3, offset: 0, length: MiB })).toBe(0)
    }
    // 80 MiB were written.
    expect(statSync(path).size).toBeLessThan(56 * MiB)
    await backend.close()
    expect(statSync(path).blocks * 512).toBeLessThan(MiB)
  })
})

describe("a chain", () => {
  async function chain(name: string): Promise<{ base: string; middle: string; top: string; bytes: Buffer }> {
    const [base, middle, top] = ["base", "middle", "top"].map((part) => b.path(`${name}.${part}`)) as [
      string,
      string,
      string,
    ]
    const bytes = Buffer.alloc(4 * MiB)
    randomBytes(random(1), 2 * MiB).copy(bytes)
    writeFileSync(base, bytes.subarray(0, 2 * MiB))
    await createQcow2({
      path: middle,
      size: 3 * MiB,
      clusterSize: 4096,
      backing: { path: base, format: "raw" },
    })
    const disk = await b.open(middle, { backing: [base] })
    await disk.write(3, pattern(512 * 50, 1))
    bytes.set(pattern(512 * 50, 1), 512 * 3)
    await disk.device.close()
    await createQcow2({ path: top, size: 4 * MiB, backing: { path: `${name}.middle`, format: "qcow2" } })
    return { base, middle, top, bytes }
  }

  it("is read through, and only its top is written", async () => {
    const { base, middle, top, bytes } = await chain("through")
    const before = [readFileSync(base), readFileSync(middle)]
    const disk = await b.open(top, { backing: [b.folder] })
    expect((await readAll(disk)).equals(bytes)).toBe(true)
    for (const at of [5, 100, 3 * 2048 - 1, 4 * 2048 - 9]) {
      expect((await disk.write(at, pattern(512 * 9, at))).status).toBe(OK)
      bytes.set(pattern(512 * 9, at), at * 512)
    }
    expect((await readAll(disk)).equals(bytes)).toBe(true)
    await disk.device.close()
    expect([base, middle].map((path, i) => readFileSync(path).equals(before[i]!))).toEqual([true, true])
    if (noQemu === "") {
      expect(check(top).status).toBe(0)
      expect(contentByQemu(top).equals(bytes)).toBe(true)
    }
  })

  it("bad-input #25: needs leave for each backing file, wherever links lead", async () => {
    const { base, middle, top } = await chain("leave")
    await expect(b.open(top)).rejects.toThrow(`it has the backing file ${middle}, which was not allowed`)
    await expect(b.open(top, { backing: [middle] })).rejects.toThrow(
      `${base} is not among those that were allowed`,
    )
    await expect(b.open(top, { backing: ["/etc", "/usr"] })).rejects.toThrow(
      "is not among those that were allowed",
    )
    await expect(b.open(top, { backing: [`${b.folder}/leave`] })).rejects.toThrow("does not exist")
    await b.open(top, { backing: [middle, base] })
    const link = b.path("link.qcow2")
    const away = b.path("away")
    execFileSync("ln", ["-s", "/etc/hostname", away])
    await createQcow2({ path: link, size: MiB, backing: { path: away, format: "raw" } })
    await expect(b.open(link, { backing: [b.folder] })).rejects.toThrow(
      "is not among those that were allowed",
    )
  })

  it("bad-input #25: no format is guessed, no name but that of a file is taken, no loop is followed", async () => {
    const other = b.path("other.qcow2")
    const make = async (name: string, backing: string) => {
      await createQcow2({ path: b.path(name), size: MiB, backing: { path: backing, format: "raw" } })
      return readFileSync(b.path(name))
    }
    const bytes = await make("plain.qcow2", "base")
    // Extension "backing format" becomes an unknown one.
    writeFileSync(other, bytes.fill(1, 104, 108))
    writeFileSync(b.path("base"), Buffer.alloc(MiB))
    await expect(b.open(other, { backing: [b.folder] })).rejects.toThrow(
      "does not say the format of its backing file",
    )
    await make("json.qcow2", 'json:{"file.filename":"/etc/passwd"}')
    await expect(b.open(b.path("json.qcow2"), { backing: ["/"] })).rejects.toThrow("is not a file")
    await make("nbd.qcow2", "nbd://localhost/x")
    await expect(b.open(b.path("nbd.qcow2"), { backing: ["/"] })).rejects.toThrow("is not a file")
    const loop = b.path("loop.qcow2")
    await createQcow2({ path: loop, size: MiB, backing: { path: "loop.qcow2", format: "qcow2" } })
    await expect(b.open(loop, { backing: [b.folder] })).rejects.toThrow("lead back to")
    const one = b.path("one.qcow2")
    await createQcow2({ path: one, size: MiB, backing: { path: "two.qcow2", format: "qcow2" } })
    await createQcow2({
      path: b.path("two.qcow2"),
      size: MiB,
      backing: { path: "one.qcow2", format: "qcow2" },
    })
    await expect(b.open(one, { backing: [b.folder] })).rejects.toThrow("lead back to")
  })
})

describe("damage", () => {
  /** An image of two L2 tables with some data; `edit` changes its bytes. */
  async function damaged(
    name: string,
    edit: (bytes: Buffer) => void,
  ): Promise<{ path: string; bytes: Buffer }> {
    const path = b.path(`damaged-${name}.qcow2`)
    await createQcow2({ path, size: 8 * MiB, clusterSize: 4096 })
    const disk = await b.open(path)
    await disk.write(0, pattern(8192, 1))
    await disk.write((4 * MiB) / 512, pattern(8192, 2))
    await disk.device.close()
    const bytes = readFileSync(path)
    edit(bytes)
    writeFileSync(path, bytes)
    return { path, bytes }
  }
  const l1 = (bytes: Buffer) => Number(bytes.readBigUInt64BE(40))
  const l2 = (bytes: Buffer) => Number(bytes.readBigUInt64BE(l1(bytes)) & 0xfffffffffffe00n)

  it.each([
    ["misaligned data", (bytes: Buffer) => bytes.writeUInt8(2, l2(bytes) + 6)],
    ["an L2 table behind the file", (bytes: Buffer) => bytes.writeUInt8(1, l1(bytes) + 2)],
    ["a compressed cluster of noise", (bytes: Buffer) => bytes.writeUInt8(0x40, l2(bytes))],
  ])("bad-input #26: %s: an error for those sectors, corrupt bit, no more writes", async (name, edit) => {
    const { path } = await damaged(name.replaceAll(" ", "-"), edit)
    const disk = await b.open(path)
    expect((await disk.read(0, 512)).status).toBe(IOERR)
    expect((await disk.read((4 * MiB) / 512, 512)).data).toEqual(pattern(512, 2))
    if (name.startsWith("a compressed")) return
    expect((await disk.write((4 * MiB) / 512, pattern(512, 3))).status).toBe(IOERR)
    expect((await disk.write(99, pattern(512, 3))).status).toBe(IOERR)
    await disk.device.close()
    expect((await inspectQcow2(path)).corrupt).toBe(true)
    await expect(b.open(path)).rejects.toThrow("marked corrupt")
    const reader = await b.open(path, { readonly: true })
    expect((await reader.read((4 * MiB) / 512, 512)).data).toEqual(pattern(512, 2))
  })

  it.each([
    ["the header", 0],
    ["the L1 table", 1],
    ["an L2 table", 2],
  ])("bad-input #26: data that lies over %s is not written", async (name, which) => {
    const { path, bytes } = await damaged(`over-${which}`, (image) => {
      const target = [0, l1(image), l2(image)][which]!
      // Cluster 0 as host offset means unallocated: the entry keeps its copied bit and says zero with space kept.
      image.writeBigUInt64BE(0x8000000000000000n | BigInt(target), l2(image))
    })
    const disk = await b.open(path)
    const { status } = await disk.write(0, pattern(512, 9))
    await disk.device.close()
    const after = readFileSync(path)
    if (which === 0) expect(status).toBe(OK)
    else expect(status, name).toBe(IOERR)
    expect(after.subarray(0, 8).equals(bytes.subarray(0, 8))).toBe(true)
    if (which > 0) {
      const table = which === 1 ? l1(bytes) : l2(bytes)
      expect(after.subarray(table, table + 4096).equals(bytes.subarray(table, table + 4096))).toBe(true)
    }
  })

  it("bad-input #26: tables over tables are found when it is opened", async () => {
    const { path } = await damaged("twice", (image) =>
      image.copy(image, l1(image) + 8, l1(image), l1(image) + 8),
    )
    await expect(b.open(path)).rejects.toThrow("an L2 table overlaps other metadata")
    await b.open(path, { readonly: true })
  })

  it("bad-input #26: reference counts of 0 do not make metadata free", async () => {
    const { path, bytes } = await damaged("counts", (image) => {
      const table = Number(image.readBigUInt64BE(48))
      const block = Number(image.readBigUInt64BE(table))
      image.fill(0, block, block + 4096)
    })
    const disk = await b.open(path)
    await disk.write(100, pattern(4096, 4))
    await disk.device.close()
    const after = readFileSync(path)
    expect(after.subarray(0, 112).equals(bytes.subarray(0, 112))).toBe(true)
    const again = await b.open(path, { readonly: true })
    expect((await again.read((4 * MiB) / 512, 512)).data).toEqual(pattern(512, 2))
  })

  it("reads zeros where a file was cut off in its last cluster", async () => {
    const { path } = await damaged("short", () => {})
    truncateSync(path, statSync(path).size - 3584)
    copyFileSync(path, `${path}.copy`)
    const disk = await b.open(`${path}.copy`, { readonly: true })
    expect((await disk.read(0, 4096)).status).toBe(OK)
    expect((await readAll(disk)).length).toBe(8 * MiB)
  })
})
