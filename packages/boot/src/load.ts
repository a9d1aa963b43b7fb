import type { GuestMemory } from "@virtkit/interface"
import { ConfigError } from "@virtkit/interface"
import { writeCmdline } from "./cmdline.js"
import { longMode, protectedMode, realMode } from "./cpu-modes.js"
import { isElf, parseElf } from "./elf.js"
import { KernelFormatError } from "./errors.js"
import { loadInitrd, type Placed } from "./initrd.js"
import { CMDLINE_LIMIT, ZERO_PAGE_ADDRESS } from "./layout.js"
import { type AddressRange, type MemoryMapEntry, memoryMap } from "./memory-map.js"
import { placeBzImage, placeElf } from "./place.js"
import { writePvhInfo } from "./pvh.js"
import type { CpuSetup } from "./registers.js"
import { ENTRY_64, isBzImage, parseSetupHeader, SETUP_BYTES, type SetupHeader } from "./setup-header.js"
import { type ByteSource, openSource } from "./source.js"
import { type UnpackOptions, unpackSource } from "./unpack/index.js"
import { zeroPage } from "./zero-page.js"

/** Last initrd byte for kernels that do not say: what Linux takes by its default. */
const DEFAULT_INITRD_MAX = 0x7fff_ffff
/** Linux's own COMMAND_LINE_SIZE on x86, without the NUL, for kernels that do not say. */
const DEFAULT_CMDLINE_SIZE = 2047

export interface LoadOptions {
  /** Fresh guest memory: a region from address 0 on of more than 1 MiB. */
  readonly memory: GuestMemory
  /** A path, or the bytes: bzImage, ELF vmlinux, or any ELF image with a PVH note. */
  readonly kernel: string | Uint8Array
  /** A path, which is read straight into guest memory, or the bytes. */
  readonly initrd?: string | Uint8Array | undefined
  /** Default: empty. A function is asked when it is known how the kernel will be started. */
  readonly cmdline?: string | ((kind: KernelKind) => string) | undefined
  /** Of the ACPI root pointer. Default: 0, there is none. */
  readonly rsdpAddress?: number | undefined
  /** Told to the guest as reserved, such as the configuration space of PCI; not RAM. */
  readonly reserved?: readonly AddressRange[] | undefined
  /**
   * Whether to unpack a bzImage here, which is much faster than to let the guest do it, and where to keep the result.
   * What cannot be unpacked is started as it is. Default: unpack, keep nothing.
   */
  readonly unpack?: boolean | UnpackOptions | undefined
  /** How to start an ELF image. Default ("auto"): PVH when it has the note, otherwise the Linux 64-bit protocol. */
  readonly protocol?: "auto" | "linux" | "pvh" | undefined
}

/** What is started: a bzImage that unpacks itself, an ELF image by the Linux 64-bit protocol or by PVH, raw code, a ROM. */
export type KernelKind = "bzimage" | "vmlinux" | "pvh" | "raw" | "firmware"

export interface LoadedKernel {
  readonly kind: KernelKind
  /** Guest physical address of the first instruction. */
  readonly entry: number
  /** How to set the boot CPU up. */
  readonly setup: CpuSetup
  /** Memory that the image takes. */
  readonly image: Placed
  readonly initrd: Placed | undefined
  readonly memoryMap: readonly MemoryMapEntry[]
  /** For a bzImage: whether it came out of the cache, was unpacked here, or why it could not be. */
  readonly unpacked?: { readonly from: "cache" | "payload" } | { readonly failed: string } | undefined
}

/**
 * Loads a kernel, its initrd and command line into guest memory and says how the boot CPU must start.
 *
 * Throws {@link KernelFormatError} when the kernel is not one or is damaged, {@link ConfigError} when a file cannot be
 * read or something does not fit into memory. Nothing is written outside of guest RAM, whatever the files hold.
 */
export async function loadKernel(options: LoadOptions): Promise<LoadedKernel> {
  const kernel = await openSource(options.kernel, "kernel")
  try {
    const head = new Uint8Array(Math.min(SETUP_BYTES, kernel.size))
    await kernel.read(0, head)
    if (isElf(head)) return await loadElf(options, kernel, undefined)
    if (isBzImage(head))
      return await loadBzImage(options, kernel, parseSetupHeader(head, kernel.size, kernel.name))
    throw new KernelFormatError(`${kernel.name} is not a Linux kernel: it has no bzImage or ELF header`)
  } finally {
    await kernel.close()
  }
}

async function loadBzImage(
  options: LoadOptions,
  kernel: ByteSource,
  header: SetupHeader,
): Promise<LoadedKernel> {
  const { memory, unpack = true } = options
  const direct = unpack === false ? undefined : await loadUnpacked(options, kernel, header)
  if (typeof direct === "object") return direct
  const image = await placeBzImage(memory, kernel, header)
  const rest = await loadRest(options, "bzimage", image, header)
  const entry = image.address + ENTRY_64
  const setup = linuxSetup(options, entry, image.address, header, rest)
  const unpacked = direct === undefined ? undefined : { failed: direct }
  return { kind: "bzimage", entry, setup, image, ...described(rest), unpacked }
}

/** Loads the ELF image that a bzImage holds, or says why it cannot: it may still be able to unpack itself. */
async function loadUnpacked(
  options: LoadOptions,
  kernel: ByteSource,
  header: SetupHeader,
): Promise<LoadedKernel | string> {
  const { unpack } = options
  const result = await unpackSource(kernel, header, typeof unpack === "object" ? unpack : {})
  if (!result.vmlinux) return result.reason
  try {
    const loaded = await loadElf({ ...options, protocol: "linux" }, result.vmlinux, header)
    return { ...loaded, unpacked: { from: result.fromCache ? "cache" : "payload" } }
  } catch (error) {
    if (error instanceof KernelFormatError) return error.message
    throw error
  } finally {
    await result.vmlinux.close()
  }
}

async function loadElf(
  options: LoadOptions,
  kernel: ByteSource,
  header: SetupHeader | undefined,
): Promise<LoadedKernel> {
  const { memory, protocol = "auto" } = options
  const elf = await parseElf(kernel)
  if (protocol === "pvh" && elf.pvhEntry === undefined) {
    throw new KernelFormatError(`${kernel.name} has no PVH entry point`)
  }
  const image = await placeElf(memory, kernel, elf)
  const kind = protocol === "linux" || elf.pvhEntry === undefined ? "vmlinux" : "pvh"
  const rest = await loadRest(options, kind, image, header)
  if (protocol === "linux" || elf.pvhEntry === undefined) {
    const setup = linuxSetup(options, elf.entry, image.address, header, rest)
    return { kind: "vmlinux", entry: elf.entry, setup, image, ...described(rest) }
  }
  const info = writePvhInfo(memory, { ...rest, rsdpAddress: options.rsdpAddress ?? 0 })
  const setup = protectedMode(memory, { rip: BigInt(elf.pvhEntry), rbx: BigInt(info) })
  return { kind: "pvh", entry: elf.pvhEntry, setup, image, ...described(rest) }
}

interface Rest {
  readonly cmdlineAddress: number
  readonly initrd: Placed | undefined
  readonly memoryMap: readonly MemoryMapEntry[]
}

/** What every protocol needs beside the kernel. */
async function loadRest(
  options: LoadOptions,
  kind: KernelKind,
  image: Placed,
  header: SetupHeader | undefined,
): Promise<Rest> {
  const { memory } = options
  const cmdline = typeof options.cmdline === "function" ? options.cmdline(kind) : (options.cmdline ?? "")
  const limit = header ? header.cmdlineSize : Math.min(DEFAULT_CMDLINE_SIZE, CMDLINE_LIMIT)
  const cmdlineAddress = writeCmdline(memory, cmdline, limit)
  let initrd: Placed | undefined
  if (options.initrd !== undefined) {
    const source = await openSource(options.initrd, "initrd")
    try {
      const end = image.address + image.size
      initrd = await loadInitrd(memory, source, end, header?.initrdAddrMax ?? DEFAULT_INITRD_MAX)
    } finally {
      await source.close()
    }
  }
  return { cmdlineAddress, initrd, memoryMap: memoryMap(memory, options.reserved) }
}

/** Long mode with RSI at boot_params, as the 64-bit protocol of Linux wants it. */
function linuxSetup(
  { memory, rsdpAddress = 0 }: LoadOptions,
  entry: number,
  loadAddress: number,
  header: SetupHeader | undefined,
  rest: Rest,
): CpuSetup {
  memory.write(ZERO_PAGE_ADDRESS, zeroPage({ header, loadAddress, rsdpAddress, ...rest }))
  return longMode(memory, { rip: BigInt(entry), rsi: BigInt(ZERO_PAGE_ADDRESS) })
}

function described({ initrd, memoryMap }: Rest): Pick<LoadedKernel, "initrd" | "memoryMap"> {
  return { initrd, memoryMap }
}

export interface RawOptions {
  readonly memory: GuestMemory
  readonly code: Uint8Array
  /** Guest physical address that the code is written to and starts at. */
  readonly address: number
  /**
   * "real": 16-bit, CS and the other segments at the address's paragraph; "protected": flat 32-bit; "long": flat 64-bit
   * with the first 4 GiB mapped one to one (page tables from 0x9000 to 0xf000).
   */
  readonly mode: "real" | "protected" | "long"
}

/** Writes flat code into guest memory and says how to start it: for hand-written test guests. */
export function loadRaw({ memory, code, address, mode }: RawOptions): LoadedKernel {
  if (mode === "real" && !(address >= 0 && address < 0x100000)) {
    throw new ConfigError("real mode code must lie below 1 MiB")
  }
  memory.write(address, code)
  const regs = { rip: BigInt(address) }
  const setups = {
    real: () => realMode(address, {}),
    protected: () => protectedMode(memory, regs),
    long: () => longMode(memory, regs),
  }
  return {
    kind: "raw",
    entry: address,
    setup: setups[mode](),
    image: { address, size: code.length },
    initrd: undefined,
    memoryMap: memoryMap(memory),
  }
}
