import type { CpuidEntry } from "@virtkit/kvm"

const LEAF1_ECX_X2APIC = 1 << 21
const LEAF1_ECX_TSC_DEADLINE = 1 << 24
const LEAF1_ECX_HYPERVISOR = 1 << 31
const LEAF1_EDX_HTT = 1 << 28
const EXT_ECX_CMP_LEGACY = 1 << 1

const LEVEL_SMT = 1
const LEVEL_CORE = 2

export interface CpuidOptions {
  /** Of the vCPU that the entries are for; also its x2APIC id. */
  readonly apicId: number
  readonly cpus: number
  /** KVM_CAP_TSC_DEADLINE_TIMER; KVM emulates it but leaves the bit out of what it reports as supported. */
  readonly tscDeadline: boolean
}

/**
 * What KVM supports, changed into what one vCPU of the machine shows: one socket of `cpus` cores with a thread each.
 * Intel SDM volume 2A "CPUID", AMD APM volume 3 appendix E.
 */
export function vcpuCpuid(supported: readonly CpuidEntry[], options: CpuidOptions): CpuidEntry[] {
  const entries = supported.map((entry) => adapt({ ...entry }, options))
  // Extended topology exists once per level; what the host has there says nothing about the guest.
  const leaves = [0xb, 0x1f].filter((leaf) => supported.some((entry) => entry.function === leaf))
  return [
    ...entries.filter((entry) => !leaves.includes(entry.function)),
    ...leaves.flatMap((leaf) => topologyLeaf(leaf, options)),
  ]
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] }

function adapt(entry: Mutable<CpuidEntry>, { apicId, cpus, tscDeadline }: CpuidOptions): CpuidEntry {
  const idBits = apicIdBits(cpus)
  switch (entry.function) {
    case 0x1:
      entry.ecx = (entry.ecx | LEAF1_ECX_X2APIC | LEAF1_ECX_HYPERVISOR) >>> 0
      entry.ecx =
        (tscDeadline ? entry.ecx | LEAF1_ECX_TSC_DEADLINE : entry.ecx & ~LEAF1_ECX_TSC_DEADLINE) >>> 0
      entry.ebx = ((entry.ebx & 0xffff) | ((2 ** idBits) << 16) | (apicId << 24)) >>> 0
      entry.edx = (cpus > 1 ? entry.edx | LEAF1_EDX_HTT : entry.edx & ~LEAF1_EDX_HTT) >>> 0
      break
    case 0x4: {
      // Level 3 and above are shared by all cores, the others belong to one.
      const level = (entry.eax >>> 5) & 7
      const sharing = level >= 3 ? 2 ** idBits - 1 : 0
      entry.eax = ((entry.eax & 0x3fff) | (sharing << 14) | ((2 ** idBits - 1) << 26)) >>> 0
      break
    }
    case 0x8000_0001:
      entry.ecx = (cpus > 1 ? entry.ecx | EXT_ECX_CMP_LEGACY : entry.ecx & ~EXT_ECX_CMP_LEGACY) >>> 0
      break
    case 0x8000_0008:
      entry.ecx = ((entry.ecx & ~0xf0ff) | (cpus - 1) | (idBits << 12)) >>> 0
      break
    case 0x8000_001d: {
      const level = (entry.eax >>> 5) & 7
      const sharing = level >= 3 ? cpus - 1 : 0
      entry.eax = ((entry.eax & ~(0xfff << 14)) | (sharing << 14)) >>> 0
      break
    }
    case 0x8000_001e:
      entry.eax = apicId
      entry.ebx = apicId
      entry.ecx = 0
      entry.edx = 0
      break
  }
  return entry
}

/** Width of the APIC id below the package number. */
function apicIdBits(cpus: number): number {
  return Math.ceil(Math.log2(cpus))
}

function topologyLeaf(leaf: number, { apicId, cpus }: CpuidOptions): CpuidEntry[] {
  const level = (index: number, shift: number, count: number, type: number): CpuidEntry => ({
    function: leaf,
    index,
    flags: 1, // KVM_CPUID_FLAG_SIGNIFCANT_INDEX
    eax: shift,
    ebx: count,
    ecx: (type << 8) | index,
    edx: apicId,
  })
  return [level(0, 0, 1, LEVEL_SMT), level(1, apicIdBits(cpus), cpus, LEVEL_CORE), level(2, 0, 0, 0)]
}
