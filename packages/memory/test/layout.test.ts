import { ConfigError } from "@virtkit/interface"
import { layoutRam } from "@virtkit/memory"
import { describe, expect, it } from "vitest"

const GiB = 2 ** 30

describe("layoutRam", () => {
  it("leaves the hole from 3 to 4 GiB out", () => {
    expect(layoutRam(512 * 2 ** 20)).toEqual([{ guestAddress: 0, size: 512 * 2 ** 20 }])
    expect(layoutRam(3 * GiB)).toEqual([{ guestAddress: 0, size: 3 * GiB }])
    expect(layoutRam(3 * GiB + 4096)).toEqual([
      { guestAddress: 0, size: 3 * GiB },
      { guestAddress: 4 * GiB, size: 4096 },
    ])
    expect(layoutRam(16 * GiB)[1]).toEqual({ guestAddress: 4 * GiB, size: 13 * GiB })
  })

  it("refuses sizes that make no sense, in one line", () => {
    for (const size of [0, -4096, 1, 4097, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 50]) {
      expect(() => layoutRam(size)).toThrow(ConfigError)
    }
    expect(() => layoutRam(2 ** 50)).toThrow("memory size must be at most 64 TiB, not 1125899906842624 bytes")
  })
})
