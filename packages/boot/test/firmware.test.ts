import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import {
  firmwareCmos,
  firmwareFiles,
  firmwareTables,
  KernelFormatError,
  loadFirmware,
  MEMORY_TYPE,
  readFirmware,
} from "@virtkit/boot"
import { ConfigError } from "@virtkit/interface"
import { TestMemory } from "@virtkit/testkit"
import { afterAll, describe, expect, it } from "vitest"
import { bzImage, elf, MIB, pattern, ram, readBytes, rejection, same } from "./images.js"
import { resetSregs } from "./sregs.js"

const KIB = 1024
const FAR_JUMP = [0xea, 0x5b, 0xe0, 0x00, 0xf0]

/** An image with `vector` as its first instructions. */
function rom(size: number, vector: readonly number[] = FAR_JUMP): Uint8Array {
  const bytes = new Uint8Array(size)
  bytes.set(pattern(Math.min(size, 256 * KIB), 3), Math.max(0, size - 256 * KIB))
  bytes.fill(0, size - 16)
  bytes.set(vector, size - 16)
  return bytes
}

const image = (bytes: Uint8Array) => ({ name: "the ROM", bytes })

describe("firmware is recognised", () => {
  const directory = mkdtempSync(join(tmpdir(), "virtkit-firmware-"))
  afterAll(() => rmSync(directory, { recursive: true }))

  it.each<[string, number[]]>([
    ["a far jump", FAR_JUMP],
    ["a near jump", [0xe9, 0x8d, 0xff]],
    ["a short jump", [0xeb, 0xf0]],
    ["interrupts off before it", [0xfa, 0xfc, 0xe9, 0x0b, 0xf8]],
    ["caches written back before it", [0x0f, 0x09, 0xe9, 0x0b, 0xf8]],
    ["no-operations before it", [0x90, 0x90, 0xe9, 0x0b, 0xf8]],
    ["a 32-bit jump", [0x66, 0xe9, 0, 0, 0, 0]],
  ])("by %s at the reset vector", async (_, vector) => {
    const bytes = rom(64 * KIB, vector)
    expect(same((await readFirmware(bytes))?.bytes ?? new Uint8Array(0), bytes)).toBe(true)
  })

  it("in a file", async () => {
    const path = join(directory, "bios.bin")
    writeFileSync(path, rom(128 * KIB))
    const found = await readFirmware(path)
    expect(found?.name).toBe(path)
    expect(found?.bytes.length).toBe(128 * KIB)
  })

  it.each<[string, Uint8Array]>([
    ["a bzImage", bzImage()],
    ["a bzImage that ends as a ROM does", rom(64 * KIB).fill(0x90, 0, 1024)],
    ["an ELF image", elf()],
    ["something else", rom(64 * KIB, [0xf4])],
    ["nothing but prefixes", rom(64 * KIB, Array(16).fill(0x90))],
    ["parts of a page", rom(64 * KIB - 16)],
    ["less than a page", rom(2 * KIB)],
    ["empty", new Uint8Array(0)],
  ])("and not when it is %s", async (what, bytes) => {
    if (what.startsWith("a bzImage that")) bytes.set(bzImage().subarray(0, 1024))
    expect(await readFirmware(bytes)).toBe(undefined)
  })

  it("bad-input #32: and refused when it is too large", async () => {
    const error = await rejection(readFirmware(rom(16 * MIB + 4 * KIB)))
    expect(error).toBeInstanceOf(KernelFormatError)
    expect(error.message).toMatch(/16 MiB/)
  })
})

describe("firmware is loaded", () => {
  it.each([4 * KIB, 128 * KIB, 256 * KIB, MIB, 16 * MIB])(
    "with %i bytes up to 4 GiB, and shadowed",
    (size) => {
      const memory = ram(32 * MIB)
      const bytes = rom(size)
      const loaded = loadFirmware(memory, image(bytes))
      expect(loaded.rom.address).toBe(2 ** 32 - size)
      expect(loaded.rom.bytes).toBe(bytes)
      expect(loaded.image).toEqual({ address: 2 ** 32 - size, size })
      const shadow = Math.min(size, 256 * KIB)
      expect(same(readBytes(memory, MIB - shadow, shadow), bytes.subarray(size - shadow))).toBe(true)
      expect(memory.written).toEqual([{ address: MIB - shadow, length: shadow }])
      expect(loaded.memoryMap).toContainEqual({ ...loaded.image, type: MEMORY_TYPE.reserved })
    },
  )

  it("and started where a processor starts", () => {
    const { setup, entry, kind } = loadFirmware(ram(), image(rom(64 * KIB)))
    expect([kind, entry]).toEqual(["firmware", 0xffff_fff0])
    const sregs = resetSregs()
    const set = setup.applySregs({ ...sregs, cs: { ...sregs.cs, base: 0n, selector: 0 } })
    expect(set).toEqual(sregs)
    expect(set.cs.base + setup.regs.rip).toBe(0xffff_fff0n)
  })

  it.each([0, 100, 4097, 16 * MIB + 4096])("bad-input #32: but not with %i bytes", (size) => {
    expect(() => loadFirmware(ram(32 * MIB), image(new Uint8Array(size)))).toThrow(KernelFormatError)
  })

  it("bad-input #32: but not over RAM, nor where there is none", () => {
    const below = { guestAddress: 2 ** 32 - 2 * MIB, size: 2 * MIB - 64 * KIB + 1 }
    const over = new TestMemory({ regions: [{ guestAddress: 0, size: 2 * MIB }, below] })
    expect(() => loadFirmware(over, image(rom(64 * KIB)))).toThrow(ConfigError)
    const small = new TestMemory({ regions: [{ guestAddress: 0, size: 64 * KIB }] })
    expect(() => loadFirmware(small, image(rom(4 * KIB)))).toThrow(ConfigError)
    expect([...over.written, ...small.written]).toEqual([])
  })
})

describe("firmware is told", () => {
  const tables = { address: 48 * MIB - 128 * KIB, size: 128 * KIB }

  it("to leave the tables alone", () => {
    expect(firmwareTables(ram(48 * MIB), 128 * KIB)).toEqual(tables)
    expect(firmwareTables(ram(48 * MIB + 4096), 128 * KIB)).toEqual(tables)
    expect(() => firmwareTables(ram(16 * MIB), 128 * KIB)).toThrow(ConfigError)
  })

  it("the size of memory by CMOS", () => {
    const cmos = firmwareCmos(ram(48 * MIB, 5 * MIB), tables)
    const at = (...registers: number[]) =>
      registers.reduceRight((sum, register) => sum * 256 + (cmos.get(register) ?? -1), 0)
    expect(at(0x15, 0x16)).toBe(640)
    expect(at(0x17, 0x18)).toBe(48 * KIB - 128 - 1024)
    expect(at(0x30, 0x31)).toBe(at(0x17, 0x18))
    expect(at(0x34, 0x35) * 64 * KIB + 16 * MIB).toBe(tables.address)
    expect(at(0x5b, 0x5c, 0x5d) * 64 * KIB).toBe(5 * MIB)
    const large = firmwareCmos(ram(48 * MIB), { address: 2 ** 31, size: 0 })
    expect([large.get(0x17), large.get(0x18)]).toEqual([0xff, 0xff])
  })

  it("the memory map, and one command for the root pointer, by files", () => {
    const memory = ram(48 * MIB, 5 * MIB)
    const rsdp = pattern(36, 9)
    const ecam = { address: 0xe000_0000, size: 256 * MIB }
    const files = firmwareFiles({ memory, tables, reserved: [ecam], rsdp, serialPort: 0x3f8 })
    const e820 = new DataView(files["etc/e820"]!.buffer)
    const entries = Array.from({ length: e820.byteLength / 20 }, (_, index) => [
      Number(e820.getBigUint64(index * 20, true)),
      Number(e820.getBigUint64(index * 20 + 8, true)),
      e820.getUint32(index * 20 + 16, true),
    ])
    expect(entries).toEqual([
      [0, tables.address, 1],
      [tables.address, tables.size, 2],
      [ecam.address, ecam.size, 2],
      [2 ** 32, 5 * MIB, 1],
    ])
    expect(files["etc/acpi/rsdp"]).toBe(rsdp)
    expect(files["etc/sercon-port"]).toEqual(Uint8Array.of(0xf8, 0x03))
    const loader = files["etc/table-loader"]!
    const view = new DataView(loader.buffer)
    expect(loader.length).toBe(128)
    expect([view.getUint32(0, true), view.getUint32(60, true), loader[64]]).toEqual([1, 16, 2])
    expect(Buffer.from(loader.subarray(4, 60)).toString("latin1")).toBe("etc/acpi/rsdp".padEnd(56, "\0"))
  })
})
