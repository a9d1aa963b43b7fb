import type { CpuidEntry } from "@virtkit/kvm"

const leaf = (fn: number, index: number, eax: number, ebx: number, ecx: number, edx: number): CpuidEntry => ({
  ...{ function: fn, index, flags: index > 0 ? 1 : 0 },
  ...{ eax, ebx, ecx, edx },
})

/** What KVM could support on an Intel processor of level x86-64-v4. */
export const intelHost: readonly CpuidEntry[] = [
  leaf(0, 0, 0x1f, 0x756e_6547, 0x6c65_746e, 0x4965_6e69),
  leaf(1, 0, 0x0005_0654, 0xff_10_0800, 0xfffa_3203, 0x0f8b_fbff),
  leaf(4, 0, 0xfc00_0121, 0x01c0_003f, 63, 0),
  leaf(4, 1, 0xfc00_0122, 0x01c0_003f, 63, 0),
  leaf(4, 2, 0xfc00_0143, 0x03c0_003f, 1023, 0),
  leaf(4, 3, 0xfc0f_c163, 0x0280_003f, 24575, 4),
  leaf(4, 4, 0, 0, 0, 0),
  leaf(6, 0, 4, 0, 0, 0),
  leaf(7, 0, 1, 0xd19f_4fbb, 0x0000_081c, 0xac00_0400),
  leaf(7, 1, 0x30, 0, 0, 0),
  leaf(0xb, 0, 1, 2, 0x100, 77),
  leaf(0xb, 1, 7, 96, 0x201, 77),
  leaf(0xd, 0, 0x2e7, 0xa88, 0xa88, 0),
  leaf(0xd, 1, 0xf, 0xa08, 0x1800, 0),
  leaf(0xd, 2, 0x100, 0x240, 0, 0),
  leaf(0xd, 5, 0x40, 0x440, 0, 0),
  leaf(0xd, 6, 0x200, 0x480, 0, 0),
  leaf(0xd, 7, 0x400, 0x680, 0, 0),
  leaf(0xd, 9, 8, 0xa80, 0, 0),
  leaf(0xd, 11, 16, 0, 1, 0),
  leaf(0x14, 0, 1, 15, 7, 0),
  leaf(0x1f, 0, 1, 2, 0x100, 77),
  leaf(0x1f, 1, 7, 96, 0x201, 77),
  leaf(0x4000_0000, 0, 0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d),
  leaf(0x4000_0001, 0, 0x0100_7efb, 0, 0, 0),
  leaf(0x8000_0000, 0, 0x8000_0008, 0, 0, 0),
  leaf(0x8000_0001, 0, 0, 0, 0x121, 0x2c10_0800),
  leaf(0x8000_0007, 0, 0, 0, 0, 0x100),
  leaf(0x8000_0008, 0, 0x3028, 0x200, 0, 0),
]

/** And on one of AMD, level x86-64-v2. */
export const amdHost: readonly CpuidEntry[] = [
  leaf(0, 0, 0xd, 0x6874_7541, 0x444d_4163, 0x6974_6e65),
  leaf(1, 0, 0x0080_0f12, 0xff_10_0800, 0x8298_2203, 0x178b_fbff),
  leaf(4, 0, 0, 0, 0, 0),
  leaf(0x4000_0000, 0, 0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d),
  leaf(0x4000_0001, 0, 0x0100_7efb, 0, 0, 0),
  leaf(0x8000_0000, 0, 0x8000_0026, 0x6874_7541, 0x444d_4163, 0x6974_6e65),
  leaf(0x8000_0001, 0, 0x0080_0f12, 0, 0x40_0393, 0x2fd3_fbff),
  leaf(0x8000_0005, 0, 0, 0, 0x2008_0140, 0x2008_0140),
  leaf(0x8000_0006, 0, 0, 0, 0x0200_6140, 0x0080_8140),
  leaf(0x8000_0008, 0, 0x3030, 0, 0x5007, 0),
  leaf(0x8000_001d, 0, 0x4121, 0x01c0_003f, 63, 0),
  leaf(0x8000_001d, 1, 0x4122, 0x00c0_003f, 255, 0),
  leaf(0x8000_001d, 2, 0x4143, 0x01c0_003f, 1023, 2),
  leaf(0x8000_001d, 3, 0x1c163, 0x03c0_003f, 8191, 1),
  leaf(0x8000_001e, 0, 77, 77, 77, 0),
  leaf(0x8000_0026, 0, 1, 2, 0x100, 77),
]

export function find(entries: readonly CpuidEntry[], fn: number, index = 0): CpuidEntry {
  const found = entries.find((entry) => entry.function === fn && entry.index === index)
  if (found === undefined) throw new Error(`there is no leaf 0x${fn.toString(16)}.${index}`)
  return found
}
