import { spawn } from "node:child_process"
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, describe, expect, it } from "vitest"
import { hashFiles } from "../bootstrap-lib.mjs"
import { repository } from "../check-lib.mjs"
import { tree } from "./fixture.js"

const script = join(repository, "packages/tooling/bootstrap.mjs")
const isRoot = process.getuid?.() === 0

/** A machine without any of the programs that virtkit needs, except those that a test adds. */
describe("the bootstrap", () => {
  let bin = ""
  beforeEach(() => {
    bin = mkdtempSync(join(tmpdir(), "virtkit-bootstrap-"))
    chmodSync(bin, 0o755)
  })
  afterEach(() => rmSync(bin, { recursive: true, force: true }))

  const program = (name: string, text: string): void =>
    writeFileSync(join(bin, name), `#!/bin/sh\n${text}\n`, { mode: 0o755 })

  const run = async (args: string[]): Promise<{ status: number | null; text: string; stdout: string }> => {
    const child = spawn(process.execPath, args, {
      cwd: "/",
      env: { PATH: bin, HOME: "" },
      stdio: ["ignore", "pipe", "pipe"],
    })
    let text = ""
    let stdout = ""
    child.stdout.on("data", (chunk) => {
      stdout += chunk
    })
    child.stderr.on("data", (chunk) => {
      text += chunk
    })
    const status = await new Promise<number | null>((resolve) => child.once("close", resolve))
    return { status, text, stdout }
  }

  /** The step that installs Debian packages, alone. */
  const debian = [
    "--input-type=module",
    "-e",
    `
    const { debianPackages } = await import(${JSON.stringify(join(repository, "packages/tooling/bootstrap-debian.mjs"))})
    if (process.argv[1]) process.setuid(Number(process.argv[1]))
    await debianPackages("test", "/").catch((error) => { console.error(error.message); process.exitCode = error.constructor.name === "UserMustAct" ? 2 : 1 })`,
  ]

  it("refuses a target that it does not know", async () => {
    expect(await run([script, "everything"])).toMatchObject({
      status: 2,
      text: expect.stringContaining("demo|test|build|bench"),
    })
  })

  it("without apt-get names what is missing, and why", async () => {
    const { status, text, stdout } = await run([script, "test"])
    expect(status).toBe(2)
    expect(text).toMatch(/there is no apt-get/)
    expect(text).toMatch(/qemu-system-x86 +the lab/)
    expect(stdout).toBe("")
  })

  it("without root prints the commands to run, and runs none", async () => {
    program("apt-get", `touch ${bin}/ran`)
    const { status, text } = isRoot ? await run([...debian, "65534"]) : await run([script, "test"])
    expect(status).toBe(2)
    expect(text).toMatch(
      /\n {2}sudo apt-get update\n {2}sudo apt-get install -y --no-install-recommends .*qemu-system-x86 busybox-static/,
    )
    expect(() => readFileSync(join(bin, "ran"))).toThrow()
  })

  it.runIf(isRoot)("with root installs what is missing, and only that (needs root)", async () => {
    const names = [
      "cmake",
      "g++",
      "cc",
      "make",
      "qemu-system-x86_64",
      "busybox",
      "iasl",
      "lspci",
      "ioping",
      "passt",
      "ip",
      "tcpdump",
      "tshark",
      "cpio",
      "qemu-img",
      "qemu-io",
      "mke2fs",
      "e2fsck",
    ]
    for (const name of names.slice(0, 4)) program(name, "")
    program(
      "apt-get",
      `echo "$@" >>${bin}/log\nPATH=/usr/bin:/bin\nfor f in ${names.join(" ")}; do cp ${bin}/apt-get ${bin}/$f; done`,
    )
    const { status, text } = await run([...debian])
    expect([status, text]).toEqual([0, expect.stringContaining("installing the Debian package cpio: checks")])
    const [update, install] = readFileSync(join(bin, "log"), "utf8").trim().split("\n")
    expect(update).toMatch(/update$/)
    expect(install).toMatch(
      /install -y --no-install-recommends .*acpica-tools pciutils ioping passt (iproute2 )?tcpdump tshark cpio$/,
    )
    expect(install).not.toMatch(/cmake|g\+\+/)
    expect(await run([...debian])).toMatchObject({ status: 0, text: "" })
  })

  it.runIf(isRoot)(
    "says so when a package does not bring what it should, with the end of apt-get's words when it fails (needs root)",
    async () => {
      program("apt-get", "true")
      expect(await run([...debian])).toMatchObject({
        status: 1,
        text: expect.stringMatching(/installed .*, but it is not there/),
      })
      program("apt-get", "echo E: broken >&2; exit 100")
      expect(await run([...debian])).toMatchObject({
        status: 1,
        text: expect.stringMatching(/failed \(100\):\nE: broken/),
      })
    },
  )
})

describe("the hash of sources", () => {
  it("changes with names and contents, not with times or files that are not asked for", () => {
    const files = { "a/x.ts": "1", "a/b/y.ts": "2", "other.ts": "3" }
    const base = hashFiles(tree(files), ["a", "missing"])
    expect(hashFiles(tree(files), ["a", "missing"])).toBe(base)
    expect(hashFiles(tree({ ...files, "other.ts": "4" }), ["a"])).toBe(base)
    expect(hashFiles(tree({ ...files, "a/x.ts": "5" }), ["a"])).not.toBe(base)
    expect(hashFiles(tree({ "a/z.ts": "1", "a/b/y.ts": "2" }), ["a"])).not.toBe(base)
  })
})
