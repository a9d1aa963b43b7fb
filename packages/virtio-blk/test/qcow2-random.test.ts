import { copyFileSync, writeFileSync } from "node:fs"
import { mmapMemory } from "@virtkit/memory/mmap"
import { createQcow2 } from "@virtkit/virtio-blk"
import { describe, expect, it } from "vitest"
import { qcow2Backend } from "../src/backends/qcow2/index.js"
import { DISCARD, type Disk, OK, ranges, WRITE_ZEROES } from "./helpers.js"
import {
  bench,
  check,
  contentByQemu,
  drive,
  flush,
  noQemu,
  qemuIoScript,
  random,
  randomBytes,
  readAll,
} from "./qcow2-helpers.js"

const MiB = 2 ** 20
/** All on two images: one by our disk, one by qemu-io. 10,000 with VIRTKIT_QCOW2_OPERATIONS=10000: takes a minute. */
const OPERATIONS = Number(process.env.VIRTKIT_QCOW2_OPERATIONS ?? 600)

const b = bench()

/**
 * One random operation on the disk and on the bytes that it should have. Gives the command by which qemu-io does the
 * same to another image.
 */
async function operate(
  disk: Disk,
  model: Buffer,
  next: (below: number) => number,
  discards: boolean,
): Promise<string> {
  const sectors = model.length / 512
  const at = next(sectors)
  const length = Math.min(next(8) === 0 ? next(1024) : next(40), sectors - at)
  const [from, to] = [at * 512, (at + length) * 512]
  const kind = next(10)
  switch (kind === 5 && !discards ? 6 : kind) {
    case 0:
    case 1:
    case 2:
    case 3: {
      const value = 1 + next(255)
      expect((await disk.write(at, Buffer.alloc(to - from, value))).status).toBe(OK)
      model.fill(value, from, to)
      return `write -q -P ${value} ${from} ${to - from}`
    }
    case 4: {
      const unmap = next(2)
      expect((await disk.request(WRITE_ZEROES, { out: [ranges([at, length, unmap])] })).status).toBe(OK)
      model.fill(0, from, to)
      return `write -q -z ${unmap === 1 ? "-u " : ""}${from} ${to - from}`
    }
    case 5: {
      expect((await disk.request(DISCARD, { out: [ranges([at, length, 0])] })).status).toBe(OK)
      // What a discard leaves is up to the image: take over what is there.
      if (length > 0) model.set((await disk.read(at, to - from)).data, from)
      return `discard -q ${from} ${to - from}`
    }
    case 6:
      await flush(disk)
      return "flush"
    default: {
      const { status, data } = await disk.read(at, to - from)
      expect(status).toBe(OK)
      expect(model.subarray(from, to).equals(data)).toBe(true)
      return ""
    }
  }
}

describe.skipIf(noQemu !== "")(`random operations, judged by qemu-img${noQemu}`, { timeout: 600_000 }, () => {
  it.each([
    { name: "empty", cluster: 65536, version: 3 as const },
    { name: "small clusters", cluster: 512, version: 3 as const },
    { name: "small clusters, no lazy counts", cluster: 512, version: 3 as const, lazyRefcounts: false },
    { name: "version 2", cluster: 4096, version: 2 as const },
    { name: "overlay", cluster: 16384, version: 3 as const, backing: true },
    { name: "overlay, version 2", cluster: 4096, version: 2 as const, backing: true },
  ])("$name", async ({ name, cluster, version, backing = false, lazyRefcounts = version === 3 }) => {
    const path = b.path(`random-${name.replaceAll(/\W/g, "")}.qcow2`)
    const size = 8 * MiB + 512 * 7
    const next = random(name.length * cluster + 1)
    const model = Buffer.alloc(size)
    const base = `${path}.base`
    if (backing) {
      randomBytes(next, 5 * MiB + 512).copy(model)
      writeFileSync(base, model.subarray(0, 5 * MiB + 512))
    }
    await createQcow2({
      path,
      size,
      clusterSize: cluster,
      version,
      lazyRefcounts,
      ...(backing ? { backing: { path: base, format: "raw" as const } } : {}),
    })
    let disk = await b.open(path, { backing: backing ? [base] : [] })
    const third = Math.floor(OPERATIONS / 3)
    const twin = `${path}.twin`
    copyFileSync(path, twin)
    let commands: string[] = []
    for (let i = 0; i < OPERATIONS; i++) {
      // In version 2, QEMU's discard shows what lies below; ours does nothing.
      const command = await operate(disk, model, next, !(version === 2 && backing))
      if (!command.endsWith(" 0")) commands.push(command)
      if (i % third === third - 1) {
        await disk.device.close()
        expect(check(path)).toMatchObject({ status: 0 })
        expect(contentByQemu(path).equals(model)).toBe(true)
        qemuIoScript(twin, commands)
        expect(contentByQemu(twin).equals(model)).toBe(true)
        commands = []
        disk = await b.open(path, { backing: backing ? [base] : [] })
      }
    }
    expect((await readAll(disk)).equals(model)).toBe(true)
    await disk.device.close()
    const { status, report } = check(path)
    expect(report).toMatch(/No errors were found/)
    expect(status).toBe(0)
    expect(contentByQemu(path).equals(model)).toBe(true)
  })
})

describe("requests in parallel", { timeout: 600_000 }, () => {
  it.each([
    [512, true],
    [512, false],
    [4096, true],
    [65536, true],
  ])(
    "that share clusters keep to their own sectors, clusters of %d, lazy counts %s",
    async (clusterSize, lazyRefcounts) => {
      const path = b.path(`parallel-${clusterSize}-${lazyRefcounts}.qcow2`)
      const size = 8 * MiB
      await createQcow2({ path, size, clusterSize, lazyRefcounts })
      const options = { path, readonly: false, unsafe: false, direct: false, backing: [], depth: 16 }
      let backend = await qcow2Backend(options)
      const memory = mmapMemory(16 * 65536)
      const model = Buffer.alloc(size)
      // Lanes take turns of 37 sectors, and of 300 in the second half of the disk: those have whole clusters.
      const place = (lane: number, next: (below: number) => number): [number, number] => {
        const [base, stripe] = next(2) === 0 ? [0, 37] : [size / 1024, 300]
        const stripes = Math.floor(size / 1024 / stripe / 8)
        const first = next(stripe)
        const at = base + (next(stripes) * 8 + lane) * stripe + first
        return [at * 512, 512 * (1 + next(Math.min(128, stripe - first)))]
      }
      for (let round = 0; round < 2; round++) {
        const run = drive(backend, memory, 16)
        const lanes = Array.from({ length: 8 }, async (_, lane) => {
          const next = random(clusterSize + lane * 7 + round)
          const address = lane * 65536
          const bytes = new Uint8Array(65536)
          for (let i = 0; i < OPERATIONS / 6; i++) {
            const [offset, length] = place(lane, next)
            const kind = next(8)
            const part = bytes.subarray(0, length)
            if (kind === 0) {
              expect(await run({ op: 2, offset: 0, length: 0 })).toBe(0)
            } else if (kind < 4) {
              memory.write(address, part.fill(1 + next(255)))
              expect(await run({ op: 1, offset, length, address, sync: kind === 1 && next(4) === 0 })).toBe(0)
              model.set(part, offset)
            } else if (kind < 6) {
              expect(await run({ op: 4, offset, length, unmap: kind === 4 })).toBe(0)
              model.fill(0, offset, offset + length)
            } else {
              expect(await run({ op: 0, offset, length, address })).toBe(0)
              memory.read(address, part)
              expect(model.subarray(offset, offset + length).equals(part)).toBe(true)
            }
          }
        })
        await Promise.all(lanes)
        await backend.close()
        if (noQemu === "") {
          expect(check(path)).toMatchObject({ status: 0 })
          expect(contentByQemu(path).equals(model)).toBe(true)
        }
        backend = await qcow2Backend(options)
      }
      await backend.close()
    },
  )
})
