import { ConfigError, type GuestMemory } from "@virtkit/interface"
import { isElf } from "./elf.js"
import { formatSize, KernelFormatError } from "./errors.js"
import type { LoadedKernel } from "./load.js"
import { lowMemoryEnd, memoryMap } from "./memory-map.js"
import { type CpuSetup, generalRegisters, type Segment } from "./registers.js"
import { isBzImage, SETUP_BYTES } from "./setup-header.js"
import { openSource } from "./source.js"

const GIB_4 = 0x1_0000_0000
const PAGE = 4096
/** A PC decodes this much below 4 GiB as its flash memory at most. */
const MAX_ROM = 16 * 1024 * 1024
/** The end of the image is also seen below 1 MiB: from 0xc0000 on, where firmware shadows itself. */
const MAX_SHADOW = 256 * 1024
const SHADOW_END = 0x10_0000
/** The processor's first instruction lies so many bytes before the end of the image. */
const RESET_VECTOR = 16

/** A firmware image: what a processor runs after a reset. */
export interface FirmwareImage {
  /** For messages. */
  readonly name: string
  /** The ROM: it ends at 4 GiB. Whole pages. */
  readonly bytes: Uint8Array
}

export interface LoadedFirmware extends LoadedKernel {
  readonly kind: "firmware"
  /** Read-only memory that the guest must see there before it starts. */
  readonly rom: { readonly address: number; readonly bytes: Uint8Array }
}

/**
 * Reads an image and tells whether it is firmware: whole pages with a jump at the reset vector, as SeaBIOS, U-Boot, OVMF
 * and others are. Undefined: it is not, it may be a kernel.
 *
 * Throws {@link KernelFormatError} when it is firmware that is too large, {@link ConfigError} when it cannot be read.
 */
export async function readFirmware(image: string | Uint8Array): Promise<FirmwareImage | undefined> {
  const source = await openSource(image, "kernel")
  try {
    const { size, name } = source
    if (size < PAGE || size % PAGE !== 0) return undefined
    const head = new Uint8Array(Math.min(SETUP_BYTES, size))
    await source.read(0, head)
    if (isElf(head) || isBzImage(head)) return undefined
    const vector = new Uint8Array(RESET_VECTOR)
    await source.read(size - RESET_VECTOR, vector)
    if (!startsWithJump(vector)) return undefined
    if (size > MAX_ROM) {
      throw new KernelFormatError(
        `${name} has ${formatSize(size)}: firmware has room for ${formatSize(MAX_ROM)}`,
      )
    }
    const bytes = new Uint8Array(size)
    await source.read(0, bytes)
    return { name, bytes }
  } finally {
    await source.close()
  }
}

/** Operations of one byte that firmware puts before the jump: cli, cld, nop, and the prefix of a 32-bit jump. */
const BEFORE_JUMP: readonly number[] = [0xfa, 0xfc, 0x90, 0x66]
const WBINVD: readonly number[] = [0x0f, 0x09]
/** jmp far, near and short, from 16-bit code. */
const JUMPS: readonly number[] = [0xea, 0xe9, 0xeb]

function startsWithJump(vector: Uint8Array): boolean {
  let at = 0
  while (at < RESET_VECTOR) {
    if (BEFORE_JUMP.includes(vector[at]!)) at += 1
    else if (vector[at] === WBINVD[0] && vector[at + 1] === WBINVD[1]) at += 2
    else break
  }
  return JUMPS.includes(vector[at] ?? 0)
}

/**
 * Prepares guest memory for firmware: the end of the image is copied below 1 MiB, where this machine has RAM, so that
 * firmware finds itself shadowed and need not know a chip set that does it. The image itself is read-only memory up to
 * 4 GiB: mapping `rom` is the caller's.
 *
 * Throws {@link ConfigError} when RAM reaches into the ROM or does not begin at 0.
 */
export function loadFirmware(memory: GuestMemory, { name, bytes }: FirmwareImage): LoadedFirmware {
  if (bytes.length < PAGE || bytes.length % PAGE !== 0 || bytes.length > MAX_ROM) {
    throw new KernelFormatError(
      `${name} has ${bytes.length} bytes: firmware is whole pages, up to ${formatSize(MAX_ROM)}`,
    )
  }
  lowMemoryEnd(memory)
  const address = GIB_4 - bytes.length
  if (
    memory.regions.some(
      (region) => address < region.guestAddress + region.size && region.guestAddress < GIB_4,
    )
  ) {
    throw new ConfigError(`guest memory reaches into the firmware, which begins at 0x${address.toString(16)}`)
  }
  const shadow = bytes.subarray(-MAX_SHADOW)
  memory.write(SHADOW_END - shadow.length, shadow)
  return {
    kind: "firmware",
    entry: GIB_4 - RESET_VECTOR,
    setup: afterReset(),
    image: { address, size: bytes.length },
    initrd: undefined,
    memoryMap: memoryMap(memory, [{ address, size: bytes.length }]),
    rom: { address, bytes },
  }
}

/** Real mode at f000:fff0, but with the segment's base at the last 64 KiB below 4 GiB (Intel SDM 3A, 9.1.4). */
function afterReset(): CpuSetup {
  const place: Pick<Segment, "selector" | "base"> = { selector: 0xf000, base: 0xffff_0000n }
  return {
    regs: generalRegisters({ rip: 0xfff0n }),
    applySregs: (sregs) => ({ ...sregs, cs: { ...sregs.cs, ...place } }),
  }
}
