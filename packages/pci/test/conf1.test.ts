import { expect, it } from "vitest"
import { bar, machine, TestFunction, VENDOR } from "./machine.js"

const ADDRESS = 0xcf8
const DATA = 0xcfc
/** Device 1, register 0. */
const DEVICE_1 = 0x8000_0800

function withFunction() {
  const pc = machine()
  pc.bus.add(new TestFunction("one", { bars: [bar(0, "memory32", 0x1000)] }), { device: 1 })
  return pc
}

it("the address register keeps the bits that mean something", () => {
  const { host } = withFunction()
  host.write("io", ADDRESS, 4, 0xffff_ffff)
  expect(host.read("io", ADDRESS, 4)).toBe(0x80ff_fffc)
  host.write("io", ADDRESS, 4, 0x8000_0000)
  expect(host.read("io", ADDRESS, 4)).toBe(0x8000_0000)
})

it("data accesses of all widths reach the bytes of the register", () => {
  const { host } = withFunction()
  host.write("io", ADDRESS, 4, DEVICE_1)
  expect(host.read("io", DATA, 4)).toBe(0x5678_1234)
  expect(host.read("io", DATA + 2, 2)).toBe(0x5678)
  expect(host.read("io", DATA + 1, 2)).toBe(0x7812)
  expect(host.read("io", DATA + 3, 1)).toBe(0x56)
  host.write("io", ADDRESS, 4, DEVICE_1 + 0x3c)
  host.write("io", DATA, 1, 0xa5)
  host.write("io", DATA + 1, 2, 0xffff)
  expect(host.read("io", DATA, 4)).toBe(0x01a5)
  host.write("io", ADDRESS, 4, DEVICE_1 + 0x10)
  host.write("io", DATA + 2, 2, 0xd012)
  expect(host.read("io", DATA, 4)).toBe(0xd012_0000)
})

it("nothing is there while the enable bit is off", () => {
  const { host } = withFunction()
  host.write("io", ADDRESS, 4, DEVICE_1 - 0x8000_0000)
  expect(host.read("io", DATA, 4)).toBe(0xffff_ffff)
  host.write("io", DATA, 4, 0)
  host.write("io", ADDRESS, 4, DEVICE_1)
  expect(host.read("io", DATA, 2)).toBe(VENDOR)
})

it("bytes and words of the address register are not it: no mechanism #2, no reset at 0xCF9", () => {
  const { host } = withFunction()
  host.write("io", ADDRESS, 4, DEVICE_1)
  for (const port of [0xcf8, 0xcf9, 0xcfa, 0xcfb]) {
    host.write("io", port, 1, 0x06)
    expect(host.read("io", port, 1)).toBe(0xff)
  }
  host.write("io", 0xcf8, 2, 0)
  expect(host.read("io", 0xcf8, 2)).toBe(0xffff)
  expect(host.read("io", ADDRESS, 4)).toBe(DEVICE_1)
})

it("bad-input #5: accesses astride of the registers", () => {
  const { host } = withFunction()
  host.write("io", ADDRESS, 4, DEVICE_1)
  for (const port of [0xcf9, 0xcfa, 0xcfb]) {
    expect(host.read("io", port, 4)).toBe(0xffff_ffff)
    host.write("io", port, 4, 0)
  }
  expect(host.read("io", ADDRESS, 4)).toBe(DEVICE_1)
  expect(host.read("io", 0xcfe, 4)).toBe(0xffff_5678)
  expect(() => host.write("io", 0xcfd, 4, 0xffff_ffff)).not.toThrow()
})
