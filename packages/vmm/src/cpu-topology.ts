import { ConfigError } from "@virtkit/interface"

/** How many vCPUs and how they are arranged; what is left out follows from the rest, as with QEMU's `-smp`. */
export interface CpuCounts {
  /** vCPUs in all. Default: the product of the others. */
  readonly count?: number
  /** Default 1. */
  readonly sockets?: number
  /** Of one socket. Default: as many as `count` asks for. */
  readonly cores?: number
  /** Of one core. Default 1. */
  readonly threads?: number
}

/** `count` is `sockets` x `cores` x `threads`. */
export interface CpuTopology {
  readonly count: number
  readonly sockets: number
  readonly cores: number
  readonly threads: number
}

/** 255 is the broadcast id; what is above it needs an x2APIC and interrupt remapping. */
const MAX_APIC_ID = 254
export const MAX_CPUS: number = MAX_APIC_ID + 1

/** Throws {@link ConfigError} with what is wrong and what would be right. */
export function checkCpus(cpus: number | CpuCounts): CpuTopology {
  const given = typeof cpus === "number" ? { count: cpus } : cpus
  for (const key of ["count", "sockets", "cores", "threads"] as const) checkNumber(key, given[key])
  const topology = complete(given)
  checkApicIds(topology)
  return topology
}

function checkNumber(key: keyof CpuCounts, value: number | undefined): void {
  if (value === undefined || (Number.isInteger(value) && value >= 1 && value <= 2 ** 20)) return
  const what = key === "count" ? "" : `${key} `
  throw new ConfigError(`cpus: ${what}${value} is not possible, give a number from 1 to ${MAX_CPUS}`)
}

/** Cores before sockets before threads make up what is missing. */
function complete({ count, sockets, cores, threads }: CpuCounts): CpuTopology {
  if (count === undefined) {
    const known = { sockets: sockets ?? 1, cores: cores ?? 1, threads: threads ?? 1 }
    return { count: known.sockets * known.cores * known.threads, ...known }
  }
  const full = { sockets: sockets ?? 1, cores: cores ?? 1, threads: threads ?? 1 }
  if (cores === undefined) full.cores = Math.floor(count / (full.sockets * full.threads))
  else if (sockets === undefined) full.sockets = Math.floor(count / (cores * full.threads))
  else if (threads === undefined) full.threads = Math.floor(count / (sockets * cores))
  const product = full.sockets * full.cores * full.threads
  if (product === count) return { count, ...full }
  const { sockets: s = "?", cores: c = "?", threads: t = "?" } = { sockets, cores, threads }
  throw new ConfigError(
    `cpus: ${count} cannot be arranged as sockets ${s} x cores ${c} x threads ${t}; the product must be the number of CPUs`,
  )
}

function checkApicIds(topology: CpuTopology): void {
  const { count, sockets, cores, threads } = topology
  const highest = apicIdOf(count - 1, topology)
  if (highest <= MAX_APIC_ID) return
  throw new ConfigError(
    `cpus: ${count} (${sockets} sockets of ${cores} cores of ${threads} threads) need APIC ids up to ${highest}; ids above ${MAX_APIC_ID} need x2APIC interrupt remapping, which is not supported; give fewer`,
  )
}

/** Widths of the fields of an APIC id in bits: it is socket, core and thread number after each other. */
export function apicIdWidths({ cores, threads }: CpuTopology): { thread: number; package: number } {
  const thread = Math.ceil(Math.log2(threads))
  return { thread, package: thread + Math.ceil(Math.log2(cores)) }
}

/** The APIC id of the vCPU with this index; threads of a core, and cores of a socket, follow each other. */
export function apicIdOf(index: number, topology: CpuTopology): number {
  const { cores, threads } = topology
  const widths = apicIdWidths(topology)
  const socket = Math.floor(index / (cores * threads))
  const core = Math.floor(index / threads) % cores
  // No shifts: they would wrap before the id is refused.
  return socket * 2 ** widths.package + core * 2 ** widths.thread + (index % threads)
}

/** Of all vCPUs in the order of their indices; the first one is 0. */
export function apicIds(topology: CpuTopology): number[] {
  return Array.from({ length: topology.count }, (_, index) => apicIdOf(index, topology))
}
