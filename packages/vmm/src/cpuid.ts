import type { CpuidEntry } from "@virtkit/kvm"
import { amdCaches } from "./cpu-caches.js"
import { featureMask } from "./cpu-features.js"
import { apicIdWidths, type CpuTopology } from "./cpu-topology.js"
import { findLeaf, isAmd, type Leaf, leafOf } from "./cpuid-entries.js"

const HT = featureMask("ht")
const TSC_DEADLINE = featureMask("tsc_deadline_timer")
const ALWAYS_THERE = featureMask("x2apic", "hypervisor")
const CMP_LEGACY = featureMask("cmp_legacy")
const TOPOEXT = featureMask("topoext")

/** Leaf 0x80000026 says it as leaf 0xb does, in another way; without it guests go by that one. */
const REPLACED = [0xb, 0x1f, 0x8000_0026]
const LEVEL_SMT = 1
const LEVEL_CORE = 2
const FIRST_SHARED_CACHE = 3

export interface CpuidOptions {
  /** Of the vCPU that the entries are for; also its x2APIC id. */
  readonly apicId: number
  readonly topology: CpuTopology
  /** KVM_CAP_TSC_DEADLINE_TIMER; KVM emulates it but leaves the bit out of what it reports as supported. */
  readonly tscDeadline: boolean
}

/** The topology as the leaves tell it. */
interface View {
  readonly apicId: number
  readonly socket: number
  /** Within its socket. */
  readonly core: number
  readonly threads: number
  /** Threads of one socket. */
  readonly inPackage: number
  /** Widths in bits of the fields of an APIC id below the core and below the socket. */
  readonly widths: { readonly thread: number; readonly package: number }
}

/**
 * What the model shows, changed into what one vCPU of the machine shows: its APIC ids, and who shares cores, caches and
 * sockets with it. Intel SDM volume 2A "CPUID" and volume 3A 9.9, AMD APM volume 3 appendix E.
 */
export function vcpuCpuid(model: readonly CpuidEntry[], options: CpuidOptions): CpuidEntry[] {
  const entries: Leaf[] = model
    .filter((entry) => !REPLACED.includes(entry.function))
    .map((entry) => ({ ...entry }))
  const view = viewOf(options)
  adaptFeatures(entries, view, options.tscDeadline, isAmd(entries))
  if (isAmd(entries)) adaptAmd(entries, view)
  else adaptIntel(entries, view)
  // Linux looks at leaf 0xb of both vendors. 0x1f is there where the model has it.
  addTopology(entries, 0xb, view)
  if (model.some((entry) => entry.function === 0x1f)) addTopology(entries, 0x1f, view)
  raise(entries, 0, 0xb)
  return entries
}

function viewOf({ apicId, topology }: CpuidOptions): View {
  const widths = apicIdWidths(topology)
  return {
    apicId,
    socket: apicId >> widths.package,
    core: (apicId >> widths.thread) & (2 ** (widths.package - widths.thread) - 1),
    threads: topology.threads,
    inPackage: topology.cores * topology.threads,
    widths,
  }
}

function adaptFeatures(entries: Leaf[], view: View, tscDeadline: boolean, amd: boolean): void {
  const leaf = leafOf(entries, 1)
  leaf.ecx = (leaf.ecx | ALWAYS_THERE) >>> 0
  leaf.ecx = (tscDeadline ? leaf.ecx | TSC_DEADLINE : leaf.ecx & ~TSC_DEADLINE) >>> 0
  // Intel counts the ids that a socket can have, AMD the threads that it has.
  const count = Math.min(amd ? view.inPackage : 2 ** view.widths.package, 255)
  leaf.ebx = ((leaf.ebx & 0xffff) | (count << 16) | (view.apicId << 24)) >>> 0
  leaf.edx = (view.inPackage > 1 ? leaf.edx | HT : leaf.edx & ~HT) >>> 0
}

/** Leaf 4: caches. The sharing fields count ids, not threads. */
function adaptIntel(entries: Leaf[], { widths }: View): void {
  const coreIds = Math.min(2 ** (widths.package - widths.thread), 64)
  for (const entry of entries) {
    if (entry.function !== 4 || (entry.eax & 0x1f) === 0) continue
    entry.eax = ((entry.eax & 0x3fff) | (sharingIds(entry, widths) << 14) | ((coreIds - 1) << 26)) >>> 0
  }
}

/** How many APIC ids, less one, share a cache of leaf 4 or 0x8000001d. */
function sharingIds(entry: Leaf, widths: View["widths"]): number {
  const level = (entry.eax >>> 5) & 7
  return 2 ** (level >= FIRST_SHARED_CACHE ? widths.package : widths.thread) - 1
}

/** AMD tells of threads by what the host's KVM need not know of (TOPOEXT): it is always there, made if need be. */
function adaptAmd(entries: Leaf[], view: View): void {
  const features = leafOf(entries, 0x8000_0001)
  const legacy = view.inPackage > 1 ? CMP_LEGACY : 0
  features.ecx = ((features.ecx & ~CMP_LEGACY) | legacy | TOPOEXT) >>> 0

  const sizes = leafOf(entries, 0x8000_0008)
  sizes.ecx = ((sizes.ecx & ~0xf0ff) | (view.inPackage - 1) | (view.widths.package << 12)) >>> 0

  if (((findLeaf(entries, 0x8000_001d)?.eax ?? 0) & 0x1f) === 0) {
    const caches = amdCaches(findLeaf(entries, 0x8000_0005), findLeaf(entries, 0x8000_0006))
    caches.forEach((registers, index) => {
      Object.assign(leafOf(entries, 0x8000_001d, index), registers)
    })
  }
  for (const entry of entries) {
    if (entry.function !== 0x8000_001d || (entry.eax & 0x1f) === 0) continue
    entry.eax = ((entry.eax & ~(0xfff << 14)) | (sharingIds(entry, view.widths) << 14)) >>> 0
  }
  Object.assign(leafOf(entries, 0x8000_001e), {
    eax: view.apicId,
    ebx: (view.core & 0xff) | ((view.threads - 1) << 8),
    ecx: view.socket & 0xff, // one node a socket
    edx: 0,
  })
  raise(entries, 0x8000_0000, 0x8000_001e)
}

/** Leaf 0xb or 0x1f: threads of a core, threads of a socket, end. */
function addTopology(entries: Leaf[], leaf: number, { apicId, threads, inPackage, widths }: View): void {
  const level = (index: number, shift: number, count: number, type: number) => {
    Object.assign(leafOf(entries, leaf, index), {
      ...{ eax: shift, ebx: count, ecx: (type << 8) | index, edx: apicId },
    })
  }
  level(0, widths.thread, threads, LEVEL_SMT)
  level(1, widths.package, inPackage, LEVEL_CORE)
  level(2, 0, 0, 0)
}

/** The highest leaf of the range that begins at `first` is at least `leaf`. */
function raise(entries: Leaf[], first: number, leaf: number): void {
  const range = leafOf(entries, first)
  if (range.eax < leaf) range.eax = leaf
}

/** Width of guest physical addresses: what KVM supports, or what a processor that does not say has. */
export function physicalAddressBits(supported: readonly CpuidEntry[]): number {
  const entry = supported.find((candidate) => candidate.function === 0x8000_0008)
  return entry === undefined ? 36 : entry.eax & 0xff
}
