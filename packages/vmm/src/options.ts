import { totalmem } from "node:os"
import { ConfigError, type VirtioDevice } from "@virtkit/interface"
import { VIRTIO_GSIS } from "./machine.js"
import { formatSize, parseSize } from "./size.js"

/** What backs guest RAM: see `@virtkit/memory/mmap`. */
export type MemoryBacking = "anonymous" | "memfd" | "hugetlb"

export interface VmOptions {
  /** For messages; default "vm". */
  readonly name?: string
  /**
   * A bzImage, ELF vmlinux or PVH image: a path, or its bytes. Or firmware, the image of a ROM such as SeaBIOS or U-Boot,
   * which then boots from a disk and takes neither `initrd` nor `cmdline`.
   */
  readonly kernel: string | Uint8Array
  /** An initial RAM disk: a path, or its bytes. */
  readonly initrd?: string | Uint8Array
  /** Appended to the command line that the VM needs; a `console=` of the caller's replaces the default one. */
  readonly cmdline?: string
  /** Bytes, or text such as "512M". Default 512 MiB. */
  readonly memory?: string | number
  /** 1 to 64; default 1. */
  readonly cpus?: number
  /** In the order in which the guest finds them. The VM owns them from here on and closes them, even when creation fails. */
  readonly devices?: readonly (VirtioDevice | Promise<VirtioDevice>)[]
  readonly memoryBacking?: MemoryBacking
  /** Where unpacked kernels are kept between runs; default: nowhere, they are unpacked each time. */
  readonly kernelCache?: string
  /** Default "/dev/kvm". */
  readonly kvm?: string
  /**
   * Gets each byte of the log that firmware writes to port 0x402, which exists only with this: an exit a byte. Called
   * inside the guest's write; must not throw.
   */
  readonly onFirmwareDebug?: (byte: number) => void
  /** Ends the VM as `kill()` does. */
  readonly signal?: AbortSignal
  /**
   * Keep the virtio registers in read-only memory of the guest, so that reading them needs no exit. Default true; false
   * is for measuring what it brings.
   */
  readonly registerPages?: boolean
}

/** The options with their defaults, checked. */
export interface VmConfig {
  readonly name: string
  readonly kernel: string | Uint8Array
  readonly initrd: string | Uint8Array | undefined
  readonly cmdline: string
  readonly memoryBytes: number
  readonly cpus: number
  readonly memoryBacking: MemoryBacking
  readonly kernelCache: string | undefined
  readonly kvm: string
  readonly onFirmwareDebug: ((byte: number) => void) | undefined
  readonly registerPages: boolean
}

export const MAX_CPUS = 64
const MIB = 2 ** 20
const PAGE = 4096

/** Throws {@link ConfigError} with what is wrong and what would be right. */
export function checkOptions(options: VmOptions): VmConfig {
  const cpus = checkCpus(options.cpus ?? 1)
  const devices = options.devices?.length ?? 0
  if (devices > VIRTIO_GSIS.length) {
    throw new ConfigError(`devices: ${devices} are too many, virtio-mmio has room for ${VIRTIO_GSIS.length}`)
  }
  return {
    name: options.name ?? "vm",
    kernel: options.kernel,
    initrd: options.initrd,
    cmdline: options.cmdline ?? "",
    memoryBytes: checkMemory(options.memory ?? 512 * MIB),
    cpus,
    memoryBacking: options.memoryBacking ?? "anonymous",
    kernelCache: options.kernelCache,
    kvm: options.kvm ?? "/dev/kvm",
    onFirmwareDebug: options.onFirmwareDebug,
    registerPages: options.registerPages ?? true,
  }
}

export function checkCpus(cpus: number): number {
  if (Number.isInteger(cpus) && cpus >= 1 && cpus <= MAX_CPUS) return cpus
  throw new ConfigError(`cpus: ${cpus} is not possible, give a number from 1 to ${MAX_CPUS}`)
}

/** RAM is whole pages, enough for anything to boot, and no more than the host has. */
export function checkMemory(value: string | number): number {
  const bytes = parseSize(value, "memory")
  if (bytes < MIB) throw new ConfigError(`memory: ${formatSize(bytes)} is too little, give 1M or more`)
  if (bytes > totalmem()) {
    throw new ConfigError(
      `memory: ${formatSize(bytes)} is more than this host has (${formatSize(totalmem())}); give less`,
    )
  }
  if (bytes % PAGE !== 0)
    throw new ConfigError(`memory: ${bytes} bytes are not a multiple of the page size, ${PAGE}`)
  return bytes
}

/** Kernel command line: what the machine needs first, so that the caller's words can override it. */
export function composeCmdline(user: string, consoleArgument: string | undefined): string {
  const words: string[] = []
  if (consoleArgument !== undefined && !/(^|\s)console=/.test(user)) words.push(consoleArgument)
  // A panic ends the VM at once; a guest that cannot be told apart from a hanging one helps nobody.
  if (!/(^|\s)panic=/.test(user)) words.push("panic=-1")
  if (user !== "") words.push(user)
  return words.join(" ")
}
