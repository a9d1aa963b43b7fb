import { totalmem } from "node:os"
import type { KernelKind } from "@virtkit/boot"
import { ConfigError } from "@virtkit/interface"
import type { RingOffers } from "@virtkit/virtio"
import type { CheckedModel, CpuModel } from "./cpu-model.js"
import { resolveModel } from "./cpu-models.js"
import { checkMsrFilter, type MsrFilter, type MsrRule } from "./cpu-msr-filter.js"
import { type CpuCounts, type CpuTopology, checkCpus } from "./cpu-topology.js"
import { MAX_HOT_PLUG_SLOTS } from "./machine.js"
import type { VmDevice } from "./pci-root.js"
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
  /** How many, 1 to 255, or how they are arranged; a number is that many cores of one socket. Default 1. */
  readonly cpus?: number | CpuCounts
  /** "host", which is what KVM supports here (the default), the name of a model, or a model: see docs/cpu.md. */
  readonly cpu?: string | CpuModel
  /** Which model specific registers the guest may access; a denied access is #GP for it. Default: all that KVM has. */
  readonly msrFilter?: readonly MsrRule[]
  /** Asked about each access that `msrFilter` denies. What it gives a read gets, and a write is ignored; undefined: #GP. */
  readonly onDeniedMsr?: (access: MsrAccess) => bigint | undefined
  /** In the order in which the guest finds them. The VM owns them from here on and closes them, even when creation fails. */
  readonly devices?: readonly (VmDevice | Promise<VmDevice>)[]
  /** How the guest finds virtio devices. Default "pci". */
  readonly transport?: Transport
  /** What the rings of all virtio devices offer to the guest's drivers. Default: split rings, used in any order. */
  readonly rings?: RingOffers
  /** Root ports that `plug` can put a device behind while the guest runs: 0 (the default) to 30. Needs PCI. */
  readonly hotPlugSlots?: number
  /**
   * Whether the machine has what PCs had before ACPI: PCI configuration ports (0xCF8), the 8254 timer, ACPI's fixed hardware.
   * Default: unless the guest is a Linux kernel that finds everything by ACPI. It would prefer those ports to
   * configuration space in memory, and pay an exit for each access.
   */
  readonly legacy?: boolean
  /**
   * Default "anonymous"; "memfd" when a device needs memory that another process can map, as those of vhost-user do. Such a
   * device can be plugged in later only if it is not "anonymous".
   */
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

/** A denied access to a model specific register. */
export interface MsrAccess {
  /** APIC id of the vCPU. */
  readonly vcpu: number
  readonly msr: number
  /** What is written; undefined: it is a read. */
  readonly value: bigint | undefined
}
/** virtio-pci or virtio-mmio. */
export type Transport = "pci" | "mmio"

/** The options with their defaults, checked. */
export interface VmConfig {
  readonly name: string
  readonly kernel: string | Uint8Array
  readonly initrd: string | Uint8Array | undefined
  readonly cmdline: string
  readonly memoryBytes: number
  readonly cpus: CpuTopology
  /** Undefined: what KVM supports. */
  readonly cpu: CheckedModel | undefined
  readonly msrFilter: MsrFilter | undefined
  readonly onDeniedMsr: VmOptions["onDeniedMsr"]
  readonly transport: Transport
  readonly rings: RingOffers
  readonly hotPlugSlots: number
  readonly legacy: boolean | undefined
  readonly memoryBacking: MemoryBacking
  readonly kernelCache: string | undefined
  readonly kvm: string
  readonly onFirmwareDebug: ((byte: number) => void) | undefined
  readonly registerPages: boolean
}

const MIB = 2 ** 20
const PAGE = 4096

/** Throws {@link ConfigError} with what is wrong and what would be right. */
export function checkOptions(options: VmOptions, devices: readonly VmDevice[] = []): VmConfig {
  const cpus = checkCpus(options.cpus ?? 1)
  const transport = checkTransport(options.transport ?? "pci")
  return {
    name: options.name ?? "vm",
    kernel: options.kernel,
    initrd: options.initrd,
    cmdline: options.cmdline ?? "",
    memoryBytes: checkMemory(options.memory ?? 512 * MIB),
    cpus,
    cpu: resolveModel(options.cpu ?? "host"),
    msrFilter: checkMsrFilter(options.msrFilter ?? []),
    onDeniedMsr: options.onDeniedMsr,
    transport,
    rings: checkRings(options.rings ?? {}),
    hotPlugSlots: checkHotPlugSlots(options.hotPlugSlots ?? 0, transport),
    legacy: options.legacy,
    memoryBacking: checkBacking(options.memoryBacking, devices),
    kernelCache: options.kernelCache,
    kvm: options.kvm ?? "/dev/kvm",
    onFirmwareDebug: options.onFirmwareDebug,
    registerPages: options.registerPages ?? true,
  }
}

function checkTransport(transport: Transport): Transport {
  if (transport === "pci" || transport === "mmio") return transport
  throw new ConfigError(`transport: ${transport} is not possible, give "pci" or "mmio"`)
}

function checkBacking(wanted: MemoryBacking | undefined, devices: readonly VmDevice[]): MemoryBacking {
  const backing = wanted ?? (devices.some(needsSharedMemory) ? "memfd" : "anonymous")
  for (const device of devices) checkSharing(device, backing)
  return backing
}

/** Throws {@link ConfigError} for a device that cannot work on such memory. */
export function checkSharing(device: VmDevice, backing: MemoryBacking): void {
  if (backing !== "anonymous" || !needsSharedMemory(device)) return
  throw new ConfigError(
    `${device.name}: another process serves it, which cannot map anonymous memory; set memoryBacking to "memfd"`,
  )
}

function needsSharedMemory(device: VmDevice): boolean {
  return "external" in device && device.external !== undefined && !device.external.sameProcess
}

const RING_OFFERS = ["packed", "inOrder", "eventIdx", "indirect"]

function checkRings(rings: RingOffers): RingOffers {
  for (const [name, value] of Object.entries(rings)) {
    if (!RING_OFFERS.includes(name))
      throw new ConfigError(`rings: there is no "${name}", give ${RING_OFFERS.join(", ")}`)
    if (value !== undefined && typeof value !== "boolean")
      throw new ConfigError(`rings: ${name} is true or false, not ${JSON.stringify(value)}`)
  }
  return { ...rings }
}

function checkHotPlugSlots(slots: number, transport: Transport): number {
  if (!Number.isInteger(slots) || slots < 0 || slots > MAX_HOT_PLUG_SLOTS) {
    throw new ConfigError(
      `hotPlugSlots: ${slots} is not possible, give a number from 0 to ${MAX_HOT_PLUG_SLOTS}`,
    )
  }
  if (slots > 0 && transport !== "pci") throw new ConfigError('hotPlugSlots: needs the transport "pci"')
  return slots
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

/**
 * Kernel command line: what the machine needs first, so that the caller's words can override it. `legacy`: the machine has
 * what PCs had before ACPI.
 */
export function composeCmdline(user: string, consoleArgument: string | undefined, legacy: boolean): string {
  const words: string[] = []
  // Linux would look for chipsets with quirks through ports that are not there, two exits a device.
  if (!legacy) words.push("pci=noearly")
  if (consoleArgument !== undefined && !/(^|\s)console=/.test(user)) words.push(consoleArgument)
  // A panic ends the VM at once; a guest that cannot be told apart from a hanging one helps nobody.
  if (!/(^|\s)panic=/.test(user)) words.push("panic=-1")
  if (user !== "") words.push(user)
  return words.join(" ")
}

/** Words with which Linux does without ACPI or local APICs, or without configuration space in memory. */
const WITHOUT_ACPI = /(^|\s)(acpi=(off|ht|noirq)|noapic|nolapic|pci=\S*\b(conf1|noacpi|nommconf)\b)/

/** Whether a guest needs what PCs had before ACPI: see `VmOptions.legacy`. */
export function needsLegacy(kernel: KernelKind, cmdline: string): boolean {
  return (kernel !== "vmlinux" && kernel !== "bzimage") || WITHOUT_ACPI.test(cmdline)
}

/**
 * Whether the tables should not tell of PCI. With `pci=noacpi` Linux still reserves the windows of a host bridge that it
 * finds in them, against the devices that lie there, and moves those to where no bridge forwards to.
 */
export function hidesPci(cmdline: string): boolean {
  return /(^|\s)pci=\S*\bnoacpi\b/.test(cmdline)
}
