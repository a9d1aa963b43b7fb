import { describe, expect, it } from "vitest"
import { checkCpus } from "../src/cpu-topology.js"
import { vcpuCpuid } from "../src/cpuid.js"
import { amdHost, find, intelHost } from "./cpuid-hosts.js"

const show = (
  host: typeof intelHost,
  cpus: Parameters<typeof checkCpus>[0],
  apicId = 0,
  tscDeadline = true,
) => vcpuCpuid(host, { apicId, topology: checkCpus(cpus), tscDeadline })

describe("vcpuCpuid", () => {
  it("sets APIC id, HTT, x2APIC, TSC deadline and hypervisor bits in leaf 1", () => {
    const two = find(show(intelHost, 2, 1), 1)
    expect(two.ebx).toBe(0x0102_0800)
    expect((two.ecx & 0x8120_0000) >>> 0).toBe(0x8120_0000)
    expect(two.edx & (1 << 28)).not.toBe(0)
    const one = find(show(intelHost, 1, 0, false), 1)
    expect((one.ecx & 0x8120_0000) >>> 0).toBe(0x8020_0000)
    expect(one.edx & (1 << 28)).toBe(0)
  })

  it("keeps APIC ids above 127 unsigned", () => {
    expect(find(show(intelHost, 255, 200), 1).ebx).toBe(0xc8ff_0800)
  })

  it("shows threads, cores and sockets in leaf 0xb, and in 0x1f where the host has it (Intel SDM)", () => {
    const cpus = { sockets: 2, cores: 3, threads: 2 }
    for (const leaf of [0xb, 0x1f]) {
      const entries = show(intelHost, cpus, 11)
      expect(find(entries, leaf, 0)).toMatchObject({ flags: 1, eax: 1, ebx: 2, ecx: 0x100, edx: 11 })
      expect(find(entries, leaf, 1)).toMatchObject({ flags: 1, eax: 3, ebx: 6, ecx: 0x201, edx: 11 })
      expect(find(entries, leaf, 2)).toMatchObject({ flags: 1, eax: 0, ebx: 0, ecx: 2, edx: 11 })
      expect(entries.filter((entry) => entry.function === leaf)).toHaveLength(3)
    }
    const amd = show(amdHost, cpus, 11)
    expect(find(amd, 0xb, 1)).toMatchObject({ eax: 3, ebx: 6 })
    expect(amd.some((entry) => entry.function === 0x1f || entry.function === 0x8000_0026)).toBe(false)
  })

  it("says who shares which cache (leaf 4, Intel)", () => {
    const entries = show(intelHost, { sockets: 2, cores: 4, threads: 2 })
    const sharing = (index: number) => (find(entries, 4, index).eax >>> 14) & 0xfff
    expect([sharing(0), sharing(1), sharing(2), sharing(3)]).toEqual([1, 1, 1, 7])
    expect(find(entries, 4, 3).eax >>> 26).toBe(3)
    expect(find(entries, 4, 4).eax).toBe(0)
    // The field has six bits.
    expect(find(show(intelHost, 200), 4, 3).eax >>> 26).toBe(63)
  })

  it("says who shares which cache (leaf 0x8000001d, AMD)", () => {
    const entries = show(amdHost, { sockets: 2, cores: 4, threads: 2 })
    const sharing = (index: number) => (find(entries, 0x8000_001d, index).eax >>> 14) & 0xfff
    expect([sharing(0), sharing(1), sharing(2), sharing(3)]).toEqual([1, 1, 1, 7])
    expect(find(entries, 4).eax).toBe(0)
  })

  it("counts threads and tells nodes and cores for AMD (leaves 1, 0x80000001, 0x80000008, 0x8000001e)", () => {
    const entries = show(amdHost, { sockets: 2, cores: 3, threads: 2 }, 13)
    expect((find(entries, 1).ebx >>> 16) & 0xff).toBe(6)
    expect(find(entries, 0x8000_0001).ecx & 0x40_0002).toBe(0x40_0002)
    expect(find(entries, 0x8000_0008).ecx & 0xf0ff).toBe(0x3005)
    expect(find(entries, 0x8000_001e)).toMatchObject({ eax: 13, ebx: 0x102, ecx: 1, edx: 0 })
    expect(find(show(amdHost, 1), 0x8000_0001).ecx & 2).toBe(0)
  })

  it("leaves AMD's leaves of an Intel processor alone", () => {
    const entries = show(intelHost, 4)
    expect(find(entries, 0x8000_0008).ecx).toBe(0)
    expect(find(entries, 0x8000_0001).ecx & 2).toBe(0)
    expect(entries.some((entry) => entry.function === 0x8000_001e)).toBe(false)
  })

  it("makes AMD's topology extensions where the host has none, caches included", () => {
    const old = amdHost
      .filter((entry) => entry.function < 0x8000_001d)
      .map((entry) => {
        if (entry.function === 0x8000_0000) return { ...entry, eax: 0x8000_000a }
        return entry.function === 0x8000_0001 ? { ...entry, ecx: 1 } : entry
      })
    const entries = show(old, { cores: 2, threads: 2 }, 3)
    expect(find(entries, 0x8000_0000).eax).toBe(0x8000_001e)
    expect(find(entries, 0x8000_0001).ecx & (1 << 22)).not.toBe(0)
    // 32 KiB, 8 ways, 64-byte lines; 512 KiB, 8 ways; 16 MiB, 16 ways.
    expect(find(entries, 0x8000_001d, 0)).toMatchObject({ flags: 1, eax: 0x4121, ebx: 0x01c0_003f, ecx: 63 })
    expect(find(entries, 0x8000_001d, 1)).toMatchObject({ eax: 0x4122, ebx: 0x01c0_003f, ecx: 63 })
    expect(find(entries, 0x8000_001d, 2)).toMatchObject({ eax: 0x4143, ebx: 0x01c0_003f, ecx: 1023 })
    expect(find(entries, 0x8000_001d, 3)).toMatchObject({ eax: 0xc163, ebx: 0x03c0_003f, ecx: 16383 })
  })

  it("raises the highest leaf to those that it adds", () => {
    const old = intelHost
      .filter((entry) => entry.function !== 0xb && entry.function !== 0x1f)
      .map((entry) => (entry.function === 0 ? { ...entry, eax: 7 } : entry))
    expect(find(show(old, 2), 0).eax).toBe(0xb)
    expect(find(show(old, 2), 0xb, 1).ebx).toBe(2)
  })
})
