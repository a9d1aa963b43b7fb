import { spawnSync } from "node:child_process"
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { cacheDir } from "@virtkit/lab/paths"
import { afterAll, beforeAll, describe, expect, it } from "vitest"

const bin = fileURLToPath(new URL("../dist/bin.js", import.meta.url))

const why: string = (() => {
  if (!existsSync(bin)) return " (skipped: the command was not built, run npm run build)"
  const kernels = join(cacheDir(), "kernels")
  if (existsSync(kernels) && readdirSync(kernels).length > 0) return ""
  return " (skipped: no kernel in the cache; node packages/tooling/bootstrap.mjs test gets it)"
})()

let directory = ""
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "virtkit-kernel-"))
})
afterAll(() => rmSync(directory, { recursive: true, force: true }))

function kernel(...args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [bin, "kernel", ...args], {
    encoding: "utf8",
  })
  return { status, stdout, stderr }
}

describe.skipIf(why !== "")(`virtkit kernel${why}`, () => {
  it("prints the path of a kernel that can be booted", () => {
    const { stdout, ...rest } = kernel()
    expect(rest).toEqual({ status: 0, stderr: "" })
    expect(readFileSync(stdout.trimEnd()).toString("latin1", 0x202, 0x206)).toBe("HdrS")
  })

  it("copies it", () => {
    const copy = join(directory, "vmlinuz")
    expect(kernel(`--output=${copy}`)).toEqual({ status: 0, stdout: "", stderr: "" })
    expect(readFileSync(copy).toString("latin1", 0x202, 0x206)).toBe("HdrS")
  })

  it("says in one line when it cannot", () => {
    const { status, stderr } = kernel(`--output=${directory}/no/where`)
    expect(status).toBe(2)
    expect(stderr).toMatch(/^virtkit: --output [^\n]*\/no\/where[^\n]*\n$/)
  })
})
