import { ConfigError } from "@virtkit/interface"
import { describe, expect, it } from "vitest"
import { applyModel } from "../src/cpu-apply.js"
import { featureMask } from "../src/cpu-features.js"
import { type CpuModel, checkModel } from "../src/cpu-model.js"
import { cpuModels, resolveModel } from "../src/cpu-models.js"
import { checkCpus } from "../src/cpu-topology.js"
import { vcpuCpuid } from "../src/cpuid.js"
import { amdHost, find, intelHost } from "./cpuid-hosts.js"

const apply = (host: typeof intelHost, model: CpuModel | string) => applyModel(host, resolveModel(model)!)

describe("resolveModel", () => {
  it("knows host, baseline and the levels of the psABI", () => {
    expect(resolveModel("host")).toBe(undefined)
    expect(cpuModels.map(({ name }) => name)).toEqual([
      ...["baseline", "x86-64-v1", "x86-64-v2", "x86-64-v3", "x86-64-v4"],
    ])
  })

  it("lists the names when it is given another", () => {
    expect(() => resolveModel("pentium")).toThrow(ConfigError)
    expect(() => resolveModel("pentium")).toThrow(
      'cpu: there is no model "pentium", only host, baseline, x86-64-v1, x86-64-v2, x86-64-v3, x86-64-v4',
    )
  })

  it("has models that survive JSON", () => {
    for (const model of cpuModels)
      expect(checkModel(JSON.parse(JSON.stringify(model)))).toEqual(checkModel(model))
  })
})

describe("checkModel", () => {
  it("takes numbers, hexadecimal text and names of features", () => {
    const model = checkModel({
      name: "mine",
      leaves: [
        { function: "0x80000001", edx: { clear: ["pdpe1gb", "rdtscp"] } },
        { function: 7, index: "0", ebx: { clear: "0xffffffff", set: 8 }, ecx: {} },
      ],
      msrs: [{ index: "0x10a", value: "0xffffffffffffffff" }],
    })
    expect(model).toEqual({
      name: "mine",
      keepOthers: true,
      leaves: [
        { function: 0x8000_0001, index: 0, changes: [{ register: "edx", clear: 0x0c00_0000, set: 0 }] },
        {
          function: 7,
          index: 0,
          changes: [
            { register: "ebx", clear: 0xffff_ffff, set: 8 },
            { register: "ecx", clear: 0, set: 0 },
          ],
        },
      ],
      msrs: [{ index: 0x10a, value: 0xffff_ffff_ffff_ffffn }],
    })
  })

  const leaves = (leaf: unknown) => ({ name: "m", leaves: [leaf] })
  it.each([
    [null, /cpu: it must be an object/],
    [[], /cpu: it must be an object/],
    [{ leaves: [] }, /must have a name/],
    [{ name: "m" }, /cpu model "m": leaves: it must be a list/],
    [{ name: "m", leaves: [], flags: 1 }, /unknown "flags", it can have name, leaves/],
    [{ name: "m", leaves: [], others: "all" }, /others must be "host" or "none"/],
    [leaves(7), /leaves\[0\]: it must be an object/],
    [leaves({}), /leaves\[0\].function: nothing is not a number/],
    [leaves({ function: -1 }), /function: -1 is not/],
    [leaves({ function: 2 ** 32 }), /function: 4294967296 is not/],
    [leaves({ function: "seven" }), /function: "seven" is not/],
    [leaves({ function: 1, EAX: {} }), /unknown "EAX"/],
    [leaves({ function: 1, eax: 5 }), /leaves\[0\].eax: it must be an object/],
    [leaves({ function: 1, eax: { or: 5 } }), /eax: unknown "or", it can have clear, set/],
    [
      leaves({ function: 1, ecx: { set: ["avx2"] } }),
      /set: "avx2" is no feature in CPUID 0x1 ECX, it is in CPUID 0x7 EBX/,
    ],
    [leaves({ function: 1, ecx: { clear: ["mmmx"] } }), /clear: "mmmx" is no feature in CPUID 0x1 ECX$/],
    [leaves({ function: 1, ecx: { clear: [3] } }), /clear: 3 is no feature/],
    [{ name: "m", leaves: [], msrs: [{ index: 1 }] }, /msrs\[0\].value: nothing is not a number of 64 bits/],
    [
      { name: "m", leaves: [], msrs: [{ index: 1, value: "0x1ffffffffffffffff" }] },
      /not a number of 64 bits/,
    ],
  ])("refuses %j and says where", (model, message) => {
    expect(() => checkModel(model)).toThrow(ConfigError)
    expect(() => checkModel(model)).toThrow(message)
  })
})

describe("applyModel", () => {
  it("changes what the model lists and nothing else", () => {
    const entries = apply(intelHost, {
      name: "no-vmx",
      leaves: [{ function: 7, edx: { clear: ["md_clear"], set: ["arch_capabilities"] } }],
    })
    const expected = intelHost.map((entry) =>
      entry.function === 7 && entry.index === 0 ? { ...entry, edx: (entry.edx & ~(1 << 10)) >>> 0 } : entry,
    )
    expect(entries).toEqual(
      expected.map((entry) => (entry.function === 0xd && entry.index === 0 ? { ...entry, ebx: 576 } : entry)),
    )
  })

  it("says which features the host lacks", () => {
    expect(() => apply(amdHost, "x86-64-v3")).toThrow(ConfigError)
    expect(() => apply(amdHost, "x86-64-v3")).toThrow(
      'cpu: model "x86-64-v3" has features that this host lacks: fma, movbe, xsave, avx, f16c, bmi1, avx2, bmi2, abm',
    )
    const unnamed = { name: "m", leaves: [{ function: 7, index: 1, eax: { set: "0x80000000" } }] }
    expect(() => apply(intelHost, unnamed)).toThrow("lacks: bit 31 of CPUID 0x7.1 EAX")
    const wide = { name: "m", leaves: [{ function: "0x80000008", eax: { clear: 0xff, set: 52 } }] }
    expect(() => apply(intelHost, wide)).toThrow("lacks: 52 bits of physical addresses (it has 40)")
  })

  it("may ask for what KVM emulates, and for values that are no features", () => {
    const model = {
      name: "m",
      leaves: [
        {
          function: 1,
          eax: { clear: 0xffff_ffff, set: 0x1234 },
          ecx: { set: ["tsc_deadline_timer", "x2apic"] },
        },
        { function: "0x80000001", ecx: { set: ["topoext"] } },
      ],
    }
    expect(find(apply(amdHost, model), 1).eax).toBe(0x1234)
  })

  it.each(["baseline", "x86-64-v1", "x86-64-v2"])("%s is the same whatever the host has besides", (name) => {
    const vcpu = (host: typeof intelHost) =>
      vcpuCpuid(apply(host, name), { apicId: 1, topology: checkCpus(2), tscDeadline: true })
    const richer = intelHost.map((entry) =>
      entry.function === 0x4000_0000
        ? entry
        : { ...entry, ...(entry.function === 1 ? { eax: 0x0009_0675, ecx: 0xffff_ffff } : {}) },
    )
    const more = [...richer, { function: 0x8000_0021, index: 0, flags: 0, eax: 0x7f, ebx: 0, ecx: 0, edx: 0 }]
    const without = (entries: ReturnType<typeof vcpu>) =>
      entries.toSorted((a, b) => a.function - b.function || a.index - b.index)
    expect(without(vcpu(more))).toEqual(without(vcpu(intelHost)))
    const [intel, amd] = [vcpu(intelHost), vcpu(amdHost)]
    for (const leaf of [1, 7, 0x4000_0001, 0x8000_0002, 0x8000_0003]) {
      const words = ({ eax, ecx }: { eax: number; ecx: number }) => ({ eax, ecx })
      expect(words(find(intel, leaf))).toEqual(words(find(amd, leaf)))
    }
    expect(find(intel, 0).ebx).not.toBe(find(amd, 0).ebx)
    expect(intel.some(({ function: leaf }) => leaf === 0x14)).toBe(false)
    expect(find(intel, 0).eax).toBe(0xb)
    expect(find(amd, 0x8000_0000).eax).toBe(0x8000_001e)
  })

  it("repeats features of leaf 1 for AMD", () => {
    expect(find(apply(amdHost, "x86-64-v1"), 0x8000_0001).edx).toBe((0x2193_f3fd & ~(1 << 11)) | (1 << 11))
    expect(find(apply(intelHost, "x86-64-v1"), 0x8000_0001).edx).toBe(0x2010_0800)
  })

  it("leaves states in leaf 0xd that the features use, and their size", () => {
    const states = (model: CpuModel | string) => {
      const entries = apply(intelHost, model)
      const main = find(entries, 0xd)
      const subleaves = entries.filter((entry) => entry.function === 0xd).map(({ index }) => index)
      return { eax: main.eax, bytes: main.ecx, subleaves }
    }
    const without = (...names: string[]) => ({
      name: "m",
      leaves: [{ function: 7, ebx: { clear: names } }],
    })
    expect(states(without())).toEqual({ eax: 0x2e7, bytes: 0xa88, subleaves: [0, 1, 2, 5, 6, 7, 9, 11] })
    expect(states(without("avx512f"))).toEqual({ eax: 0x207, bytes: 0xa88, subleaves: [0, 1, 2, 9, 11] })
    expect(states("x86-64-v3")).toEqual({ eax: 7, bytes: 576 + 256, subleaves: [0, 1, 2] })
    expect(states("x86-64-v4")).toEqual({ eax: 0xe7, bytes: 0x680 + 0x400, subleaves: [0, 1, 2, 5, 6, 7] })
    const none = apply(intelHost, { name: "m", leaves: [{ function: 1, ecx: { clear: ["xsave"] } }] })
    expect(none.filter((entry) => entry.function === 0xd)).toEqual([
      expect.objectContaining({ index: 0, eax: 0, ebx: 0, ecx: 0, edx: 0 }),
    ])
  })

  it("writes the model's name where /proc/cpuinfo looks for it", () => {
    const entries = apply(intelHost, "x86-64-v2")
    const words = [2, 3, 4].flatMap((at) => {
      const { eax, ebx, ecx, edx } = find(entries, 0x8000_0000 + at)
      return [eax, ebx, ecx, edx]
    })
    expect(Buffer.from(Uint32Array.from(words).buffer).toString("latin1").replaceAll("\0", "")).toBe(
      "virtkit x86-64-v2",
    )
  })

  it("has each level's features in the next one", () => {
    const ecx = (level: number) => find(apply(intelHost, `x86-64-v${level}`), 1).ecx
    expect(ecx(2) & featureMask("sse4_2", "cx16")).toBe(featureMask("sse4_2", "cx16"))
    for (const level of [2, 3, 4]) expect((ecx(level) & ecx(level - 1)) >>> 0).toBe(ecx(level - 1))
  })
})
