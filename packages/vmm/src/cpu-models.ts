import { ConfigError } from "@virtkit/interface"
import { featureMask as bits } from "./cpu-features.js"
import { type CheckedModel, type CpuLeaf, type CpuModel, checkModel } from "./cpu-model.js"

const ALL = 0xffff_ffff
const exactly = (set: number) => ({ clear: ALL, set })

/** Family 15, model 107, stepping 1: what guests of QEMU's default model have seen on both vendors for years. */
const SIGNATURE = 0x0006_0fb1
/** 48 bits of linear addresses, 39 of physical ones: what every processor since 2013 has. */
const ADDRESS_WIDTHS = 0x3027
/** CLFLUSH works on 8 x 8 bytes. */
const CLFLUSH_SIZE = 0x0800
/** The APIC timer never stops. */
const ARAT = 1 << 2

/** Each level of the x86-64 psABI has what the ones below have. */
const LEVELS: readonly Readonly<Record<"ecx1" | "ebx7" | "ecx81", readonly string[]>>[] = [
  { ecx1: [], ebx7: [], ecx81: [] },
  { ecx1: ["sse3", "ssse3", "cx16", "sse4_1", "sse4_2", "popcnt"], ebx7: [], ecx81: ["lahf_lm"] },
  { ecx1: ["fma", "movbe", "xsave", "avx", "f16c"], ebx7: ["bmi1", "avx2", "bmi2"], ecx81: ["abm"] },
  { ecx1: [], ebx7: ["avx512f", "avx512dq", "avx512cd", "avx512bw", "avx512vl"], ecx81: [] },
]

const EDX1 = bits(
  ...["fpu", "de", "pse", "tsc", "msr", "pae", "mce", "cx8", "apic", "sep", "mtrr", "pge", "mca", "cmov"],
  ...["pat", "pse36", "clflush", "mmx", "fxsr", "sse", "sse2"],
)
/** In every KVM since Linux 5.10. */
const PARAVIRTUAL = bits(
  ...["kvm_clocksource", "kvm_nopiodelay", "kvm_clocksource2", "kvm_pv_eoi", "kvm_pv_unhalt"],
  ...["kvm_pv_tlb_flush", "kvm_pv_send_ipi", "kvm_pv_sched_yield", "kvm_clocksource_stable"],
)

/** Level of the psABI, 1 to 4, on a processor of the host's vendor. */
function psAbiModel(name: string, level: number): CpuModel {
  const has = (word: "ecx1" | "ebx7" | "ecx81") =>
    bits(...LEVELS.slice(0, level).flatMap((features) => features[word]))
  return {
    name,
    others: "none",
    leaves: [
      {
        function: 1,
        eax: exactly(SIGNATURE),
        ebx: exactly(CLFLUSH_SIZE),
        ecx: exactly(has("ecx1")),
        edx: exactly(EDX1),
      },
      ...cacheLeaves(4),
      { function: 6, eax: exactly(ARAT), ebx: exactly(0), ecx: exactly(0), edx: exactly(0) },
      { function: 7, eax: exactly(0), ebx: exactly(has("ebx7")), ecx: exactly(0), edx: exactly(0) },
      ...(level >= 3 ? xsaveLeaves(level) : []),
      { function: 0x4000_0001, eax: exactly(PARAVIRTUAL) },
      {
        function: 0x8000_0001,
        eax: exactly(0),
        ebx: exactly(0),
        ecx: exactly(has("ecx81")),
        edx: exactly(bits("syscall", "nx", "lm")),
      },
      ...brandLeaves(`virtkit ${name}`),
      { function: 0x8000_0005, eax: exactly(0), ebx: exactly(0), ...legacyCaches.level1 },
      { function: 0x8000_0006, eax: exactly(0), ebx: exactly(0), ...legacyCaches.level23 },
      {
        function: 0x8000_0008,
        eax: exactly(ADDRESS_WIDTHS),
        ebx: exactly(0),
        ecx: exactly(0),
        edx: exactly(0),
      },
      ...cacheLeaves(0x8000_001d),
    ],
  }
}

/** 32 KiB of data and of instructions and 512 KiB for a core, 16 MiB for a socket, lines of 64 bytes. */
function cacheLeaves(leaf: number): CpuLeaf[] {
  const cache = (index: number, type: number, level: number, ways: number, sets: number): CpuLeaf => ({
    function: leaf,
    index,
    eax: exactly(type | (level << 5) | (1 << 8)),
    ebx: exactly(63 | ((ways - 1) << 22)),
    ecx: exactly(sets - 1),
    edx: exactly(0),
  })
  return [cache(0, 1, 1, 8, 64), cache(1, 2, 1, 8, 64), cache(2, 3, 2, 8, 1024), cache(3, 3, 3, 16, 16384)]
}

/** The same caches as AMD told them before leaf 0x8000001d (APM volume 3, E.4.4 and E.4.5). */
const legacyCaches = {
  level1: { ecx: exactly(0x2008_0140), edx: exactly(0x2008_0140) },
  level23: { ecx: exactly(0x0200_6140), edx: exactly(0x0080_8140) },
}

/** States of x87, SSE, AVX and, with level 4, AVX-512; sizes and offsets are the host's. */
function xsaveLeaves(level: number): CpuLeaf[] {
  const states = level >= 4 ? [2, 5, 6, 7] : [2]
  const mask = states.reduce((sum, state) => sum | (1 << state), 3)
  return [
    { function: 0xd, eax: exactly(mask), edx: exactly(0) },
    { function: 0xd, index: 1, eax: exactly(0), ebx: exactly(0), ecx: exactly(0), edx: exactly(0) },
    ...states.map((index) => ({ function: 0xd, index })),
  ]
}

/** The processor's name, 48 bytes in three leaves. */
function brandLeaves(brand: string): CpuLeaf[] {
  const text = Buffer.alloc(48)
  text.write(brand, 0, 47, "latin1")
  const word = (at: number) => exactly(text.readUInt32LE(at))
  return [0, 1, 2].map((leaf) => {
    const at = leaf * 16
    return {
      function: 0x8000_0002 + leaf,
      ...{ eax: word(at), ebx: word(at + 4), ecx: word(at + 8), edx: word(at + 12) },
    }
  })
}

/** Models that go by a name, besides "host", which is what KVM supports on this host. docs/cpu.md says what they are. */
export const cpuModels: readonly CpuModel[] = [
  psAbiModel("baseline", 2),
  ...[1, 2, 3, 4].map((level) => psAbiModel(`x86-64-v${level}`, level)),
]

/** Undefined is "host". Throws {@link ConfigError} for an unknown name or a model that is none. */
export function resolveModel(cpu: string | CpuModel): CheckedModel | undefined {
  if (cpu === "host") return undefined
  if (typeof cpu !== "string") return checkModel(cpu)
  const found = cpuModels.find(({ name }) => name === cpu)
  if (found !== undefined) return checkModel(found)
  const names = ["host", ...cpuModels.map(({ name }) => name)]
  throw new ConfigError(`cpu: there is no model "${cpu}", only ${names.join(", ")}`)
}

/** Throws {@link ConfigError} unless `cpu` is what {@link VmOptions} takes: for data that was read from somewhere. */
export function checkCpuModel(cpu: unknown): string | CpuModel {
  resolveModel(cpu as string | CpuModel)
  return cpu as string | CpuModel
}
