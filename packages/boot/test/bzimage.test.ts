import { loadKernel } from "@virtkit/boot"
import { ConfigError } from "@virtkit/interface"
import { describe, expect, it } from "vitest"
import { BZ_KERNEL_OFFSET, bzImage, MIB, pattern, ram, readBytes, rejection } from "./images.js"
import { resetSregs } from "./sregs.js"

/** A payload that nothing can unpack: the image is started as it is. */
const plain = bzImage()

describe("a bzImage that unpacks itself", () => {
  it("goes where it wants to be and starts at its 64-bit entry point", async () => {
    const memory = ram()
    const loaded = await loadKernel({ memory, kernel: plain, unpack: false })
    expect(loaded).toMatchObject({
      kind: "bzimage",
      entry: 2 * MIB + 0x200,
      image: { address: 2 * MIB, size: 4 * MIB },
      unpacked: undefined,
    })
    const kernel = plain.subarray(BZ_KERNEL_OFFSET)
    expect(readBytes(memory, 2 * MIB, kernel.length)).toEqual(kernel)
    expect(loaded.setup.regs).toMatchObject({ rip: BigInt(2 * MIB + 0x200), rsi: 0x7000n, rflags: 2n })
  })

  it("goes lower when RAM ends before, if it is relocatable", async () => {
    const kernel = bzImage({ prefAddress: 12 * MIB, initSize: 8 * MIB })
    const loaded = await loadKernel({ memory: ram(), kernel, unpack: false })
    expect(loaded.image.address).toBe(2 * MIB)
    const fixed = bzImage({ prefAddress: 12 * MIB, initSize: 8 * MIB, fields: [[0x234, 1, 0]] })
    const error = await rejection(loadKernel({ memory: ram(), kernel: fixed, unpack: false }))
    expect(error).toBeInstanceOf(ConfigError)
    expect(error.message).toBe(
      "16 MiB of guest memory below 4 GiB are too little for the kernel: it needs 20 MiB",
    )
  })

  it("says why it was not unpacked", async () => {
    const loaded = await loadKernel({ memory: ram(), kernel: plain })
    expect(loaded.kind).toBe("bzimage")
    expect(loaded.unpacked).toEqual({ failed: "its payload has an unknown format" })
  })
})

describe("boot_params", () => {
  it("has the kernel's header, the loader's answers and the memory map", async () => {
    const memory = ram(16 * MIB, 1 * MIB)
    const initrd = pattern(10000, 3)
    await loadKernel({
      memory,
      kernel: plain,
      initrd,
      cmdline: "console=ttyS0 quiet",
      rsdpAddress: 0xe0000,
      unpack: false,
    })
    const at = (offset: number): number => 0x7000 + offset
    expect(memory.readUint32(at(0x202))).toBe(0x53726448)
    expect(memory.readUint16(at(0x206))).toBe(0x020f)
    expect(memory.readUint8(at(0x210))).toBe(0xff)
    expect(memory.readUint32(at(0x214))).toBe(2 * MIB)
    expect(memory.readBigUint64(at(0x070))).toBe(0xe0000n)
    // The sentinel must be 0, or Linux takes the fields around it for rubbish.
    expect(memory.readUint8(at(0x1ef))).toBe(0)

    const initrdAddress = 16 * MIB - 12288
    expect(memory.readUint32(at(0x218))).toBe(initrdAddress)
    expect(memory.readUint32(at(0x21c))).toBe(initrd.length)
    expect(readBytes(memory, initrdAddress, initrd.length)).toEqual(initrd)

    const cmdline = memory.readUint32(at(0x228))
    expect(Buffer.from(readBytes(memory, cmdline, 20)).toString()).toBe("console=ttyS0 quiet\0")

    const entries = Array.from({ length: memory.readUint8(at(0x1e8)) }, (_, index) => [
      Number(memory.readBigUint64(at(0x2d0 + index * 20))),
      Number(memory.readBigUint64(at(0x2d8 + index * 20))),
      memory.readUint32(at(0x2e0 + index * 20)),
    ])
    expect(entries).toEqual([
      [0, 0x9fc00, 1],
      [0x9fc00, 0x400, 2],
      [0xe0000, 0x20000, 2],
      [0x100000, 15 * MIB, 1],
      [0xfeffc000, 0x4000, 2],
      [2 ** 32, MIB, 1],
    ])
  })

  it("copies no more of the header than it has", async () => {
    const kernel = bzImage({
      fields: [
        [0x26c, 4, 0xdeadbeef],
        [0x268, 4, 0x12345678],
      ],
    })
    const memory = ram()
    await loadKernel({ memory, kernel, unpack: false })
    expect(memory.readUint32(0x7000 + 0x268)).toBe(0x12345678)
    expect(memory.readUint32(0x7000 + 0x26c)).toBe(0)
  })
})

describe("long mode", () => {
  it("is on, with flat segments behind the selectors that Linux wants", async () => {
    const memory = ram()
    const { setup } = await loadKernel({ memory, kernel: plain, unpack: false })
    const before = resetSregs()
    const sregs = setup.applySregs(before)
    expect(before).toEqual(resetSregs())
    expect(sregs).toMatchObject({
      cr0: 0x80000011n,
      cr4: 0x20n,
      efer: 0x500n,
      cr8: 0n,
      apicBase: 0xfee00900n,
    })
    expect(sregs.cs).toMatchObject({
      selector: 0x10,
      base: 0n,
      limit: 0xffffffff,
      type: 0xb,
      l: 1,
      db: 0,
      g: 1,
    })
    for (const segment of [sregs.ds, sregs.es, sregs.ss]) {
      expect(segment).toMatchObject({ selector: 0x18, base: 0n, type: 3, db: 1, l: 0, present: 1, s: 1 })
    }
    expect(sregs.tr).toMatchObject({ selector: 0x20, type: 0xb, s: 0, present: 1 })
    // What reloading a selector gives must be what is loaded already.
    const descriptor = (selector: number) => memory.readBigUint64(Number(sregs.gdt.base) + selector)
    expect(sregs.gdt.limit).toBe(0x2f)
    expect(descriptor(0x00)).toBe(0n)
    expect(descriptor(0x10)).toBe(0x00af9b000000ffffn)
    expect(descriptor(0x18)).toBe(0x00cf93000000ffffn)
    expect(descriptor(0x20)).toBe(0x00008b0000000067n)
  })

  it("maps the first 4 GiB one to one", async () => {
    const memory = ram()
    const { setup } = await loadKernel({ memory, kernel: plain, unpack: false })
    const { cr3 } = setup.applySregs(resetSregs())
    for (const address of [0, 0x200000, 0x12345678, 0xd0000000, 0xfee00030, 2 ** 32 - 1]) {
      expect(translate(memory, Number(cr3), address)).toBe(address)
    }
    expect(translate(memory, Number(cr3), 2 ** 32)).toBeUndefined()
  })
})

/** A walk of 4-level page tables (Intel SDM volume 3, 4.5). */
function translate(memory: ReturnType<typeof ram>, root: number, address: number): number | undefined {
  let table = root
  for (const shift of [39, 30, 21, 12]) {
    const entry = memory.readBigUint64(table + (Math.floor(address / 2 ** shift) % 512) * 8)
    if (!(entry & 1n)) return undefined
    const base = Number(entry & 0x000f_ffff_ffff_f000n)
    if (entry & 0x80n) return base + (address % 2 ** shift)
    table = base
  }
  return table + (address % 4096)
}

describe("bad-input #32: a bzImage whose header lies", () => {
  it.each<[string, Uint8Array, RegExp]>([
    ["is empty", new Uint8Array(0), /is not a Linux kernel: it has no bzImage or ELF header/],
    ["is text", Buffer.from("#!/bin/sh\n".repeat(100)), /is not a Linux kernel/],
    ["ends within the header", plain.slice(0, 0x260), /is not a Linux kernel/],
    ["is cut short", plain.slice(0, 3000), /cut short: its header speaks of \d+ bytes, the file has 3000/],
    ["has more setup sectors than bytes", bzImage({ fields: [[0x1f1, 1, 255]] }), /cut short/],
    ["has a size beyond its end", bzImage({ fields: [[0x1f4, 4, 0xffffffff]] }), /cut short/],
    ["ends at its entry point", bzImage({ fields: [[0x1f4, 4, 0x20]] }), /ends before its 64-bit entry/],
    ["has no size", bzImage({ fields: [[0x1f4, 4, 0]] }), /cut short/],
    [
      "speaks an old protocol",
      bzImage({ fields: [[0x206, 2, 0x0209]] }),
      /boot protocol 2.09 is older than 2.12/,
    ],
    ["is a zImage", bzImage({ fields: [[0x211, 1, 0]] }), /zImage/],
    ["is a 32-bit kernel", bzImage({ fields: [[0x236, 2, 0]] }), /32-bit kernel/],
    ["has a payload beyond its end", bzImage({ fields: [[0x248, 4, 0xfffffff0]] }), /payload lies outside/],
    ["has a payload too long", bzImage({ fields: [[0x24c, 4, 0xfffffff0]] }), /payload lies outside/],
    ["wants to be above 4 GiB", bzImage({ fields: [[0x25c, 4, 1]] }), /above 4 GiB/],
    ["has a strange alignment", bzImage({ fields: [[0x230, 4, 3]] }), /alignment of 3 is not a power of two/],
  ])("%s", async (_, kernel, message) => {
    const memory = ram()
    const error = await rejection(loadKernel({ memory, kernel }))
    expect(error).toMatchObject({ name: "KernelFormatError", code: "ERR_VIRTKIT_KERNEL_FORMAT" })
    expect(error).toBeInstanceOf(ConfigError)
    expect(error.message).toMatch(message)
    expect(memory.written).toEqual([])
  })

  it.each<[string, Uint8Array]>([
    ["needs more memory than there is", bzImage({ initSize: 0xffffffff })],
    ["wants to be beyond the end of RAM", bzImage({ prefAddress: 0xffe00000, fields: [[0x234, 1, 0]] })],
    ["wants to be below 1 MiB", bzImage({ prefAddress: 0x8000, fields: [[0x234, 1, 0]] })],
  ])("%s", async (_, kernel) => {
    const error = await rejection(loadKernel({ memory: ram(), kernel, unpack: false }))
    expect(error).toBeInstanceOf(ConfigError)
    expect(error.message).toMatch(/too little for the kernel/)
  })
})
