// Names of CPUID feature bits as /proc/cpuinfo of Linux has them; where it has none, the vendor's manual.

export type CpuidRegister = "eax" | "ebx" | "ecx" | "edx"
export const REGISTERS: readonly CpuidRegister[] = ["eax", "ebx", "ecx", "edx"]

interface FeatureWord {
  readonly function: number
  readonly index: number
  readonly register: CpuidRegister
  /** Bit 0 first; "-" has no name, "N:" goes on at bit N. */
  readonly names: string
}

/** Only registers of which every bit is a feature: of others no bit can be missing. */
const WORDS: readonly FeatureWord[] = [
  {
    function: 1,
    index: 0,
    register: "edx",
    names:
      "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush - dts acpi mmx fxsr sse sse2 ss ht tm ia64 pbe",
  },
  {
    function: 1,
    index: 0,
    register: "ecx",
    names:
      "sse3 pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm - pcid dca sse4_1 sse4_2 x2apic movbe popcnt tsc_deadline_timer aes xsave osxsave avx f16c rdrand hypervisor",
  },
  {
    function: 7,
    index: 0,
    register: "ebx",
    names:
      "fsgsbase tsc_adjust sgx bmi1 hle avx2 fdp_excptn_only smep bmi2 erms invpcid rtm cqm zero_fcs_fds mpx rdt_a avx512f avx512dq rdseed adx smap avx512ifma - clflushopt clwb intel_pt avx512pf avx512er avx512cd sha_ni avx512bw avx512vl",
  },
  {
    function: 7,
    index: 0,
    register: "ecx",
    names:
      "prefetchwt1 avx512vbmi umip pku ospke waitpkg avx512_vbmi2 shstk gfni vaes vpclmulqdq avx512_vnni avx512_bitalg tme avx512_vpopcntdq - la57 22: rdpid kl bus_lock_detect cldemote - movdiri movdir64b enqcmd sgx_lc pks",
  },
  {
    function: 7,
    index: 0,
    register: "edx",
    names:
      "- sgx_keys avx512_4vnniw avx512_4fmaps fsrm uintr 8: avx512_vp2intersect srbds_ctrl md_clear rtm_always_abort - tsx_force_abort serialize hybrid_cpu tsxldtrk - pconfig arch_lbr ibt - amx_bf16 avx512_fp16 amx_tile amx_int8 spec_ctrl intel_stibp flush_l1d arch_capabilities core_capabilities spec_ctrl_ssbd",
  },
  {
    function: 7,
    index: 1,
    register: "eax",
    names:
      "sha512 sm3 sm4 - avx_vnni avx512_bf16 lass cmpccxadd arch_perfmon_ext - fzrm fsrs fsrc 17: fred lkgs wrmsrns - amx_fp16 hreset avx_ifma 26: lam",
  },
  { function: 0xd, index: 1, register: "eax", names: "xsaveopt xsavec xgetbv1 xsaves xfd" },
  {
    function: 0x4000_0001,
    index: 0,
    register: "eax",
    names:
      "kvm_clocksource kvm_nopiodelay kvm_mmu_op kvm_clocksource2 kvm_async_pf kvm_steal_time kvm_pv_eoi kvm_pv_unhalt 9: kvm_pv_tlb_flush kvm_async_pf_vmexit kvm_pv_send_ipi kvm_poll_control kvm_pv_sched_yield kvm_async_pf_int kvm_msi_ext_dest_id kvm_hc_map_gpa_range kvm_migration_control 24: kvm_clocksource_stable",
  },
  {
    function: 0x8000_0001,
    index: 0,
    register: "edx",
    names: "11: syscall 19: mp nx - mmxext 25: fxsr_opt pdpe1gb rdtscp - lm 3dnowext 3dnow",
  },
  {
    function: 0x8000_0001,
    index: 0,
    register: "ecx",
    names:
      "lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop skinit wdt - lwp fma4 tce - nodeid_msr - tbm topoext perfctr_core perfctr_nb - bpext ptsc perfctr_llc mwaitx",
  },
  { function: 0x8000_0007, index: 0, register: "edx", names: "8: invariant_tsc" },
  {
    function: 0x8000_0008,
    index: 0,
    register: "ebx",
    names:
      "clzero irperf xsaveerptr - rdpru 9: wbnoinvd 12: amd_ibpb - amd_ibrs amd_stibp 24: amd_ssbd virt_ssbd amd_ssb_no",
  },
]

/** Where a feature is. */
export interface Feature {
  readonly function: number
  readonly index: number
  readonly register: CpuidRegister
  readonly bit: number
}

const features: ReadonlyMap<string, Feature> = new Map(
  WORDS.flatMap(({ function: leaf, index, register, names }) => {
    let bit = 0
    return names.split(" ").flatMap((word): [string, Feature][] => {
      if (word.endsWith(":")) {
        bit = Number.parseInt(word, 10)
        return []
      }
      const at = bit++
      return word === "-" ? [] : [[word, { function: leaf, index, register, bit: at }]]
    })
  }),
)

/** Names and places of all features that can be named. */
export function findFeature(name: string): Feature | undefined {
  return features.get(name)
}

/** Whether every bit of that register stands for something that a host has or lacks. */
export function isFeatureWord(leaf: number, index: number, register: CpuidRegister): boolean {
  return WORDS.some((word) => word.function === leaf && word.index === index && word.register === register)
}

/** What the bits of `mask` are called; one without a name is told by its place. */
export function featureNames(leaf: number, index: number, register: CpuidRegister, mask: number): string[] {
  const named = new Map<number, string>()
  for (const [name, feature] of features) {
    if (feature.function === leaf && feature.index === index && feature.register === register)
      named.set(feature.bit, name)
  }
  const bits = Array.from({ length: 32 }, (_, bit) => bit).filter((bit) => ((mask >>> bit) & 1) === 1)
  return bits.map((bit) => named.get(bit) ?? `bit ${bit} of ${registerName(leaf, index, register)}`)
}

export function registerName(leaf: number, index: number, register: CpuidRegister): string {
  const subleaf = index === 0 ? "" : `.${index}`
  return `CPUID 0x${leaf.toString(16)}${subleaf} ${register.toUpperCase()}`
}

/** The bits of features that are all in one register. */
export function featureMask(...names: readonly string[]): number {
  return names.reduce((mask, name) => (mask | (1 << features.get(name)!.bit)) >>> 0, 0)
}
