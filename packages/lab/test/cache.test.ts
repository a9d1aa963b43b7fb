import { mkdir, mkdtemp, readdir, rm, stat, utimes, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, describe, expect, it } from "vitest"
import { lookUp, prune } from "../src/cache.js"

describe("the cache", () => {
  let folder = ""
  const old = new Date(Date.now() - 7_200_000)
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "virtkit-lab-"))
    for (const [index, name] of ["a", "b", "c", "d"].entries()) {
      await writeFile(join(folder, name), "")
      await utimes(join(folder, name), 1000 + index, 1000 + index)
    }
  })
  afterEach(() => rm(folder, { recursive: true, force: true }))

  it("forgets what was used least recently", async () => {
    expect(await lookUp(join(folder, "a"))).toBe(true)
    expect(await lookUp(join(folder, "missing"))).toBe(false)
    expect((await stat(join(folder, "a"))).mtimeMs).toBeGreaterThan(old.getTime())
    await prune(folder, 2)
    expect((await readdir(folder)).sort()).toEqual(["a", "d"])
  })

  it("removes what killed processes left, not what is being made", async () => {
    await mkdir(join(folder, ".work"))
    await mkdir(join(folder, ".abandoned"))
    await writeFile(join(folder, ".abandoned/file"), "")
    await utimes(join(folder, ".abandoned"), old, old)
    await prune(folder, 4)
    expect((await readdir(folder)).sort()).toEqual([".work", "a", "b", "c", "d"])
  })
})
