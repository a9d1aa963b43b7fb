import fc from "fast-check"
import { expect, it } from "vitest"
import { type ControlSource, parseControl } from "../src/control.js"
import { ReceiveFilter } from "../src/filter.js"
import { macBytes } from "./helpers.js"

/** A readable part that counts what is read of it. */
function source(bytes: Uint8Array): ControlSource & { read: number } {
  return {
    readableBytes: bytes.length,
    read: 0,
    copyOut(offset, target) {
      const part = bytes.subarray(offset, offset + target.length)
      target.set(part)
      this.read += part.length
      return part.length
    },
  }
}

const parse = (...bytes: number[]) => parseControl(source(Uint8Array.from(bytes)))
const u32 = (n: number) => [n & 0xff, (n >> 8) & 0xff, (n >> 16) & 0xff, n >>> 24]

it("knows the commands of the specification", () => {
  const modes = ["promisc", "allmulti", "alluni", "nomulti", "nouni", "nobcast"]
  for (const [command, mode] of modes.entries()) {
    expect(parse(0, command, 1)).toEqual({ kind: "mode", mode, on: true })
    expect(parse(0, command, 0)).toEqual({ kind: "mode", mode, on: false })
  }
  expect(parse(1, 1, 1, 2, 3, 4, 5, 6)).toEqual({ kind: "mac", mac: Uint8Array.of(1, 2, 3, 4, 5, 6) })
  expect(parse(2, 0, 0xff, 0x0f)).toEqual({ kind: "vlan", vlan: 4095, on: true })
  expect(parse(2, 1, 7, 0)).toEqual({ kind: "vlan", vlan: 7, on: false })
  expect(parse(3, 0)).toEqual({ kind: "announced" })
  expect(parse(4, 0, 2, 1)).toEqual({ kind: "queuePairs", pairs: 258 })
  expect(parse(5, 0, 2, 0, 0, 0, 0, 0, 0x40, 0)).toEqual({ kind: "offloads", features: 2n | (1n << 54n) })
  const tables = parse(1, 0, ...u32(2), 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, ...u32(1), 3, 0, 0, 0, 0, 1)
  expect(tables).toEqual({
    kind: "macTable",
    unicast: { entries: Uint8Array.of(2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2), overflow: false },
    multicast: { entries: Uint8Array.of(3, 0, 0, 0, 0, 1), overflow: false },
  })
})

it("refuses what is none", () => {
  for (const bytes of [
    [],
    [0],
    [0, 0],
    [0, 6, 1],
    [0, 0, 1, 1],
    [1, 1, 1, 2, 3, 4, 5],
    [1, 2, 1],
    [2, 0, 1],
    [2, 0, 0, 0x10],
    [2, 2, 1, 0],
    [3, 0, 0],
    [4, 0, 1],
    [4, 1, 1, 0],
    [5, 0, 1, 2, 3, 4],
    [6, 0, 1],
    [255, 255],
  ]) {
    expect(parse(...bytes), `${bytes}`).toBeUndefined()
  }
})

it("refuses tables whose counts and lengths disagree", () => {
  expect(parse(1, 0)).toBeUndefined()
  expect(parse(1, 0, ...u32(0))).toBeUndefined()
  expect(parse(1, 0, ...u32(0), ...u32(0))).toBeDefined()
  expect(parse(1, 0, ...u32(0), ...u32(0), 0)).toBeUndefined()
  expect(parse(1, 0, ...u32(1), ...u32(0))).toBeUndefined()
  expect(parse(1, 0, ...u32(0xffff_ffff), ...u32(0))).toBeUndefined()
  expect(parse(1, 0, ...u32(0), ...u32(0xffff_ffff))).toBeUndefined()
  // 0x2aaaaaab * 6 is 2 in 32 bits.
  expect(parse(1, 0, ...u32(0x2aaa_aaab), 0, 0, ...u32(0))).toBeUndefined()
})

it("bad-input #12: a MAC table of 100,000 entries is not read", () => {
  const bytes = new Uint8Array(2 + 4 + 600_000 + 4)
  bytes.set([1, 0, ...u32(100_000)])
  const input = source(bytes)
  expect(parseControl(input)).toEqual({
    kind: "macTable",
    unicast: { entries: new Uint8Array(0), overflow: true },
    multicast: { entries: new Uint8Array(0), overflow: false },
  })
  expect(input.read).toBeLessThan(20)
})

it("bad-input #12: commands of every length from 0 to 300 and any content", () => {
  for (let length = 0; length <= 300; length++) {
    for (let kind = 0; kind < 7; kind++) {
      const input = source(new Uint8Array(length).fill(1).fill(kind, 0, 1).fill(0, 1, 2))
      parseControl(input)
      expect(input.read).toBeLessThan(20)
    }
  }
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), fc.nat(6), fc.nat(6), (bytes, kind, command) => {
      if (bytes.length > 1) bytes.set([kind, command])
      const input = source(bytes)
      parseControl(input)
      expect(input.read).toBeLessThanOrEqual(bytes.length)
    }),
  )
})

it("filters as told", () => {
  const filter = new ReceiveFilter(macBytes("52:54:00:00:00:01"))
  const to = (mac: string, vlan?: number) => {
    const head = new Uint8Array(18)
    head.set(macBytes(mac))
    if (vlan !== undefined) head.set([0x81, 0, 0x20 | (vlan >> 8), vlan & 0xff], 12)
    return filter.accepts(Uint8Array.of(9, 9, ...head), 2)
  }
  const own = "52:54:00:00:00:01"
  const other = "52:54:00:00:00:02"
  const group = "33:33:00:00:00:01"
  const all = "ff:ff:ff:ff:ff:ff"
  const accepted = () => [own, other, group, all].map((mac) => to(mac))
  expect(accepted()).toEqual([true, true, true, true])
  filter.modes.promisc = false
  expect(accepted()).toEqual([true, false, false, true])
  filter.modes.alluni = true
  filter.modes.allmulti = true
  expect(accepted()).toEqual([true, true, true, true])
  Object.assign(filter.modes, { nomulti: true, nouni: true, nobcast: true })
  expect(accepted()).toEqual([false, false, false, false])
  Object.assign(filter.modes, {
    nomulti: false,
    nouni: false,
    nobcast: false,
    alluni: false,
    allmulti: false,
  })
  filter.unicast = { entries: macBytes(other), overflow: false }
  filter.multicast = { entries: macBytes(group), overflow: false }
  expect(accepted()).toEqual([true, true, true, true])
  expect([to("52:54:00:00:00:03"), to("33:33:00:00:00:02")]).toEqual([false, false])
  filter.unicast = { entries: new Uint8Array(0), overflow: true }
  expect(to("52:54:00:00:00:03")).toBe(true)
  filter.vlanFiltering = true
  filter.setVlan(0x123, true)
  expect([to(own), to(own, 0x123), to(own, 0x124)]).toEqual([true, true, false])
  filter.setVlan(0x123, false)
  expect(to(own, 0x123)).toBe(false)
})
