import type { GuestMemory } from "@virtkit/interface"
import { PVH_INFO_ADDRESS } from "./layout.js"
import type { MemoryMapEntry } from "./memory-map.js"
import { setUint64 } from "./zero-page.js"

/** struct hvm_start_info version 1 and what it points to (Xen include/public/arch-x86/hvm/start_info.h). */
const MAGIC = 0x336ec578
const INFO_SIZE = 56
const MODULE_SIZE = 32
const MAP_ENTRY_SIZE = 24

export interface PvhInfo {
  readonly cmdlineAddress: number
  readonly initrd: { readonly address: number; readonly size: number } | undefined
  readonly memoryMap: readonly MemoryMapEntry[]
  readonly rsdpAddress: number
}

/** Writes hvm_start_info, which a PVH guest finds through EBX; returns its address. */
export function writePvhInfo(memory: GuestMemory, info: PvhInfo): number {
  const { initrd, memoryMap } = info
  const mapOffset = INFO_SIZE + MODULE_SIZE
  const view = new DataView(new ArrayBuffer(mapOffset + memoryMap.length * MAP_ENTRY_SIZE))
  view.setUint32(0, MAGIC, true)
  view.setUint32(4, 1, true)
  view.setUint32(12, initrd ? 1 : 0, true)
  setUint64(view, 16, initrd ? PVH_INFO_ADDRESS + INFO_SIZE : 0)
  setUint64(view, 24, info.cmdlineAddress)
  setUint64(view, 32, info.rsdpAddress)
  setUint64(view, 40, PVH_INFO_ADDRESS + mapOffset)
  view.setUint32(48, memoryMap.length, true)
  if (initrd) {
    setUint64(view, INFO_SIZE, initrd.address)
    setUint64(view, INFO_SIZE + 8, initrd.size)
  }
  memoryMap.forEach(({ address, size, type }, index) => {
    const offset = mapOffset + index * MAP_ENTRY_SIZE
    setUint64(view, offset, address)
    setUint64(view, offset + 8, size)
    view.setUint32(offset + 16, type, true)
  })
  memory.write(PVH_INFO_ADDRESS, new Uint8Array(view.buffer))
  return PVH_INFO_ADDRESS
}
