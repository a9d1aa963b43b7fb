import { ConfigError, type GuestMemory } from "@virtkit/interface"
import { HIGH_MEMORY_START, LOW_MEMORY_END } from "./layout.js"

/** Types of e820 and of the PVH memory map. */
export const MEMORY_TYPE: { readonly ram: 1; readonly reserved: 2 } = { ram: 1, reserved: 2 }

export interface MemoryMapEntry {
  readonly address: number
  /** Bytes. */
  readonly size: number
  readonly type: (typeof MEMORY_TYPE)[keyof typeof MEMORY_TYPE]
}

/** What is reserved beside RAM: the EBDA, the area of the ACPI tables, and the pages that KVM itself uses on Intel. */
const RESERVED: readonly MemoryMapEntry[] = [
  { address: LOW_MEMORY_END, size: 0xa0000 - LOW_MEMORY_END, type: MEMORY_TYPE.reserved },
  { address: 0xe0000, size: HIGH_MEMORY_START - 0xe0000, type: MEMORY_TYPE.reserved },
  { address: 0xfeffc000, size: 0x4000, type: MEMORY_TYPE.reserved },
]

/** A range of guest physical addresses. */
export interface AddressRange {
  readonly address: number
  /** Bytes. */
  readonly size: number
}

/**
 * The map that a guest is told: RAM without the legacy hole from 640 KiB to 1 MiB, and what is reserved, by address.
 * `reserved`: what is so beside that, outside of RAM.
 */
export function memoryMap(memory: GuestMemory, reserved: readonly AddressRange[] = []): MemoryMapEntry[] {
  const ram = memory.regions.flatMap(({ guestAddress, size }) => {
    const end = guestAddress + size
    return [
      piece(guestAddress, Math.min(end, LOW_MEMORY_END)),
      piece(Math.max(guestAddress, HIGH_MEMORY_START), end),
    ]
  })
  const more = reserved.map((range) => ({ ...range, type: MEMORY_TYPE.reserved }))
  const entries = [...ram.filter(({ size }) => size > 0), ...RESERVED, ...more]
  return entries.sort((a, b) => a.address - b.address)
}

function piece(start: number, end: number): MemoryMapEntry {
  return { address: start, size: Math.max(0, end - start), type: MEMORY_TYPE.ram }
}

/** The region that kernels are loaded into: it must start at 0 and reach beyond 1 MiB. Returns its end. */
export function lowMemoryEnd(memory: GuestMemory): number {
  const region = memory.regions.find(({ guestAddress }) => guestAddress === 0)
  if (!region || region.size <= HIGH_MEMORY_START) {
    throw new ConfigError("a kernel needs more than 1 MiB of guest memory, from address 0 on")
  }
  return region.size
}
