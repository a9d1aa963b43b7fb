import { loadKernel } from "@virtkit/boot"
import { ConfigError } from "@virtkit/interface"
import { describe, expect, it } from "vitest"
import { elf, MIB, pattern, programHeader, ram, readBytes, rejection } from "./images.js"
import { resetSregs } from "./sregs.js"

describe("an ELF kernel", () => {
  it("has its segments loaded and the rest of them zeroed", async () => {
    const memory = ram()
    memory.fill(0, 16 * MIB, 0xaa)
    const [text, data] = [pattern(5000, 1), pattern(300, 2)]
    const kernel = elf({
      segments: [
        { address: 3 * MIB, data, memorySize: 9000 },
        { address: 2 * MIB, data: text },
      ],
      entry: 2 * MIB + 16,
    })
    const loaded = await loadKernel({ memory, kernel })
    expect(loaded).toMatchObject({
      kind: "vmlinux",
      entry: 2 * MIB + 16,
      image: { address: 2 * MIB, size: MIB + 9000 },
    })
    expect(loaded.setup.regs).toMatchObject({ rip: BigInt(2 * MIB + 16), rsi: 0x7000n })
    expect(readBytes(memory, 2 * MIB, text.length)).toEqual(text)
    expect(readBytes(memory, 3 * MIB, 300)).toEqual(data)
    expect(readBytes(memory, 3 * MIB + 300, 8700).every((byte) => byte === 0)).toBe(true)
    expect(memory.readUint8(3 * MIB + 9000)).toBe(0xaa)
  })

  it("gets a boot_params that Linux accepts", async () => {
    const memory = ram()
    await loadKernel({ memory, kernel: elf() })
    expect(memory.readUint16(0x71fe)).toBe(0xaa55)
    expect(memory.readUint32(0x7202)).toBe(0x53726448)
    expect(memory.readUint8(0x7211) & 1).toBe(1)
  })

  it("may have a virtual entry point", async () => {
    const segment = { address: 2 * MIB, virtual: 0x40000000, data: pattern(100, 1) }
    const loaded = await loadKernel({
      memory: ram(),
      kernel: elf({ segments: [segment], entry: 0x40000010 }),
    })
    expect(loaded.entry).toBe(2 * MIB + 0x10)
  })
})

describe("PVH", () => {
  const kernel = elf({ pvhEntry: 2 * MIB + 0x40 })

  it("is used when the image has the note", async () => {
    const memory = ram()
    const initrd = pattern(100, 9)
    const loaded = await loadKernel({ memory, kernel, initrd, cmdline: "hello", rsdpAddress: 0xe0000 })
    expect(loaded).toMatchObject({ kind: "pvh", entry: 2 * MIB + 0x40 })
    expect(loaded.setup.regs.rip).toBe(BigInt(2 * MIB + 0x40))
    const info = Number(loaded.setup.regs.rbx)
    const word = (offset: number): number => Number(memory.readBigUint64(info + offset))
    expect(memory.readUint32(info)).toBe(0x336ec578)
    expect(memory.readUint32(info + 4)).toBe(1)
    expect(memory.readUint32(info + 12)).toBe(1)
    const module = word(16)
    expect(memory.readBigUint64(module)).toBe(BigInt(16 * MIB - 4096))
    expect(memory.readBigUint64(module + 8)).toBe(100n)
    expect(Buffer.from(readBytes(memory, word(24), 6)).toString()).toBe("hello\0")
    expect(word(32)).toBe(0xe0000)
    expect(memory.readUint32(info + 48)).toBe(5)
    const map = word(40)
    expect(memory.readBigUint64(map + 3 * 24)).toBe(BigInt(MIB))
    expect(memory.readBigUint64(map + 3 * 24 + 8)).toBe(BigInt(15 * MIB))
    expect(memory.readUint32(map + 3 * 24 + 16)).toBe(1)
  })

  it("has no module without an initrd", async () => {
    const memory = ram()
    const { setup } = await loadKernel({ memory, kernel })
    expect(memory.readUint32(Number(setup.regs.rbx) + 12)).toBe(0)
    expect(memory.readBigUint64(Number(setup.regs.rbx) + 16)).toBe(0n)
  })

  it("starts in flat 32-bit protected mode without paging", async () => {
    const { setup } = await loadKernel({ memory: ram(), kernel })
    const sregs = setup.applySregs(resetSregs())
    expect(sregs).toMatchObject({ cr0: 0x11n, cr4: 0n, efer: 0n, cr3: 0n })
    expect(sregs.cs).toMatchObject({ base: 0n, limit: 0xffffffff, db: 1, l: 0, type: 0xb })
    expect(setup.regs.rflags).toBe(2n)
  })

  it("can be asked for or turned off", async () => {
    expect((await loadKernel({ memory: ram(), kernel, protocol: "linux" })).kind).toBe("vmlinux")
    const error = await rejection(loadKernel({ memory: ram(), kernel: elf(), protocol: "pvh" }))
    expect(error.message).toMatch(/has no PVH entry point/)
  })
})

const first = programHeader(0)
const two = (a: number, b: number) =>
  elf({
    segments: [
      { address: a, data: pattern(4096, 1) },
      { address: b, data: pattern(4096, 2) },
    ],
    entry: a,
  })

function second(field: number, value: number): Uint8Array {
  const image = two(2 * MIB, 3 * MIB)
  new DataView(image.buffer).setUint32(programHeader(1) + field, value, true)
  return image
}

describe("bad-input #32: an ELF kernel whose headers lie", () => {
  it.each<[string, Uint8Array, RegExp]>([
    ["ends within the header", elf().slice(0, 40), /header is cut short/],
    ["is a 32-bit image", elf({ fields: [[4, 1, 1]] }), /not a 64-bit ELF/],
    ["is big-endian", elf({ fields: [[5, 1, 2]] }), /not a 64-bit ELF/],
    ["is for another architecture", elf({ fields: [[18, 2, 183]] }), /another architecture/],
    ["is an object file", elf({ fields: [[16, 2, 1]] }), /not an executable/],
    ["has no program header", elf({ fields: [[56, 2, 0]] }), /has 0 program headers/],
    ["has too many program headers", elf({ fields: [[56, 2, 0xffff]] }), /has 65535 program headers/],
    ["has program headers of another size", elf({ fields: [[54, 2, 32]] }), /strange size/],
    ["has program headers beyond its end", elf({ fields: [[32, 4, 0xfffffff0]] }), /outside of the file/],
    [
      "has program headers that wrap",
      elf({
        fields: [
          [32, 4, 0xffffffff],
          [36, 4, 0xffffffff],
        ],
      }),
      /outside/,
    ],
    ["has nothing to load", elf({ fields: [[first, 4, 0]] }), /no segment to load/],
    ["has a segment beyond its end", elf({ fields: [[first + 8, 4, 0x7fffffff]] }), /cut short/],
    ["has a second segment beyond its end", second(8, 0x7fffffff), /cut short/],
    ["has a segment offset that wraps", elf({ fields: [[first + 12, 4, 0xffffffff]] }), /cut short/],
    [
      "has more bytes in the file than in memory",
      elf({ fields: [[first + 40, 4, 1]] }),
      /more bytes in the file/,
    ],
    ["has an address that overflows", elf({ fields: [[first + 28, 4, 0xffffffff]] }), /too large/],
    ["has overlapping segments", two(2 * MIB, 2 * MIB + 4095), /overlap/],
    ["has the same segment twice", two(2 * MIB, 2 * MIB), /overlap/],
    ["starts outside of its segments", elf({ entry: 8 * MIB }), /entry point 0x800000 is in none/],
    ["has a PVH entry outside of them", elf({ pvhEntry: 8 * MIB }), /entry point 0x800000 is in none/],
    ["lies below 1 MiB", two(0x80000, 2 * MIB), /below 1 MiB/],
  ])("%s", async (_, kernel, message) => {
    const memory = ram()
    const error = await rejection(loadKernel({ memory, kernel }))
    expect(error.message).toMatch(message)
    expect(error.name).toBe("KernelFormatError")
    expect(memory.written).toEqual([])
  })

  it.each<[string, Uint8Array]>([
    ["is loaded beyond the end of RAM", elf({ segments: [{ address: 64 * MIB, data: pattern(10, 1) }] })],
    ["crosses the end of RAM", elf({ segments: [{ address: 16 * MIB - 4, data: pattern(8, 1) }] })],
    ["takes more memory than there is", elf({ fields: [[first + 44, 4, 1]] })],
  ])("%s", async (_, kernel) => {
    const memory = ram()
    const error = await rejection(loadKernel({ memory, kernel }))
    expect(error).toBeInstanceOf(ConfigError)
    expect(error.message).toMatch(/too little for the kernel/)
    expect(memory.written).toEqual([])
  })

  it("survives notes that are cut off", async () => {
    for (let length = 0; length < 48; length++) {
      const kernel = elf({ pvhEntry: 2 * MIB, fields: [[programHeader(1) + 32, 4, length]] })
      const { kind } = await loadKernel({ memory: ram(), kernel })
      // The entry point is in bytes 40 to 43.
      expect(kind).toBe(length < 44 ? "vmlinux" : "pvh")
    }
  })

  it("survives notes that lie", async () => {
    const whole = elf({ pvhEntry: 2 * MIB })
    const notes = whole.length - 48
    for (const [offset, value] of [
      [0, 0xffffffff],
      [4, 0xfffffffd],
      [28, 0xffffffff],
      [24, 5],
    ] as const) {
      const kernel = whole.slice()
      new DataView(kernel.buffer).setUint32(notes + offset, value, true)
      expect((await loadKernel({ memory: ram(), kernel })).kind).toMatch(/vmlinux|pvh/)
    }
  })
})
