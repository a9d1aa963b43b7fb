import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { gzipSync } from "node:zlib"
import fc from "fast-check"
import { afterEach, beforeEach, describe, expect, it } from "vitest"
import { moduleInfo, modulesDep, resolveModules } from "../src/modules.js"

/** A 64-bit ELF object with the sections "", ".modinfo" and ".shstrtab". */
function module(info: Record<string, string>): Buffer {
  const text = Buffer.from(
    Object.entries(info)
      .map(([key, value]) => `${key}=${value}\0`)
      .join(""),
  )
  const names = Buffer.from("\0.modinfo\0.shstrtab\0")
  const header = Buffer.alloc(64)
  header.write("\x7fELF\x02\x01\x01", 0, "latin1")
  const table = 64 + text.length + names.length
  header.writeBigUInt64LE(BigInt(table), 0x28)
  header.writeUInt16LE(64, 0x3a)
  header.writeUInt16LE(3, 0x3c)
  header.writeUInt16LE(2, 0x3e)
  const section = (name: number, offset: number, size: number): Buffer => {
    const bytes = Buffer.alloc(64)
    bytes.writeUInt32LE(name, 0)
    bytes.writeBigUInt64LE(BigInt(offset), 0x18)
    bytes.writeBigUInt64LE(BigInt(size), 0x20)
    return bytes
  }
  return Buffer.concat([
    header,
    text,
    names,
    section(0, 0, 0),
    section(1, 64, text.length),
    section(10, 64 + text.length, names.length),
  ])
}

describe("kernel modules", () => {
  let directory = ""
  const kernel = () => ({ vmlinuz: "", modulesDir: directory, release: "9.9-test" })
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "virtkit-lab-"))
    const files: Record<string, Buffer> = {
      "kernel/drivers/a-top.ko": module({ name: "a_top", depends: "middle,base" }),
      "kernel/drivers/middle.ko.gz": gzipSync(module({ depends: "base" })),
      "kernel/lib/base.ko": module({ license: "GPL", depends: "" }),
      "kernel/lib/unused.ko": module({ depends: "nothing" }),
    }
    for (const [name, bytes] of Object.entries(files)) {
      await mkdir(dirname(join(directory, name)), { recursive: true })
      await writeFile(join(directory, name), bytes)
    }
    await writeFile(join(directory, "modules.builtin"), "kernel/fs/ext4/ext4.ko\n")
  })
  afterEach(() => rm(directory, { recursive: true, force: true }))

  it("come after what they need, each once, unpacked", async () => {
    const modules = await resolveModules(kernel(), ["a_top", "base", "a-top"])
    expect(modules.map((found) => found.name)).toEqual(["base", "middle", "a_top"])
    expect(modules[1]).toMatchObject({ path: "kernel/drivers/middle.ko", depends: ["base"] })
    expect(modules[1]!.data.subarray(1, 4).toString()).toBe("ELF")
    expect(modulesDep(modules)).toBe(
      "kernel/lib/base.ko:\nkernel/drivers/middle.ko: kernel/lib/base.ko\nkernel/drivers/a-top.ko: kernel/drivers/middle.ko kernel/lib/base.ko\n",
    )
  })

  it("that are built in are left out", async () => {
    expect(await resolveModules(kernel(), ["ext4"])).toEqual([])
  })

  it("that the kernel lacks are an error with their name", async () => {
    await expect(resolveModules(kernel(), ["floppy"])).rejects.toThrow("kernel 9.9-test has no module floppy")
    await expect(resolveModules(kernel(), ["unused"])).rejects.toThrow("no module nothing")
  })

  it("that are broken are an error, whatever the bytes", () => {
    const good = module({ depends: "x" })
    expect(moduleInfo(good, "m").get("depends")).toEqual(["x"])
    fc.assert(
      fc.property(fc.nat(good.length - 1), fc.nat(255), fc.nat(good.length), (at, value, length) => {
        const bytes = Buffer.from(good.subarray(0, length))
        if (at < length) bytes[at] = value
        try {
          moduleInfo(bytes, "m")
        } catch (error) {
          expect(error).toMatchObject({ code: "ERR_VIRTKIT_MODULE" })
        }
      }),
    )
  })
})
