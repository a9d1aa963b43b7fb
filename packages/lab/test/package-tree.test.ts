import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, expect, it, vi } from "vitest"
import { findPackages } from "../src/package-tree.js"

let directory = ""
const logged: string[] = []
const find = (...names: string[]) =>
  findPackages(names, { cacheDir: directory, log: (line) => logged.push(line) })

/** Package tools that have any package but "none". */
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "virtkit-find-packages-"))
  logged.length = 0
  const bin = join(directory, "bin")
  await mkdir(bin)
  const tools = {
    "apt-get": 'shift 2; for name; do test "$name" = none || echo "$name" >"$name.deb"; done',
    "dpkg-deb": 'mkdir -p "$3/opt" && cp "$2" "$3/opt/$(cat "$2")"',
  }
  for (const [name, script] of Object.entries(tools))
    await writeFile(join(bin, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 })
  vi.stubEnv("PATH", `${bin}:${process.env.PATH}`)
})
afterEach(async () => {
  vi.unstubAllEnvs()
  await rm(directory, { recursive: true, force: true })
})

it("unpacks several packages into one tree, once, and says so", async () => {
  const tree = await find("one", "two")
  expect(await readFile(join(tree, "opt/one"), "utf8")).toBe("one\n")
  expect(await readFile(join(tree, "opt/two"), "utf8")).toBe("two\n")
  expect(await find("one", "two")).toBe(tree)
  expect(logged).toHaveLength(1)
  expect(logged[0]).toContain("downloading 2 packages")
  expect(await find("one")).not.toBe(tree)
  expect(await readdir(join(directory, "packages"))).toHaveLength(2)
})

it("keeps nothing when one is missing", async () => {
  await expect(find("one", "none")).rejects.toThrow("apt-get download one and 1 more gave no package")
  expect(await readdir(join(directory, "packages"))).toEqual([])
})
