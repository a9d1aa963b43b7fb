import { KernelFormatError } from "./errors.js"

/** Offsets within a bzImage and within boot_params (Linux Documentation/arch/x86/boot.rst). */
export const SETUP = {
  setupSects: 0x1f1,
  sysSize: 0x1f4,
  vidMode: 0x1fa,
  bootFlag: 0x1fe,
  jumpOffset: 0x201,
  signature: 0x202,
  version: 0x206,
  typeOfLoader: 0x210,
  loadFlags: 0x211,
  code32Start: 0x214,
  ramdiskImage: 0x218,
  ramdiskSize: 0x21c,
  cmdLinePtr: 0x228,
  initrdAddrMax: 0x22c,
  kernelAlignment: 0x230,
  relocatable: 0x234,
  xloadFlags: 0x236,
  cmdlineSize: 0x238,
  payloadOffset: 0x248,
  payloadLength: 0x24c,
  prefAddress: 0x258,
  initSize: 0x260,
} as const

/** Bytes of a file that hold the whole header; every bzImage is larger. */
export const SETUP_BYTES = 0x400
/** Where a bzImage has its 64-bit entry point, from its load address on. */
export const ENTRY_64 = 0x200
/** Where the fields that this package reads end. */
const HEADER_END = 0x264
/** The e820 table follows there in boot_params: no header reaches further. */
const HEADER_LIMIT = 0x2d0

const BOOT_FLAG = 0xaa55
/** "HdrS". */
const SIGNATURE = 0x53726448
const LOADED_HIGH = 0x01
const XLF_KERNEL_64 = 0x01
/** Version that brought xloadflags and with them a reliable 64-bit entry point. */
const VERSION_XLOADFLAGS = 0x020c

/** The setup header of a bzImage, checked: all offsets lie in the file. Sizes and offsets are bytes. */
export interface SetupHeader {
  /** Boot protocol, 0x020f is 2.15. */
  readonly version: number
  /** Bytes 0x1f1 on, as they go into boot_params. */
  readonly bytes: Uint8Array
  /** The protected-mode kernel in the file. */
  readonly kernel: { readonly offset: number; readonly size: number }
  /** The compressed kernel in the file. */
  readonly payload: { readonly offset: number; readonly size: number }
  readonly prefAddress: number
  readonly relocatable: boolean
  readonly alignment: number
  /** Memory that the kernel needs from its load address on before it looks at the memory map. */
  readonly initSize: number
  /** Last address that the initrd may occupy. */
  readonly initrdAddrMax: number
  /** Longest command line without its NUL. */
  readonly cmdlineSize: number
}

/** Whether `head`, the first bytes of a file, is that of a Linux x86 boot image. */
export function isBzImage(head: Uint8Array): boolean {
  if (head.length < HEADER_END) return false
  const view = viewOf(head)
  return (
    view.getUint16(SETUP.bootFlag, true) === BOOT_FLAG && view.getUint32(SETUP.signature, true) === SIGNATURE
  )
}

/**
 * Reads the header out of the first {@link SETUP_BYTES} bytes of a file of `fileSize` bytes.
 * Throws {@link KernelFormatError} when a field points out of the file or the kernel has no 64-bit entry point.
 */
export function parseSetupHeader(head: Uint8Array, fileSize: number, name: string): SetupHeader {
  const view = viewOf(head)
  const version = view.getUint16(SETUP.version, true)
  const fail = (what: string): never => {
    throw new KernelFormatError(`${name} is not a kernel that virtkit can start: ${what}`)
  }
  if (version < VERSION_XLOADFLAGS)
    fail(`its boot protocol ${protocol(version)} is older than 2.12 (Linux 3.8)`)
  if (!(view.getUint8(SETUP.loadFlags) & LOADED_HIGH)) fail("it is a zImage, not a bzImage")
  if (!(view.getUint16(SETUP.xloadFlags, true) & XLF_KERNEL_64))
    fail("it is a 32-bit kernel, a 64-bit one is needed")

  const kernel = kernelRange(view, fileSize, name)
  const payload = payloadRange(view, kernel, fail)
  const prefHigh = view.getUint32(SETUP.prefAddress + 4, true)
  const alignment = view.getUint32(SETUP.kernelAlignment, true)
  if (prefHigh !== 0) fail("it wants to be loaded above 4 GiB")
  if (alignment === 0 || (alignment & (alignment - 1)) !== 0)
    fail(`its alignment of ${alignment} is not a power of two`)
  return {
    version,
    bytes: head.slice(SETUP.setupSects, headerEnd(view)),
    kernel,
    payload,
    prefAddress: view.getUint32(SETUP.prefAddress, true),
    relocatable: view.getUint8(SETUP.relocatable) !== 0,
    alignment,
    initSize: view.getUint32(SETUP.initSize, true),
    initrdAddrMax: view.getUint32(SETUP.initrdAddrMax, true),
    cmdlineSize: view.getUint32(SETUP.cmdlineSize, true),
  }
}

function kernelRange(view: DataView, fileSize: number, name: string): { offset: number; size: number } {
  // 0 means 4, for the sake of very old kernels.
  const offset = ((view.getUint8(SETUP.setupSects) || 4) + 1) * 512
  const size = view.getUint32(SETUP.sysSize, true) * 16
  // Signed kernels have their signature behind it. The last paragraph (16 bytes) may not be full.
  if (size === 0 || offset + size - 15 > fileSize) {
    throw new KernelFormatError(
      `${name} is cut short: its header speaks of ${offset + size} bytes, the file has ${fileSize}`,
    )
  }
  if (size <= ENTRY_64) {
    throw new KernelFormatError(`${name} is cut short: it ends before its 64-bit entry point`)
  }
  return { offset, size: Math.min(size, fileSize - offset) }
}

function payloadRange(
  view: DataView,
  kernel: { offset: number; size: number },
  fail: (what: string) => never,
): { offset: number; size: number } {
  const offset = view.getUint32(SETUP.payloadOffset, true)
  const size = view.getUint32(SETUP.payloadLength, true)
  if (offset + size > kernel.size) fail("its payload lies outside of the file")
  return { offset: kernel.offset + offset, size }
}

/** The header's length is the target of the jump at its start. */
function headerEnd(view: DataView): number {
  const end = SETUP.signature + view.getUint8(SETUP.jumpOffset)
  return Math.min(Math.max(end, HEADER_END), HEADER_LIMIT)
}

function protocol(version: number): string {
  return `${version >> 8}.${String(version & 0xff).padStart(2, "0")}`
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}
