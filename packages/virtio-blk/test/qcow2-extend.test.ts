import { readFileSync, statSync, writeFileSync } from "node:fs"
import { createQcow2, extendQcow2 } from "@virtkit/virtio-blk"
import { describe, expect, it } from "vitest"
import { bench, check, noQemu, random, randomBytes, readAll } from "./qcow2-helpers.js"

const MiB = 2 ** 20
const b = bench()

describe("an image whose file is extended", () => {
  it.each([512, 65536])(
    "is used in place, and as long as before or as it needs then, clusters of %d",
    async (clusterSize) => {
      const path = b.path(`extend-${clusterSize}`)
      await createQcow2({ path, size: 4 * MiB, clusterSize })
      const before = statSync(path).size
      const unused = await extendQcow2(path)
      expect(statSync(path).size).toBeGreaterThan(4 * MiB + before)
      await unused()
      expect(statSync(path).size).toBe(before)

      const used = await extendQcow2(path)
      const long = statSync(path).size
      const disk = await b.open(path)
      const bytes = randomBytes(random(1), 4 * MiB)
      for (let at = 0; at < 4; at++) await disk.write(at * 2048, bytes.subarray(at * MiB, (at + 1) * MiB))
      await disk.device.close()
      // It was enough for all of the disk.
      expect(statSync(path).size).toBe(long)
      await used()
      expect(statSync(path).size).toBeLessThan(before + 4.5 * MiB)
      const reader = await b.open(path, { readonly: true })
      expect((await readAll(reader)).equals(bytes)).toBe(true)
      await reader.device.close()
      if (noQemu === "") expect(check(path).status).toBe(0)
    },
  )

  it("keeps all that it uses when it was not closed, whatever its counts say", async () => {
    const path = b.path("extend-dirty")
    await createQcow2({ path, size: 4 * MiB, clusterSize: 4096 })
    const unused = await extendQcow2(path)
    const disk = await b.open(path)
    const bytes = randomBytes(random(2), MiB)
    await disk.write(0, bytes)
    await disk.device.close()
    const image = readFileSync(path)
    const block = Number(image.readBigUInt64BE(Number(image.readBigUInt64BE(48))))
    image.fill(0, block, block + 4096)
    image[79] = 1
    writeFileSync(path, image)
    await unused()
    expect(statSync(path).size).toBeLessThan(2 * MiB)
    const again = await b.open(path)
    expect((await readAll(again)).subarray(0, MiB).equals(bytes)).toBe(true)
    await again.device.close()
    if (noQemu === "") expect(check(path).status).toBe(0)
  })

  it("is left alone when it has a backing file, or is none", async () => {
    const path = b.path("overlay")
    await createQcow2({ path, size: MiB, backing: { path: "base", format: "raw" } })
    const before = readFileSync(path)
    await expect(extendQcow2(path)).rejects.toThrow("it has a backing file")
    expect(readFileSync(path).equals(before)).toBe(true)
    writeFileSync(b.path("none"), Buffer.alloc(4096))
    await expect(extendQcow2(b.path("none"))).rejects.toThrow("it is not a qcow2 image")
  })
})
