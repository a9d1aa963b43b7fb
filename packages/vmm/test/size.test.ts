import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { formatSize, parseSize } from "../src/size.js"

describe("parseSize", () => {
  it.each([
    ["0", 0],
    ["512", 512],
    ["4K", 4096],
    ["512M", 536870912],
    ["1.5G", 1610612736],
    ["2GiB", 2147483648],
    ["1P", 1125899906842624],
  ])("reads %s", (text, bytes) => {
    expect(parseSize(text, "memory")).toBe(bytes)
  })

  it.each(["", "M", "-1", "1X", "0x10", "1.5", "99999P", "1e9", "5 12M"])("refuses %j by name", (text) => {
    expect(() => parseSize(text, "memory")).toThrow(/^memory: /)
  })

  it.each([-1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53])("refuses the number %s", (number) => {
    expect(() => parseSize(number, "memory")).toThrow(/^memory: /)
  })

  it("reads back what formatSize writes for whole units", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 1023 }), fc.integer({ min: 1, max: 4 }), (count, power) => {
        const bytes = count * 1024 ** power
        expect(parseSize(formatSize(bytes).replace(" ", ""), "x")).toBe(bytes)
      }),
    )
  })
})
