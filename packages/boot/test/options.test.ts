import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { loadKernel, loadRaw, MEMORY_TYPE, memoryMap } from "@virtkit/boot"
import { ConfigError } from "@virtkit/interface"
import { afterAll, describe, expect, it } from "vitest"
import { bzImage, elf, MIB, pattern, ram, readBytes, rejection, same } from "./images.js"
import { resetSregs } from "./sregs.js"

const directory = mkdtempSync(join(tmpdir(), "virtkit-boot-"))
afterAll(() => rmSync(directory, { recursive: true }))

function file(name: string, bytes: Uint8Array): string {
  const path = join(directory, name)
  writeFileSync(path, bytes)
  return path
}

describe("files", () => {
  it("are read straight into guest memory", async () => {
    const memory = ram()
    const [kernel, initrd] = [elf(), pattern(100_000, 4)]
    const loaded = await loadKernel({
      memory,
      kernel: file("vmlinux", kernel),
      initrd: file("initrd", initrd),
    })
    expect(same(readBytes(memory, loaded.initrd?.address ?? 0, initrd.length), initrd)).toBe(true)
    expect(memory.written).toContainEqual({ address: loaded.initrd?.address, length: initrd.length })
  })

  it.each<[string, () => string, RegExp]>([
    ["do not exist", () => join(directory, "none"), /cannot open the kernel .*none: no such file/],
    ["are directories", () => directory, /the kernel .* is a directory/],
    ["are empty", () => file("empty", new Uint8Array(0)), /empty is not a Linux kernel/],
    ["are not kernels", () => file("text", Buffer.from("hello")), /text is not a Linux kernel/],
  ])("that %s are named", async (_, path, message) => {
    const error = await rejection(loadKernel({ memory: ram(), kernel: path() }))
    expect(error).toBeInstanceOf(ConfigError)
    expect(error.message).toMatch(message)
  })

  it("of the host without a size are read to their end", async () => {
    const loaded = await loadKernel({ memory: ram(), kernel: elf(), initrd: "/proc/version" })
    expect(loaded.initrd?.size).toBeGreaterThan(10)
  })
})

describe("the initrd", () => {
  it("lies as high as the kernel allows", async () => {
    const kernel = bzImage({ fields: [[0x22c, 4, 10 * MIB - 1]] })
    const { initrd } = await loadKernel({ memory: ram(), kernel, initrd: pattern(5000, 1), unpack: false })
    expect(initrd).toEqual({ address: 10 * MIB - 8192, size: 5000 })
  })

  it("lies below the hole when there is RAM above 4 GiB", async () => {
    const memory = ram(16 * MIB, 16 * MIB)
    const { initrd } = await loadKernel({ memory, kernel: elf(), initrd: pattern(4096, 1) })
    expect(initrd?.address).toBe(16 * MIB - 4096)
  })

  it("may be empty", async () => {
    const { initrd } = await loadKernel({ memory: ram(), kernel: elf(), initrd: new Uint8Array(0) })
    expect(initrd).toBeUndefined()
  })

  it("fits exactly or is refused with both sizes", async () => {
    const kernel = elf({ segments: [{ address: 2 * MIB, data: pattern(4096, 1) }] })
    const room = 14 * MIB - 4096
    const { initrd } = await loadKernel({ memory: ram(), kernel, initrd: new Uint8Array(room) })
    expect(initrd?.address).toBe(2 * MIB + 4096)
    const error = await rejection(loadKernel({ memory: ram(), kernel, initrd: new Uint8Array(room + 1) }))
    expect(error).toBeInstanceOf(ConfigError)
    expect(error.message).toBe(
      "the initrd (14 MiB) does not fit into guest memory: " +
        "of 16 MiB below 4 GiB the kernel takes the first 2 MiB",
    )
  })
})

describe("the command line", () => {
  it("may have as many bytes as the kernel takes, which UTF-8 counts", async () => {
    const kernel = bzImage({ fields: [[0x238, 4, 10]] })
    const load = (cmdline: string) => loadKernel({ memory: ram(), kernel, cmdline, unpack: false })
    await load("0123456789")
    expect((await rejection(load("0123456789a"))).message).toBe(
      "the kernel command line has 11 bytes, this kernel takes 10",
    )
    expect(await rejection(load("ääääää"))).toBeInstanceOf(ConfigError)
    expect((await rejection(load("a\0b"))).message).toMatch(/NUL/)
  })

  it("has a limit even when the kernel names none", async () => {
    const kernel = bzImage({ fields: [[0x238, 4, 0xffffffff]] })
    const error = await rejection(
      loadKernel({ memory: ram(), kernel, cmdline: "x".repeat(65536), unpack: false }),
    )
    expect(error.message).toMatch(/takes 65535/)
  })
})

describe("guest memory", () => {
  it.each([
    ["is too small", [{ guestAddress: 0, size: MIB }]],
    ["does not start at 0", [{ guestAddress: MIB, size: 16 * MIB }]],
  ])("that %s is refused", async (_, regions) => {
    const { TestMemory } = await import("@virtkit/testkit")
    const error = await rejection(loadKernel({ memory: new TestMemory({ regions }), kernel: elf() }))
    expect(error.message).toBe("a kernel needs more than 1 MiB of guest memory, from address 0 on")
  })

  it("is described to the guest without overlaps, by address", () => {
    const ecam = { address: 0xe000_0000, size: 16 * MIB }
    const map = memoryMap(ram(16 * MIB, MIB), [ecam])
    expect(map).toContainEqual({ ...ecam, type: MEMORY_TYPE.reserved })
    for (const [index, entry] of map.entries()) {
      const previous = map[index - 1]
      if (previous) expect(entry.address).toBeGreaterThanOrEqual(previous.address + previous.size)
    }
    const usable = map.filter(({ type }) => type === MEMORY_TYPE.ram)
    expect(usable.reduce((sum, { size }) => sum + size, 0)).toBe(0x9fc00 + 16 * MIB)
  })
})

describe("raw code", () => {
  const code = Uint8Array.of(0xf4)

  it("starts in real mode at its paragraph", () => {
    const memory = ram()
    const loaded = loadRaw({ memory, code, address: 0x12345, mode: "real" })
    expect(memory.readUint8(0x12345)).toBe(0xf4)
    expect(loaded).toMatchObject({ kind: "raw", entry: 0x12345, image: { address: 0x12345, size: 1 } })
    const sregs = loaded.setup.applySregs(resetSregs())
    for (const segment of [sregs.cs, sregs.ds, sregs.es, sregs.ss]) {
      expect(segment).toMatchObject({ selector: 0x1234, base: 0x12340n, limit: 0xffff })
    }
    expect(sregs.cs.type).toBe(0xb)
    expect(sregs.cr0).toBe(0x60000010n)
    expect(loaded.setup.regs.rip).toBe(5n)
  })

  it("starts in protected or long mode at its address", () => {
    for (const [mode, cr0] of [
      ["protected", 0x11n],
      ["long", 0x80000011n],
    ] as const) {
      const { setup } = loadRaw({ memory: ram(), code, address: 2 * MIB, mode })
      expect(setup.regs.rip).toBe(BigInt(2 * MIB))
      expect(setup.applySregs(resetSregs()).cr0).toBe(cr0)
    }
  })

  it("must lie where real mode can reach it", () => {
    expect(() => loadRaw({ memory: ram(), code, address: MIB, mode: "real" })).toThrow(ConfigError)
  })
})
