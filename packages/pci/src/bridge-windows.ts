import type { PciBar } from "@virtkit/interface"
import { type ConfigSpace, le } from "./config-space.js"
import * as reg from "./constants.js"

/** The three ranges that a bridge forwards (PCI-to-PCI bridge 1.2, 3.2.5). */
export type BridgeWindow = "io" | "memory" | "prefetchable"

/** Bytes that a window is a multiple of, in address and size. */
export const BRIDGE_GRANULE: Readonly<Record<BridgeWindow, number>> = {
  io: 0x1000,
  memory: 0x10_0000,
  prefetchable: 0x10_0000,
}

/** Declares them, all empty. */
export function declareWindows(space: ConfigSpace, written: () => void): void {
  const high = le(2, 0xfff0)
  space.declare({ offset: reg.PCI_IO_BASE, value: le(2, 0x00f0), writable: le(2, 0xf0f0), written })
  space.declare({ offset: reg.PCI_MEMORY_BASE, value: high, writable: high, written })
  space.declare({ offset: reg.PCI_MEMORY_LIMIT, value: le(2, 0), writable: high, written })
  const type = reg.PCI_PREF_RANGE_TYPE_64
  space.declare({ offset: reg.PCI_PREF_MEMORY_BASE, value: le(2, 0xfff0 | type), writable: high, written })
  space.declare({ offset: reg.PCI_PREF_MEMORY_LIMIT, value: le(2, type), writable: high, written })
  const all = le(4, 0xffff_ffff)
  space.declare({ offset: reg.PCI_PREF_BASE_UPPER32, value: le(4, 0), writable: all, written })
  space.declare({ offset: reg.PCI_PREF_LIMIT_UPPER32, value: le(4, 0), writable: all, written })
}

/** Whether the bridge forwards the whole range; either memory window forwards any kind of memory access. */
export function forwards(space: ConfigSpace, kind: PciBar["kind"], address: number, size: number): boolean {
  const command = space.get16(reg.PCI_COMMAND)
  if (kind === "io") {
    const base = (space.get8(reg.PCI_IO_BASE) & 0xf0) * 0x100
    const limit = (space.get8(reg.PCI_IO_LIMIT) & 0xf0) * 0x100 + 0xfff
    return (command & reg.PCI_COMMAND_IO) !== 0 && address >= base && address + size - 1 <= limit
  }
  if ((command & reg.PCI_COMMAND_MEMORY) === 0) return false
  return (["memory", "prefetchable"] as const).some((window) => {
    const [base, limit] = memoryRange(space, window)
    return address >= base && address + size - 1 <= limit
  })
}

/** First and last address. Numbers beyond 2^53 lose low bits, but the host forwards none of those. */
function memoryRange(space: ConfigSpace, window: "memory" | "prefetchable"): [number, number] {
  if (window === "memory") {
    return [
      (space.get16(reg.PCI_MEMORY_BASE) & 0xfff0) * 0x1_0000,
      (space.get16(reg.PCI_MEMORY_LIMIT) & 0xfff0) * 0x1_0000 + 0xf_ffff,
    ]
  }
  const base = (space.get16(reg.PCI_PREF_MEMORY_BASE) & 0xfff0) * 0x1_0000
  const limit = (space.get16(reg.PCI_PREF_MEMORY_LIMIT) & 0xfff0) * 0x1_0000 + 0xf_ffff
  return [
    space.get32(reg.PCI_PREF_BASE_UPPER32) * 2 ** 32 + base,
    space.get32(reg.PCI_PREF_LIMIT_UPPER32) * 2 ** 32 + limit,
  ]
}

/** Opens a window, as firmware does; address and size are multiples of its granule. */
export function setWindow(space: ConfigSpace, window: BridgeWindow, address: number, size: number): void {
  const last = address + size - 1
  if (window === "io") {
    space.set(reg.PCI_IO_BASE, le(1, (address >>> 8) & 0xf0))
    space.set(reg.PCI_IO_LIMIT, le(1, (last >>> 8) & 0xf0))
  } else if (window === "memory") {
    space.set16(reg.PCI_MEMORY_BASE, (address >>> 16) & 0xfff0)
    space.set16(reg.PCI_MEMORY_LIMIT, (last >>> 16) & 0xfff0)
  } else {
    space.set16(reg.PCI_PREF_MEMORY_BASE, ((address >>> 16) & 0xfff0) | reg.PCI_PREF_RANGE_TYPE_64)
    space.set16(reg.PCI_PREF_MEMORY_LIMIT, ((last >>> 16) & 0xfff0) | reg.PCI_PREF_RANGE_TYPE_64)
    space.set(reg.PCI_PREF_BASE_UPPER32, le(4, Math.floor(address / 2 ** 32)))
    space.set(reg.PCI_PREF_LIMIT_UPPER32, le(4, Math.floor(last / 2 ** 32)))
  }
}
