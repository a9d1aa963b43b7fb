import { mkdtemp, readFile, realpath, rm, stat, utimes, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, describe, expect, it } from "vitest"
import { mend, mendedQemu } from "../src/mended-qemu.js"
import { findTool } from "../src/tools.js"

const STORE = "89b354efffff"
const AROUND = [
  "440fb6f44489ab80330000",
  "c7838433000000000000",
  "48c78388330000ffffffff",
  "f605ba45b60002",
  "0f856c010000",
  "ba01000000",
  "4889df",
  "e8a74f0500",
]
const CLEAR = "81a0641400007fffffff"
const RETURN = "4883c408c3"
const injection = Buffer.from([AROUND[0], STORE, ...AROUND.slice(1)].join(""), "hex")
const ignne = Buffer.from(`e876e11a00${CLEAR}${RETURN}`, "hex")
const other = Buffer.from("f3c3".repeat(40), "hex")
const qemu = Buffer.concat([other, injection, other, ignne, other])

/** `program` with the first `from` in it, both hexadecimal, replaced. */
function replaced(program: Buffer, from: string, to: string): Buffer {
  const text = program.toString("hex")
  expect(text).toContain(from)
  return Buffer.from(text.replace(from, to), "hex")
}

describe("mend", () => {
  it("replaces the two stores, and nothing else, by instructions that do nothing", () => {
    const wanted = replaced(replaced(qemu, STORE, "660f1f440000"), CLEAR, "662e0f1f840000000000")
    expect(mend(qemu)?.toString("hex")).toBe(wanted.toString("hex"))
  })

  it.each([
    ["without the places", other],
    ["without the first", ignne],
    ["without the second", injection],
    ["with two of the first", Buffer.concat([qemu, injection])],
    ["with two of the second", Buffer.concat([qemu, ignne])],
    ["where the first is a store above the registers", replaced(qemu, STORE, "89b354ef0000")],
    ["where the second is locked", replaced(qemu, CLEAR, `f0${CLEAR}`)],
  ])("leaves a program %s alone", (_what, program) => {
    expect(mend(program)).toBeUndefined()
  })
})

describe("mendedQemu", () => {
  let directory: string
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "virtkit-mend-"))
  })
  afterEach(() => rm(directory, { recursive: true }))

  it("makes one copy, which can be executed and finds what lies beside the original", async () => {
    const program = join(directory, "program")
    await writeFile(program, qemu)
    const copy = await mendedQemu(program, directory)
    expect((await stat(copy)).mode & 0o777).toBe(0o755)
    expect(await readFile(copy)).toEqual(mend(qemu))
    expect(await realpath(join(copy, "../../share")).catch(() => "nothing")).toBe("nothing")
    const before = await stat(copy)
    expect(await mendedQemu(program, directory)).toBe(copy)
    expect((await stat(copy)).ino).toBe(before.ino)
  })

  it("uses another QEMU as it is, and looks again when it changes", async () => {
    const program = join(directory, "program")
    await writeFile(program, other)
    expect(await mendedQemu(program, directory)).toBe(program)
    expect(await mendedQemu(program, directory)).toBe(program)
    await writeFile(program, qemu)
    await utimes(program, 1, 1)
    expect(await mendedQemu(program, directory)).not.toBe(program)
  })

  it.skipIf(!findTool("qemu-system-x86_64"))("knows the places in the QEMU of this machine", async () => {
    const program = findTool("qemu-system-x86_64")!
    expect(await mendedQemu(program, directory)).not.toBe(program)
  })
})
