import type { MemoryMapEntry } from "./memory-map.js"
import { SETUP, type SetupHeader } from "./setup-header.js"

/** Bytes of boot_params. */
const ZERO_PAGE_SIZE = 4096
/** Offsets in boot_params beyond the setup header (Linux Documentation/arch/x86/zero-page.rst). */
const ACPI_RSDP_ADDR = 0x070
const E820_ENTRIES = 0x1e8
const E820_TABLE = 0x2d0
const E820_ENTRY_SIZE = 20
export const E820_MAX_ENTRIES = 128

/** A loader that has no number assigned. */
const LOADER_UNDEFINED = 0xff
const VIDEO_MODE_NORMAL = 0xffff

export interface BootParams {
  /** The kernel's own setup header; without one (a bare ELF image) a minimal one is made. */
  readonly header: SetupHeader | undefined
  readonly loadAddress: number
  readonly cmdlineAddress: number
  readonly initrd: { readonly address: number; readonly size: number } | undefined
  readonly memoryMap: readonly MemoryMapEntry[]
  /** 0 when there are no ACPI tables. */
  readonly rsdpAddress: number
}

/** The bytes of boot_params, which a Linux kernel finds through RSI. */
export function zeroPage(params: BootParams): Uint8Array {
  const page = new Uint8Array(ZERO_PAGE_SIZE)
  const view = new DataView(page.buffer)
  if (params.header) page.set(params.header.bytes, SETUP.setupSects)
  else minimalHeader(view)
  view.setUint8(SETUP.typeOfLoader, LOADER_UNDEFINED)
  view.setUint16(SETUP.vidMode, VIDEO_MODE_NORMAL, true)
  view.setUint32(SETUP.code32Start, params.loadAddress, true)
  view.setUint32(SETUP.cmdLinePtr, params.cmdlineAddress, true)
  view.setUint32(SETUP.ramdiskImage, params.initrd?.address ?? 0, true)
  view.setUint32(SETUP.ramdiskSize, params.initrd?.size ?? 0, true)
  setUint64(view, ACPI_RSDP_ADDR, params.rsdpAddress)
  const entries = params.memoryMap.slice(0, E820_MAX_ENTRIES)
  view.setUint8(E820_ENTRIES, entries.length)
  entries.forEach(({ address, size, type }, index) => {
    const offset = E820_TABLE + index * E820_ENTRY_SIZE
    setUint64(view, offset, address)
    setUint64(view, offset + 8, size)
    view.setUint32(offset + 16, type, true)
  })
  return page
}

/** What a kernel checks before it trusts boot_params. */
function minimalHeader(view: DataView): void {
  view.setUint16(SETUP.bootFlag, 0xaa55, true)
  view.setUint32(SETUP.signature, 0x53726448, true)
  view.setUint16(SETUP.version, 0x020c, true)
  view.setUint8(SETUP.loadFlags, 0x01)
  view.setUint32(SETUP.kernelAlignment, 0x1000000, true)
}

/** Writes a safe integer as 64 bits. */
export function setUint64(view: DataView, offset: number, value: number): void {
  view.setUint32(offset, value % 2 ** 32, true)
  view.setUint32(offset + 4, Math.floor(value / 2 ** 32), true)
}
