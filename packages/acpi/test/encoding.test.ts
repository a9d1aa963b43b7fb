import { aml } from "@virtkit/acpi"
import { ConfigError } from "@virtkit/interface"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { hex } from "./machine.js"

describe("PkgLength (ACPI 20.2.4)", () => {
  // The value counts the bytes that it takes itself.
  it.each([
    [0, "01"],
    [62, "3f"],
    [63, "41 04"],
    [0xffd, "4f ff"],
    [0xffe, "81 00 01"],
    [0xffffc, "8f ff ff"],
    [0xffffd, "c1 00 00 01"],
    [0xffffffb, "cf ff ff ff"],
  ])("of %i bytes is %s", (length, expected) => {
    expect(aml.pkgLength(length)).toEqual(hex(expected))
  })

  it("refuses what it cannot express", () => {
    expect(() => aml.pkgLength(0xffffffc)).toThrow(ConfigError)
  })

  it("reads back as content and itself, in the fewest bytes", () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 0xffffffb }), (length) => {
        const bytes = aml.pkgLength(length)
        expect(readPkgLength(bytes)).toBe(length + bytes.length)
        const shorter = [0, 0x3f, 0xfff, 0xfffff][bytes.length - 1] as number
        if (bytes.length > 1) expect(length + bytes.length - 1).toBeGreaterThan(shorter)
      }),
    )
  })
})

/** A reader written from the specification. */
function readPkgLength(bytes: Uint8Array): number {
  const [lead = 0, ...rest] = bytes
  expect(lead >> 6).toBe(rest.length)
  if (rest.length === 0) return lead & 0x3f
  expect(lead & 0x30).toBe(0)
  return rest.reduce((sum, byte, index) => sum + byte * 2 ** (4 + 8 * index), lead & 0x0f)
}

describe("integers (ACPI 20.2.3)", () => {
  it.each<[number | bigint, string]>([
    [0, "00"],
    [1, "01"],
    [2, "0a 02"],
    [0xff, "0a ff"],
    [0x100, "0b 00 01"],
    [0x10000, "0c 00 00 01 00"],
    [0xffffffff, "0c ff ff ff ff"],
    [0x1_0000_0000, "0e 00 00 00 00 01 00 00 00"],
    [0xffff_ffff_ffff_ffffn, "ff"],
  ])("%s is %s", (value, expected) => {
    expect(aml.integer(value)).toEqual(hex(expected))
  })

  it("keep their value", () => {
    const sizes: Record<number, number> = { 10: 1, 11: 2, 12: 4, 14: 8 }
    fc.assert(
      fc.property(fc.bigInt({ min: 2n, max: 2n ** 64n - 2n }), (value) => {
        const [prefix = 0, ...digits] = aml.integer(value)
        expect(digits.length).toBe(sizes[prefix])
        expect(digits.reduceRight((sum, byte) => (sum << 8n) | BigInt(byte), 0n)).toBe(value)
      }),
    )
  })

  it.each([-1, 2n ** 64n])("%s is refused", (value) => {
    expect(() => aml.integer(value)).toThrow(ConfigError)
  })
})

describe("names (ACPI 20.2.2)", () => {
  it.each([
    ["_HID", "5f 48 49 44"],
    ["RTC", "52 54 43 5f"],
    ["\\", "5c 00"],
    ["^", "5e 00"],
    ["\\_SB", "5c 5f 53 42 5f"],
    ["\\_SB.GED", "5c 2e 5f 53 42 5f 47 45 44 5f"],
    ["^^A.B.C", "5e 5e 2f 03 41 5f 5f 5f 42 5f 5f 5f 43 5f 5f 5f"],
  ])("%s is %s", (path, expected) => {
    expect(aml.nameString(path)).toEqual(hex(expected))
  })

  it.each(["", "lower", "1ABC", "TOOLONG", "A..B", "A.", "\\^A", "Ä", "A\nB"])("%j is none", (path) => {
    expect(() => aml.nameString(path)).toThrow(ConfigError)
  })
})

describe("identifiers", () => {
  it("compresses EISA IDs (ACPI 19.6.36)", () => {
    expect(aml.eisaId("PNP0501")).toEqual(hex("0c 41 d0 05 01"))
    expect(aml.eisaId("PNP0A03")).toEqual(hex("0c 41 d0 0a 03"))
    expect(() => aml.eisaId("ACPI0007")).toThrow(ConfigError)
  })

  it("stores UUIDs in mixed order (ACPI 19.6.142)", () => {
    expect(aml.uuid("33db4d5b-1ff7-401c-9657-7441c03dd766")).toEqual(
      hex("11 13 0a 10 5b 4d db 33 f7 1f 1c 40 96 57 74 41 c0 3d d7 66"),
    )
    expect(() => aml.uuid("33db4d5b")).toThrow(ConfigError)
  })

  it("refuses strings that are not ASCII", () => {
    expect(aml.string("ACPI0007")).toEqual(hex("0d 41 43 50 49 30 30 30 37 00"))
    expect(() => aml.string("naïve")).toThrow(ConfigError)
  })
})
