import { describe, expect, it } from "vitest"
import { vcpuCpuid } from "../src/cpuid.js"

const leaf = (fn: number, index: number, eax: number, ebx: number, ecx: number, edx: number) => ({
  function: fn,
  index,
  flags: 0,
  eax,
  ebx,
  ecx,
  edx,
})
const host = [
  leaf(0, 0, 0x1f, 0, 0, 0),
  leaf(1, 0, 0, 0xff_10_0800, 0, 0xffff_ffff),
  leaf(4, 0, 0xfc00_0121, 0, 0, 0),
  leaf(4, 3, 0xfc00_0163, 0, 0, 0),
  leaf(0xb, 0, 1, 2, 0x100, 77),
  leaf(0xb, 1, 7, 96, 0x201, 77),
  leaf(0x8000_0008, 0, 0x3030, 0, 0x705f, 0),
]
const find = (entries: ReturnType<typeof vcpuCpuid>, fn: number, index = 0) =>
  entries.find((entry) => entry.function === fn && entry.index === index)!

describe("vcpuCpuid", () => {
  it("shows one socket of cores with a thread each (leaf 0xb, Intel SDM)", () => {
    const entries = vcpuCpuid(host, { apicId: 2, cpus: 3, tscDeadline: true })
    expect(entries.filter((entry) => entry.function === 0xb)).toHaveLength(3)
    expect(find(entries, 0xb, 0)).toMatchObject({ eax: 0, ebx: 1, ecx: 0x100, edx: 2 })
    expect(find(entries, 0xb, 1)).toMatchObject({ eax: 2, ebx: 3, ecx: 0x201, edx: 2 })
    expect(entries.some((entry) => entry.function === 0x1f)).toBe(false)
  })

  it("sets APIC id, HTT, x2APIC, TSC deadline and hypervisor bits in leaf 1", () => {
    const two = find(vcpuCpuid(host, { apicId: 1, cpus: 2, tscDeadline: true }), 1)
    expect(two.ebx).toBe(0x0102_0800)
    expect(two.ecx).toBe(0x8120_0000)
    expect(two.edx).toBe(0xffff_ffff)
    const one = find(vcpuCpuid(host, { apicId: 0, cpus: 1, tscDeadline: false }), 1)
    expect(one.ecx).toBe(0x8020_0000)
    expect(one.edx).toBe(0xefff_ffff)
  })

  it("keeps APIC ids above 127 unsigned", () => {
    expect(find(vcpuCpuid(host, { apicId: 200, cpus: 64, tscDeadline: false }), 1).ebx).toBe(0xc840_0800)
  })

  it("says that all cores share the last cache and none the first (leaf 4)", () => {
    const entries = vcpuCpuid(host, { apicId: 0, cpus: 4, tscDeadline: false })
    expect((find(entries, 4, 0).eax >>> 14) & 0xfff).toBe(0)
    expect((find(entries, 4, 3).eax >>> 14) & 0xfff).toBe(3)
    expect(find(entries, 4, 3).eax >>> 26).toBe(3)
  })

  it("counts the cores for AMD (leaf 0x80000008)", () => {
    expect(find(vcpuCpuid(host, { apicId: 0, cpus: 2, tscDeadline: false }), 0x8000_0008).ecx).toBe(0x1001)
  })
})
