import { spawnSync } from "node:child_process"
import { closeSync, copyFileSync, openSync, readFileSync, writeFileSync, writeSync } from "node:fs"
import { mmapMemory } from "@virtkit/memory/mmap"
import { createQcow2, inspectQcow2 } from "@virtkit/virtio-blk"
import { afterEach, describe, expect, it, vi } from "vitest"
import { ImageFile, type Piece } from "../src/backends/qcow2/image-file.js"
import { qcow2Backend } from "../src/backends/qcow2/index.js"
import { openLayers } from "../src/backends/qcow2/layers.js"
import { Qcow2Writer } from "../src/backends/qcow2/writer.js"
import { bench, check, contentByQemu, drive, noQemu, qemuImg, random, readAll } from "./qcow2-helpers.js"

const MiB = 2 ** 20
const SIZE = MiB
/** More with VIRTKIT_QCOW2_FLUSHES. */
const FLUSHES = Number(process.env.VIRTKIT_QCOW2_FLUSHES ?? 5)
const [WRITE, FLUSH, DISCARD, ZERO] = [1, 2, 3, 4]
const b = bench()
afterEach(() => vi.restoreAllMocks())

function openBackend(path: string) {
  return qcow2Backend({ path, readonly: false, unsafe: true, direct: false, backing: [], depth: 8 })
}

/** What each sector may have: what was flushed, and what was written since. */
class Sectors {
  readonly #values: number[][] = Array.from({ length: SIZE / 512 }, () => [0])

  put(first: number, count: number, value: number): void {
    for (const values of this.#values.slice(first, first + count)) values.push(value)
  }

  flushed(content: Buffer): void {
    expect(this.wrong(content)).toBeUndefined()
    for (const [sector, values] of this.#values.entries())
      values.splice(0, values.length, content[sector * 512]!)
  }

  wrong(content: Buffer): string | undefined {
    for (const [sector, values] of this.#values.entries()) {
      const bytes = content.subarray(sector * 512, sector * 512 + 512)
      if (!values.includes(bytes[0]!) || bytes.some((byte) => byte !== bytes[0]))
        return `sector ${sector} has ${bytes[0]}, not one of ${values}`
    }
    return undefined
  }
}

/** Writes parts of the pieces, as a machine may that fails: a sector is written or not. */
function writeSome(path: string, pieces: readonly Piece[], written: () => boolean): void {
  const fd = openSync(path, "r+")
  for (const { offset, bytes } of pieces) {
    for (let at = 0; at < bytes.length; ) {
      const length = Math.min(bytes.length - at, 512 - ((offset + at) % 512))
      if (written()) writeSync(fd, bytes, at, length, offset + at)
      at += length
    }
  }
  closeSync(fd)
}

describe("when the machine fails", { timeout: 120_000 }, () => {
  it.each([
    { clusterSize: 512, snapshot: false },
    { clusterSize: 4096, snapshot: true },
    { clusterSize: 65536, snapshot: false },
  ])(
    `an image with lazy counts keeps what was flushed, whichever of its tables were written: %o${noQemu}`,
    async ({ clusterSize, snapshot }) => {
      const path = b.path(`power-${clusterSize}.qcow2`)
      const copy = `${path}.copy`
      await createQcow2({ path, size: SIZE, clusterSize })
      let backend = await openBackend(path)
      const memory = mmapMemory(MiB)
      let run = drive(backend, memory, 8)
      const next = random(clusterSize)
      const sectors = new Sectors()
      /** The pieces of the last sync, and in `copy` the file as it was before they were written. */
      let pieces: readonly Piece[] = []
      const original = ImageFile.prototype.writeTogether
      vi.spyOn(ImageFile.prototype, "writeTogether").mockImplementation(async function (
        this: ImageFile,
        taken,
      ) {
        expect((await inspectCopy(path, copy)).dirty).toBe(true)
        pieces = taken
        await original.call(this, taken)
      })
      const operate = async () => {
        const first = next(SIZE / 512)
        const count = Math.min(1 + next(next(2) === 0 ? 300 : 20), SIZE / 512 - first)
        const op = [WRITE, WRITE, WRITE, DISCARD, ZERO][next(5)]!
        const value = op === WRITE ? 1 + next(255) : 0
        memory.fill(0, count * 512, value)
        sectors.put(first, count, value)
        expect(await run({ op, offset: first * 512, length: count * 512, unmap: next(2) === 0 })).toBe(0)
      }
      let failures = 0
      for (let round = 0; round < FLUSHES; round++) {
        if (snapshot && round === 2 && noQemu === "") {
          await backend.close()
          qemuImg("snapshot", "-c", "s", path)
          backend = await openBackend(path)
          run = drive(backend, memory, 8)
        }
        for (let i = 0; i < 12; i++) await operate()
        pieces = []
        expect(await run({ op: FLUSH, offset: 0, length: 0 })).toBe(0)
        const chances = pieces.length === 0 ? [] : [0, 1, 2, 3, 4]
        for (const chance of chances) {
          const failed = `${copy}.failed`
          copyFileSync(copy, failed)
          writeSome(failed, pieces, () => next(4) < chance)
          failures++
          if (noQemu === "") {
            expect(sectors.wrong(contentByQemu(failed))).toBeUndefined()
            // All or nothing is what a kill leaves.
            if (chance === 0 || chance === 4) expect(check(failed)).toMatchObject({ status: 0 })
            copyFileSync(failed, `${failed}.q`)
            spawnSync("qemu-img", ["check", "-q", "-r", "all", `${failed}.q`], { stdio: "ignore" })
            expect(check(`${failed}.q`)).toMatchObject({ status: 0 })
            expect(sectors.wrong(contentByQemu(`${failed}.q`))).toBeUndefined()
          }
          const disk = await b.open(failed, { cache: "unsafe" })
          expect(sectors.wrong(await readAll(disk))).toBeUndefined()
          await disk.device.close()
          expect((await inspectQcow2(failed)).dirty).toBe(false)
          if (noQemu === "") expect(check(failed)).toMatchObject({ status: 0 })
        }
        copyFileSync(path, `${copy}.now`)
        const now = await b.open(`${copy}.now`, { readonly: true })
        sectors.flushed(await readAll(now))
        await now.device.close()
      }
      expect(failures).toBeGreaterThan(FLUSHES)
      await backend.close()
    },
  )
})

/** The file as it is, locks or not. */
async function inspectCopy(path: string, copy: string) {
  copyFileSync(path, copy)
  return inspectQcow2(copy)
}

describe("clusters of an image with lazy counts", () => {
  it("are nobody's from their last use until that is durable, older requests are done and their space is gone", async () => {
    const path = b.path("held.qcow2")
    await createQcow2({ path, size: SIZE, clusterSize: 512 })
    const { image } = await openLayers({ path, readonly: false, unsafe: true, direct: false, backing: [] })
    const punched: number[] = []
    let release = () => {}
    const writer = await Qcow2Writer.open(image, (offset, length) => {
      punched.push(offset / 512, length / 512)
      return new Promise((resolve) => {
        release = resolve
      })
    })
    const used = await writer.reserve(8)
    await writer.link({ table: 0, first: 0, count: 8 }, used)
    await writer.sync()
    const epoch = writer.frees.enter()
    await writer.change({ table: 0, first: 0, count: 8 }, () => ({ high: 0, low: 0, free: true }))
    const others = async () => {
      const clusters: number[] = []
      for (let i = 0; i < 12; i++) {
        const run = await writer.reserve(1)
        clusters.push(run.first)
      }
      expect(clusters.filter((n) => n >= used.first && n < used.first + 8)).toEqual([])
      for (const first of clusters) writer.unreserve({ first, count: 1, zero: false })
    }
    const inFile = async () => {
      copyFileSync(path, `${path}.copy`)
      return noQemu === "" ? check(`${path}.copy`).status : 0
    }
    await others()
    // The next sync says that they have no use, and still nobody gets them.
    await writer.sync()
    expect(await inFile()).toBe(0)
    await others()
    await writer.sync()
    await others()
    expect(punched).toEqual([])
    writer.frees.leave(epoch)
    await vi.waitFor(() => expect(punched).toEqual([used.first, 8]))
    const order: string[] = []
    const taken = writer.reserve(8).finally(() => order.push("taken"))
    await new Promise((resolve) => setImmediate(resolve))
    order.push("punched")
    release()
    expect((await taken).first).toBe(used.first)
    expect(order).toEqual(["punched", "taken"])
    await image.close()
  })
})

describe("tables of an image with lazy counts", () => {
  it("that could not be written are written with the next flush", async () => {
    const path = b.path("again.qcow2")
    await createQcow2({ path, size: SIZE, clusterSize: 512 })
    const backend = await openBackend(path)
    const memory = mmapMemory(MiB)
    const run = drive(backend, memory, 8)
    memory.fill(0, MiB, 7)
    expect(await run({ op: WRITE, offset: 0, length: MiB / 2 })).toBe(0)
    const original = ImageFile.prototype.writeTogether
    vi.spyOn(ImageFile.prototype, "writeTogether").mockImplementationOnce(async function (
      this: ImageFile,
      pieces,
    ) {
      await original.call(this, pieces.slice(0, 1))
      throw Object.assign(new Error("full"), { errno: -28 })
    })
    expect(await run({ op: FLUSH, offset: 0, length: 0 })).toBe(28)
    expect(await run({ op: FLUSH, offset: 0, length: 0 })).toBe(0)
    const copy = `${path}.copy`
    copyFileSync(path, copy)
    if (noQemu === "") expect(check(copy)).toMatchObject({ status: 0 })
    const disk = await b.open(copy, { cache: "unsafe" })
    expect((await readAll(disk)).subarray(0, MiB / 2).every((byte) => byte === 7)).toBe(true)
    await disk.device.close()
    await backend.close()
    expect((await inspectQcow2(path)).dirty).toBe(false)
    if (noQemu === "") expect(check(path)).toMatchObject({ status: 0 })
  })

  it("that name what they should not make no counts: it is opened for reading only", async () => {
    const path = b.path("beyond.qcow2")
    await createQcow2({ path, size: SIZE })
    const image = readFileSync(path)
    image[79] = 1
    image.writeBigUInt64BE(2n ** 40n, Number(image.readBigUInt64BE(40)))
    writeFileSync(path, image)
    await expect(openBackend(path)).rejects.toThrow("which is not in the file")
    expect(readFileSync(path).equals(image)).toBe(true)
  })

  it.each([
    ["right counts keeps them where they are", 0],
    ["wrong counts gets others, behind what is in use", 1],
    ["counts that are not in the file gets others", 2],
  ])("an image that was not closed and has %s", async (_name, wrong) => {
    const path = b.path(`dirty-${wrong}.qcow2`)
    await createQcow2({ path, size: SIZE, clusterSize: 4096 })
    const backend = await openBackend(path)
    const memory = mmapMemory(MiB)
    memory.fill(0, MiB, 9)
    expect(await drive(backend, memory, 8)({ op: WRITE, offset: 0, length: MiB / 2 })).toBe(0)
    await backend.close()
    const image = readFileSync(path)
    const place = image.subarray(48, 60)
    const table = Number(image.readBigUInt64BE(48))
    image[79] = 1
    const block = Number(image.readBigUInt64BE(table))
    if (wrong === 1) image.fill(0, block, block + 4096)
    if (wrong === 2) image.writeBigUInt64BE(2n ** 40n, table)
    // As a block device has it: room behind what is used.
    writeFileSync(path, Buffer.concat([image, Buffer.alloc(MiB)]))
    await (await openBackend(path)).close()
    const after = readFileSync(path)
    expect(after[79]).toBe(0)
    expect(after.subarray(48, 60).equals(place)).toBe(wrong === 0)
    expect(after.length).toBe(image.length + MiB)
    const disk = await b.open(path, { readonly: true })
    expect((await readAll(disk)).subarray(0, MiB / 2).every((byte) => byte === 9)).toBe(true)
    await disk.device.close()
    if (noQemu === "") expect(check(path)).toMatchObject({ status: 0 })
  })

  it("an image whose repair is interrupted still has its former counts", async () => {
    const path = b.path("interrupted.qcow2")
    await createQcow2({ path, size: SIZE, clusterSize: 4096 })
    const spoil = (edit: (image: Buffer, block: number) => void) => {
      const image = readFileSync(path)
      image[79] = 1
      edit(image, Number(image.readBigUInt64BE(Number(image.readBigUInt64BE(48)))))
      writeFileSync(path, image)
    }
    spoil((image, block) => image.fill(0, block, block + 4096))
    // Now they are behind all else.
    await (await openBackend(path)).close()
    spoil((image, block) => image.writeUInt16BE(7, block))
    const before = readFileSync(path)
    const original = ImageFile.prototype.write
    vi.spyOn(ImageFile.prototype, "write").mockImplementation(function (this: ImageFile, offset, bytes) {
      return offset === 48 ? Promise.reject(new Error("interrupted")) : original.call(this, offset, bytes)
    })
    await expect(openBackend(path)).rejects.toThrow("interrupted")
    expect(readFileSync(path).subarray(0, before.length).equals(before)).toBe(true)
  })

  it("leave the dirty bit when they could not be written at the end, and no trace of it otherwise", async () => {
    const path = b.path("end.qcow2")
    await createQcow2({ path, size: SIZE })
    const before = readFileSync(path)
    await (await openBackend(path)).close()
    expect(readFileSync(path).equals(before)).toBe(true)
    const backend = await openBackend(path)
    const run = drive(backend, mmapMemory(MiB), 8)
    expect(await run({ op: WRITE, offset: 0, length: 4096 })).toBe(0)
    vi.spyOn(ImageFile.prototype, "writeTogether").mockRejectedValue(new Error("no"))
    await expect(backend.close()).rejects.toThrow("no")
    expect((await inspectQcow2(path)).dirty).toBe(true)
    vi.restoreAllMocks()
    await (await openBackend(path)).close()
    expect((await inspectQcow2(path)).dirty).toBe(false)
  })
})
