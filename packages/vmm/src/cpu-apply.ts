import { ConfigError } from "@virtkit/interface"
import type { CpuidEntry } from "@virtkit/kvm"
import { featureMask, featureNames, isFeatureWord } from "./cpu-features.js"
import type { CheckedLeaf, CheckedModel } from "./cpu-model.js"
import { findLeaf, isAmd, type Leaf, leafOf } from "./cpuid-entries.js"

/** Bits that need nothing of the host, because KVM or `vcpuCpuid` makes what they stand for: [leaf, index, register, bits]. */
const EMULATED: readonly (readonly [number, number, string, number])[] = [
  [1, 0, "ecx", featureMask("x2apic", "osxsave", "hypervisor", "tsc_deadline_timer")],
  [1, 0, "edx", featureMask("ht")],
  [0x8000_0001, 0, "ecx", featureMask("cmp_legacy", "topoext")],
]

const EXT = 0x8000_0000
const KVM_SIGNATURE = 0x4000_0000
const KVM_LEAVES_END = 0x4001_0000
const ADDRESS_WIDTHS = 0x8000_0008
/** Bits of leaf 0x80000001 EDX that AMD repeats from leaf 1. */
const AMD_ALIASES = 0x0183_f3ff

/**
 * What KVM supports on this host, changed into what the model shows. Throws {@link ConfigError} that names the features
 * which the model has and the host lacks.
 */
export function applyModel(supported: readonly CpuidEntry[], model: CheckedModel): CpuidEntry[] {
  const entries: Leaf[] = supported
    .filter((entry) => model.keepOthers || isKept(entry, model))
    .map((entry) => ({ ...entry }))
  const missing: string[] = []
  for (const leaf of model.leaves) missing.push(...applyLeaf(entries, supported, leaf))
  if (missing.length > 0) {
    throw new ConfigError(
      `cpu: model "${model.name}" has features that this host lacks: ${missing.join(", ")}`,
    )
  }
  if (isAmd(entries)) repeatFeatures(entries)
  matchXsave(entries)
  if (!model.keepOthers) trimRanges(entries)
  return entries
}

/** Of the leaves that a model does not name, only those that say whose processor and hypervisor it is. */
function isKept(entry: CpuidEntry, model: CheckedModel): boolean {
  if (entry.function === 0 || entry.function === EXT) return true
  if (entry.function >= KVM_SIGNATURE && entry.function < KVM_LEAVES_END) return true
  return model.leaves.some((leaf) => leaf.function === entry.function && leaf.index === entry.index)
}

/** Changes one leaf; gives what the host lacks of it. */
function applyLeaf(entries: Leaf[], supported: readonly CpuidEntry[], leaf: CheckedLeaf): string[] {
  const host = findLeaf(supported, leaf.function, leaf.index)
  if (leaf.changes.length === 0) return []
  const entry = leafOf(entries, leaf.function, leaf.index)
  return leaf.changes.flatMap(({ register, clear, set }) => {
    entry[register] = ((entry[register] & ~clear) | set) >>> 0
    const has = host?.[register] ?? 0
    if (leaf.function === ADDRESS_WIDTHS && register === "eax") {
      const [wanted, given] = [entry.eax & 0xff, has & 0xff]
      return wanted > given ? [`${wanted} bits of physical addresses (it has ${given})`] : []
    }
    if (!isFeatureWord(leaf.function, leaf.index, register)) return []
    const emulated = EMULATED.find(
      ([fn, index, name]) => fn === leaf.function && index === leaf.index && name === register,
    )?.[3]
    const lacking = set & ~has & ~(emulated ?? 0)
    return featureNames(leaf.function, leaf.index, register, lacking)
  })
}

function repeatFeatures(entries: Leaf[]): void {
  const basic = leafOf(entries, 1)
  const extended = leafOf(entries, 0x8000_0001)
  extended.edx = ((extended.edx & ~AMD_ALIASES) | (basic.edx & AMD_ALIASES)) >>> 0
}

/** States of leaf 0xd that XCR0 may enable, and the feature without which nobody uses them: [state, leaf, register, bit]. */
const STATES: readonly (readonly [number, number, "ebx" | "ecx" | "edx", number])[] = [
  [2, 1, "ecx", featureMask("avx")],
  [3, 7, "ebx", featureMask("mpx")],
  [4, 7, "ebx", featureMask("mpx")],
  [5, 7, "ebx", featureMask("avx512f")],
  [6, 7, "ebx", featureMask("avx512f")],
  [7, 7, "ebx", featureMask("avx512f")],
  [9, 7, "ecx", featureMask("pku")],
  [17, 7, "edx", featureMask("amx_tile")],
  [18, 7, "edx", featureMask("amx_tile")],
]
/** x87 and SSE state with the header. */
const LEGACY_XSAVE_BYTES = 576

/** Takes the states of features that were taken away out of leaf 0xd: a guest may enable all that it finds there. */
function matchXsave(entries: Leaf[]): void {
  const main = findLeaf(entries, 0xd, 0)
  if (main === undefined) return
  const hasXsave = (leafOf(entries, 1).ecx & featureMask("xsave")) !== 0
  const gone = STATES.filter(
    ([, leaf, register, bit]) => ((findLeaf(entries, leaf, 0)?.[register] ?? 0) & bit) === 0,
  ).reduce((mask, [state]) => mask | (1 << state), 0)
  main.eax = hasXsave ? (main.eax & ~gone) >>> 0 : 0
  if (!hasXsave) main.edx = 0
  const supervisor = hasXsave ? (findLeaf(entries, 0xd, 1)?.ecx ?? 0) : 0
  for (let at = entries.length - 1; at >= 0; at--) {
    const { function: leaf, index } = entries[at]!
    const kept = hasXsave && (index === 1 || (((main.eax | supervisor) >>> index) & 1) === 1)
    if (leaf === 0xd && index > 0 && !kept) entries.splice(at, 1)
  }
  const ends = entries
    .filter(({ function: leaf, index }) => leaf === 0xd && index > 1 && ((main.eax >>> index) & 1) === 1)
    .map(({ eax, ebx }) => eax + ebx)
  main.ecx = hasXsave ? Math.max(LEGACY_XSAVE_BYTES, ...ends) : 0
  // KVM computes EBX anew whenever the guest writes XCR0.
  main.ebx = hasXsave ? LEGACY_XSAVE_BYTES : 0
}

/** The highest leaf of each range is one that is there. */
function trimRanges(entries: Leaf[]): void {
  const highest = (from: number, to: number) =>
    Math.max(from, ...entries.map((entry) => entry.function).filter((leaf) => leaf >= from && leaf < to))
  leafOf(entries, 0).eax = highest(0, KVM_SIGNATURE)
  leafOf(entries, EXT).eax = highest(EXT, 0xc000_0000)
}
