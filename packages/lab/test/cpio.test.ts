import { execFileSync } from "node:child_process"
import { mkdtemp, readdir, readFile, readlink, rm, stat } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Readable } from "node:stream"
import fc from "fast-check"
import { afterEach, beforeEach, describe, expect, it } from "vitest"
import { receiveArchive, sendArchive } from "../src/copy.js"
import { type CpioEntry, CpioReader, CpioWriter, cpioHeader, S_IFLNK, S_IFREG } from "../src/cpio.js"
import { findTool } from "../src/tools.js"

function sample(): Buffer {
  const archive = new CpioWriter()
  archive.file("etc/motd", "hello\n")
  archive.file("bin/run", "#!/bin/sh\n", 0o755)
  archive.symlink("bin/sh", "busybox")
  archive.directory("empty", 0o700)
  archive.file("none", "")
  return archive.finish()
}

async function read(bytes: Buffer, sizes: readonly number[]): Promise<[string, number, string][]> {
  const members: [string, number, string][] = []
  let current: CpioEntry | undefined
  let data: Buffer[] = []
  const reader = new CpioReader({
    entry: (entry) => {
      current = entry
      data = []
    },
    data: (chunk) => void data.push(Buffer.from(chunk)),
    end: () => void members.push([current!.name, current!.mode, Buffer.concat(data).toString()]),
  })
  let at = 0
  for (let index = 0; at < bytes.length; index++) {
    const size = sizes[index % sizes.length] ?? 1
    await reader.write(bytes.subarray(at, at + size))
    at += size
  }
  expect(reader.finished).toBe(true)
  return members
}

const expected: [string, number, string][] = [
  ["etc", 0o40755, ""],
  ["etc/motd", 0o100644, "hello\n"],
  ["bin", 0o40755, ""],
  ["bin/run", 0o100755, "#!/bin/sh\n"],
  ["bin/sh", 0o120777, "busybox"],
  ["empty", 0o40700, ""],
  ["none", 0o100644, ""],
]

describe("cpio archives", () => {
  let directory = ""
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "virtkit-lab-"))
  })
  afterEach(() => rm(directory, { recursive: true, force: true }))

  it("are read back the same, in pieces of any size", async () => {
    expect(await read(sample(), [1_000_000])).toEqual(expected)
    await fc.assert(
      fc.asyncProperty(fc.array(fc.integer({ min: 1, max: 300 }), { minLength: 1 }), async (sizes) => {
        expect(await read(sample(), sizes)).toEqual(expected)
      }),
      { numRuns: 30 },
    )
  })

  it.skipIf(!findTool("cpio"))("are what cpio reads (needs the program cpio)", async () => {
    execFileSync("cpio", ["-idm", "--quiet"], { input: sample(), cwd: directory })
    expect((await readdir(directory)).sort()).toEqual(["bin", "empty", "etc", "none"])
    expect(await readFile(join(directory, "etc/motd"), "utf8")).toBe("hello\n")
    expect(await readlink(join(directory, "bin/sh"))).toBe("busybox")
    expect((await stat(join(directory, "bin/run"))).mode & 0o777).toBe(0o755)
  })

  it.skipIf(!findTool("cpio"))("are read when cpio wrote them (needs the program cpio)", async () => {
    execFileSync("sh", ["-c", "mkdir a && echo x >a/b && ln -s b a/c"], { cwd: directory })
    const bytes = execFileSync("sh", ["-c", "find a | cpio -o -H newc --quiet"], { cwd: directory })
    const members = await read(bytes, [7])
    expect(members.map(([name]) => name).sort()).toEqual(["a", "a/b", "a/c"])
    expect(members.find(([name]) => name === "a/c")?.[2]).toBe("b")
  })

  it("can follow one another, as Linux wants them", () => {
    expect(sample().length % 4).toBe(0)
  })

  it.each([
    ["no archive", Buffer.alloc(200, 0x41), "not a newc"],
    [
      "a name length out of bounds",
      Buffer.from(
        cpioHeader({ name: "x", mode: S_IFREG, size: 0 })
          .toString("latin1")
          .replace(/00000002(?=00000000x)/, "7fffffff"),
        "latin1",
      ),
      "name length",
    ],
  ])("are refused with %s", async (_what, bytes, message) => {
    const reader = new CpioReader({ entry: () => {}, data: () => {}, end: () => {} })
    await expect(reader.write(bytes)).rejects.toThrow(message)
  })

  it("carry a directory to another place and back", async () => {
    const source = join(directory, "from")
    execFileSync(
      "sh",
      ["-c", "mkdir -p from/d && echo x >from/d/b && ln -s d/b from/l && chmod 700 from/d"],
      { cwd: directory },
    )
    const { PassThrough } = await import("node:stream")
    const pipe = new PassThrough()
    await Promise.all([
      sendArchive(source, "name", pipe),
      receiveArchive(pipe, "name", join(directory, "to")),
    ])
    expect(await readFile(join(directory, "to/d/b"), "utf8")).toBe("x\n")
    expect(await readlink(join(directory, "to/l"))).toBe("d/b")
    expect((await stat(join(directory, "to/d"))).mode & 0o777).toBe(0o700)
  })

  const member = (name: string, mode: number, text = ""): Buffer => {
    const archive = cpioHeader({ name, mode, size: text.length })
    return Buffer.concat([archive, Buffer.from(text), Buffer.alloc(-text.length & 3)])
  }
  it.each([
    ["leads up", [member("x/../../escape", S_IFREG)]],
    ["is absolute", [member("/tmp/escape", S_IFREG)]],
    ["is not what was asked for", [member("other", S_IFREG)]],
    [
      "goes through a link of the archive",
      [member("x", 0o40755), member("x/l", S_IFLNK | 0o777, ".."), member("x/l/escape", S_IFREG)],
    ],
  ])("from the lab are refused when a name %s", async (_what, members) => {
    const target = join(directory, "inner", "x")
    execFileSync("mkdir", ["-p", join(directory, "inner")])
    await expect(receiveArchive(Readable.from([Buffer.concat(members)]), "x", target)).rejects.toThrow(
      "forbidden name",
    )
    expect(await readdir(directory)).toEqual(["inner"])
  })
})
