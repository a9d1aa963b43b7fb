import type { CpuidEntry } from "@virtkit/kvm"

/** An entry that is being changed. */
export type Leaf = { -readonly [K in keyof CpuidEntry]: CpuidEntry[K] }

const KVM_CPUID_FLAG_SIGNIFCANT_INDEX = 1
/** Leaves whose subleaves KVM tells apart. */
const INDEXED = new Set([
  ...[0x4, 0x7, 0xb, 0xd, 0xf, 0x10, 0x12, 0x14, 0x17, 0x18, 0x1d, 0x1e, 0x1f, 0x20, 0x23, 0x24],
  ...[0x8000_001d, 0x8000_0020, 0x8000_0026],
])

export function findLeaf<T extends CpuidEntry>(
  entries: readonly T[],
  leaf: number,
  index = 0,
): T | undefined {
  return entries.find((entry) => entry.function === leaf && entry.index === index)
}

/** The leaf, which is added with zeros when it is not there. */
export function leafOf(entries: Leaf[], leaf: number, index = 0): Leaf {
  const found = findLeaf(entries, leaf, index)
  if (found !== undefined) return found
  const flags = INDEXED.has(leaf) || index > 0 ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0
  const added: Leaf = { function: leaf, index, flags, eax: 0, ebx: 0, ecx: 0, edx: 0 }
  entries.push(added)
  return added
}

/** Whether leaf 0 names AMD, or Hygon, whose processors are AMD's. The others do as Intel. */
export function isAmd(entries: readonly CpuidEntry[]): boolean {
  const [AUTH, HYGO] = [0x6874_7541, 0x6f67_7948]
  const vendor = findLeaf(entries, 0)?.ebx
  return vendor === AUTH || vendor === HYGO
}
