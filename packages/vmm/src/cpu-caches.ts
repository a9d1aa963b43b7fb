import type { CpuidEntry } from "@virtkit/kvm"

interface Registers {
  readonly eax: number
  readonly ebx: number
  readonly ecx: number
  readonly edx: number
}

/** Of leaf 0x80000006 (AMD APM volume 3, table E-4); others are exact or fully associative. */
const WAYS: readonly number[] = [0, 1, 2, 3, 4, 6, 8, 0, 16, 0, 32, 48, 64, 96, 128]
const DATA = 1
const INSTRUCTIONS = 2
const UNIFIED = 3

/** Leaf 0x8000001d, a subleaf a cache, from what leaves 0x80000005 and 0x80000006 say about the same caches. */
export function amdCaches(level1: CpuidEntry | undefined, level23: CpuidEntry | undefined): Registers[] {
  const first = (type: number, value = 0) =>
    cache(type, 1, (value >>> 24) * 1024, (value >>> 16) & 0xff, value & 0xff)
  const second = level23?.ecx ?? 0
  const third = level23?.edx ?? 0
  return [
    first(DATA, level1?.ecx),
    first(INSTRUCTIONS, level1?.edx),
    cache(UNIFIED, 2, (second >>> 16) * 1024, WAYS[(second >>> 12) & 0xf] ?? 0, second & 0xff),
    cache(UNIFIED, 3, (third >>> 18) * 512 * 1024, WAYS[(third >>> 12) & 0xf] ?? 0, third & 0xff),
  ].filter((registers) => registers !== undefined)
}

/** `size` and `line` in bytes; 0 or 255 ways are a fully associative cache. Undefined when there is no such cache. */
function cache(type: number, level: number, size: number, ways: number, line: number): Registers | undefined {
  if (size === 0 || line === 0) return undefined
  const associative = ways === 0 || ways === 0xff
  const columns = associative ? size / line : ways
  const sets = Math.max(1, Math.floor(size / (line * columns)))
  return {
    eax: type | (level << 5) | (1 << 8) | (associative ? 1 << 9 : 0),
    ebx: ((line - 1) | ((Math.min(columns, 1024) - 1) << 22)) >>> 0,
    ecx: sets - 1,
    edx: 0,
  }
}
