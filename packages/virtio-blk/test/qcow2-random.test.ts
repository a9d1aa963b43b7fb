import { writeFileSync } from "node:fs"
import { createQcow2 } from "@virtkit/virtio-blk"
import { describe, expect, it } from "vitest"
import { DISCARD, type Disk, OK, ranges, WRITE_ZEROES } from "./helpers.js"
import { bench, check, contentByQemu, flush, noQemu, random, randomBytes, readAll } from "./qcow2-helpers.js"

const MiB = 2 ** 20
/** 10,000 with VIRTKIT_QCOW2_OPERATIONS=10000: takes a minute. */
const OPERATIONS = Number(process.env.VIRTKIT_QCOW2_OPERATIONS ?? 600)

const b = bench()

/** One random operation on the disk and on the bytes that it should have. */
async function operate(disk: Disk, model: Buffer, next: (below: number) => number): Promise<void> {
  const sectors = model.length / 512
  const at = next(sectors)
  const length = Math.min(next(8) === 0 ? next(1024) : next(40), sectors - at)
  const [from, to] = [at * 512, (at + length) * 512]
  switch (next(10)) {
    case 0:
    case 1:
    case 2:
    case 3: {
      const bytes = randomBytes(next, to - from)
      expect((await disk.write(at, bytes)).status).toBe(OK)
      model.set(bytes, from)
      break
    }
    case 4: {
      expect((await disk.request(WRITE_ZEROES, { out: [ranges([at, length, next(2)])] })).status).toBe(OK)
      model.fill(0, from, to)
      break
    }
    case 5: {
      expect((await disk.request(DISCARD, { out: [ranges([at, length, 0])] })).status).toBe(OK)
      // What a discard leaves is up to the image: take over what is there.
      if (length > 0) model.set((await disk.read(at, to - from)).data, from)
      break
    }
    case 6:
      await flush(disk)
      break
    default: {
      const { status, data } = await disk.read(at, to - from)
      expect(status).toBe(OK)
      expect(model.subarray(from, to).equals(data)).toBe(true)
    }
  }
}

describe.skipIf(noQemu !== "")(`random operations, judged by qemu-img${noQemu}`, () => {
  it.each([
    { name: "empty", cluster: 65536, version: 3 as const },
    { name: "small clusters", cluster: 512, version: 3 as const },
    { name: "version 2", cluster: 4096, version: 2 as const },
    { name: "overlay", cluster: 16384, version: 3 as const, backing: true },
    { name: "overlay, version 2", cluster: 4096, version: 2 as const, backing: true },
  ])("$name", async ({ name, cluster, version, backing = false }) => {
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
      ...(backing ? { backing: { path: base, format: "raw" as const } } : {}),
    })
    let disk = await b.open(path, { backing: backing ? [base] : [] })
    const third = Math.floor(OPERATIONS / 3)
    for (let i = 0; i < OPERATIONS; i++) {
      await operate(disk, model, next)
      if (i % third === third - 1) {
        await disk.device.close()
        expect(check(path)).toMatchObject({ status: 0 })
        expect(contentByQemu(path).equals(model)).toBe(true)
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
