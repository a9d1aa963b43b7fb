import { ConfigError } from "@virtkit/interface"
import type { MsrFilterRange } from "@virtkit/kvm"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { checkMsrFilter, type MsrFilter, type MsrRule } from "../src/cpu-msr-filter.js"

const ALL = { from: 0, to: 0xffff_ffff, access: "readwrite", action: "deny" } as const

/** What KVM decides: the first range that has the register and the access, else the default. */
function decide(filter: MsrFilter | undefined, msr: number, access: "read" | "write"): boolean {
  const covers = (range: MsrFilterRange) =>
    range[access] === true && msr >= range.base && msr < range.base + range.allow.length
  const range = filter?.ranges.find(covers)
  if (filter === undefined) return true
  return range === undefined ? filter.defaultAccess === "allow" : range.allow[msr - range.base]!
}

describe("checkMsrFilter", () => {
  it("is nothing without a rule that denies", () => {
    expect(checkMsrFilter([])).toBe(undefined)
    expect(checkMsrFilter([{ index: 1, access: "read", action: "allow" }])).toBe(undefined)
  })

  it("puts registers that are near each other in one range", () => {
    const deny = (index: number): MsrRule => ({ index, access: "readwrite", action: "deny" })
    const filter = checkMsrFilter([deny(0x10), deny(0x174), deny(0xc000_0080)])
    expect(filter?.defaultAccess).toBe("allow")
    expect(filter?.ranges.map(({ base, allow, read, write }) => [base, allow.length, read, write])).toEqual([
      [0x10, 0x174 - 0x10 + 1, true, true],
      [0xc000_0080, 1, true, true],
    ])
  })

  it("denies the rest with a last rule for all", () => {
    const filter = checkMsrFilter([{ index: "0xc0000080", access: "read", action: "allow" }, ALL])
    expect(filter).toEqual({
      defaultAccess: "deny",
      ranges: [{ base: 0xc000_0080, read: true, write: false, allow: [true] }],
    })
    // KVM wants a range.
    expect(checkMsrFilter([ALL])?.ranges).toEqual([{ base: 0, read: true, write: true, allow: [false] }])
  })

  it("decides as the first rule that fits does", () => {
    const msr = fc.integer({ min: 0, max: 40 }).map((at) => 0xc000_0000 + at)
    const rule = fc
      .record({
        ends: fc.tuple(msr, msr),
        access: fc.constantFrom("read", "write", "readwrite"),
        action: fc.constantFrom("allow", "deny"),
      })
      .map(({ ends, ...rest }) => ({ from: Math.min(...ends), to: Math.max(...ends), ...rest }))
    fc.assert(
      fc.property(fc.array(rule, { maxLength: 8 }), fc.boolean(), (rules, last) => {
        const all = last ? [...rules, ALL] : rules
        const filter = checkMsrFilter(all)
        for (let at = 0xc000_0000 - 1; at < 0xc000_0000 + 42; at++) {
          for (const access of ["read", "write"] as const) {
            const fits = all.find(
              ({ from, to, access: which }) => from <= at && at <= to && which.includes(access),
            )
            expect(decide(filter, at, access)).toBe(fits?.action !== "deny")
          }
        }
      }),
    )
  })

  const deny = { access: "readwrite", action: "deny" }
  it.each([
    [{}, /msrFilter: it must be a list/],
    [[1], /msrFilter\[0\]: it must be an object/],
    [[{ ...deny }], /msrFilter\[0\]: give index, or from and to/],
    [[{ ...deny, from: 1 }], /give index, or from and to/],
    [[{ ...deny, index: 1, from: 1, to: 2 }], /give index, or from and to/],
    [[{ ...deny, from: 2, to: 1 }], /to is below from/],
    [[{ ...deny, index: "x" }], /msrFilter\[0\].index: "x" is not a number/],
    [[{ index: 1, action: "deny" }], /access: it must be read or write or readwrite/],
    [[{ index: 1, access: "read", action: "drop" }], /action: it must be allow or deny/],
    [[{ ...deny, index: 1, msr: 2 }], /unknown "msr"/],
    [[{ ...deny, index: 0x830 }], /local APIC's/],
    [[{ ...deny, from: 0x10_0000, to: 0x20_0000 }], /more than KVM takes at once, 12288; deny all from 0/],
    [
      Array.from({ length: 17 }, (_, at) => ({ ...deny, index: 0x1000_0000 * (at % 15) + at * 0x10_0000 })),
      /needs 17 ranges and KVM takes 16/,
    ],
  ])("refuses %j", (rules, message) => {
    expect(() => checkMsrFilter(rules)).toThrow(ConfigError)
    expect(() => checkMsrFilter(rules)).toThrow(message)
  })
})
