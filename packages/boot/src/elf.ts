import { KernelFormatError } from "./errors.js"
import type { ByteSource } from "./source.js"

const HEADER_SIZE = 64
const PROGRAM_HEADER_SIZE = 56
/** Kernels have some 5. */
const MAX_PROGRAM_HEADERS = 128
/** A note segment beyond this many bytes is not looked at. */
const MAX_NOTES = 1024 * 1024

const ELFCLASS64 = 2
const ELFDATA2LSB = 1
const ET_EXEC = 2
const ET_DYN = 3
const EM_X86_64 = 62
const PT_LOAD = 1
const PT_NOTE = 4

/** Note of the PVH boot protocol: the physical 32-bit entry point (Xen docs/misc/pvh.pandoc). */
const XEN_ELFNOTE_PHYS32_ENTRY = 18

/** A part of the file and the physical memory it goes to; `memorySize - fileSize` bytes after it are zero. */
export interface Segment {
  readonly offset: number
  readonly fileSize: number
  readonly address: number
  readonly memorySize: number
}

export interface ElfImage {
  /** PT_LOAD segments that are not empty, by address, none overlapping another. */
  readonly segments: readonly Segment[]
  /** Physical address. */
  readonly entry: number
  /** Physical 32-bit entry point of the PVH protocol. */
  readonly pvhEntry: number | undefined
}

export function isElf(head: Uint8Array): boolean {
  return head[0] === 0x7f && head[1] === 0x45 && head[2] === 0x4c && head[3] === 0x46
}

interface ProgramHeader extends Segment {
  readonly type: number
  readonly virtualAddress: number
}

/**
 * Reads the headers of an ELF64 kernel. Everything in the result lies in the file, does not overflow and does not
 * overlap; whether it lies in guest memory is for the caller to check.
 * Throws {@link KernelFormatError}.
 */
export async function parseElf(source: ByteSource): Promise<ElfImage> {
  const fail = (what: string): never => {
    throw new KernelFormatError(`${source.name} is not a kernel that virtkit can start: ${what}`)
  }
  if (source.size < HEADER_SIZE) fail("its ELF header is cut short")
  const header = await view(source, 0, HEADER_SIZE)
  if (header.getUint8(4) !== ELFCLASS64 || header.getUint8(5) !== ELFDATA2LSB)
    fail("it is not a 64-bit ELF image")
  if (header.getUint16(18, true) !== EM_X86_64) fail("it is for another architecture than x86-64")
  const type = header.getUint16(16, true)
  if (type !== ET_EXEC && type !== ET_DYN) fail("it is an ELF file, but not an executable one")

  const headers = await programHeaders(source, header, fail)
  const segments = loadSegments(headers, source, fail)
  const entry = physicalEntry(uint64(header, 24), headers)
  const pvhEntry = await findPvhEntry(source, headers)
  for (const address of [entry, pvhEntry]) {
    if (
      address !== undefined &&
      !segments.some((segment) => contains(segment.address, segment.memorySize, address))
    ) {
      fail(`its entry point 0x${address.toString(16)} is in none of its segments`)
    }
  }
  return { segments, entry, pvhEntry }
}

async function programHeaders(
  source: ByteSource,
  header: DataView,
  fail: (what: string) => never,
): Promise<ProgramHeader[]> {
  const offset = uint64(header, 32)
  const count = header.getUint16(56, true)
  if (header.getUint16(54, true) !== PROGRAM_HEADER_SIZE) fail("its program headers have a strange size")
  if (count === 0 || count > MAX_PROGRAM_HEADERS) fail(`it has ${count} program headers`)
  if (offset + count * PROGRAM_HEADER_SIZE > source.size) fail("its program headers lie outside of the file")
  const table = await view(source, offset, count * PROGRAM_HEADER_SIZE)
  return Array.from({ length: count }, (_, index) => {
    const at = index * PROGRAM_HEADER_SIZE
    return {
      type: table.getUint32(at, true),
      offset: uint64(table, at + 8),
      virtualAddress: uint64(table, at + 16),
      address: uint64(table, at + 24),
      fileSize: uint64(table, at + 32),
      memorySize: uint64(table, at + 40),
    }
  })
}

function loadSegments(
  headers: ProgramHeader[],
  source: ByteSource,
  fail: (what: string) => never,
): Segment[] {
  const segments = headers
    .filter(({ type, memorySize }) => type === PT_LOAD && memorySize > 0)
    .map(({ offset, fileSize, address, memorySize }) => ({ offset, fileSize, address, memorySize }))
    .sort((a, b) => a.address - b.address)
  if (segments.length === 0) fail("it has no segment to load")
  let end = 0
  for (const { offset, fileSize, address, memorySize } of segments) {
    if (offset + fileSize > source.size) fail("a segment lies outside of the file: it is cut short")
    if (fileSize > memorySize) fail("a segment has more bytes in the file than in memory")
    if (!Number.isSafeInteger(address + memorySize)) fail("a segment's address is too large")
    if (address < end) fail("two of its segments overlap")
    end = address + memorySize
  }
  return segments
}

/** Linux gives a physical entry point; others give a virtual one, which a segment translates. */
function physicalEntry(entry: number, headers: readonly ProgramHeader[]): number {
  const loads = headers.filter(({ type }) => type === PT_LOAD)
  if (loads.some(({ address, memorySize }) => contains(address, memorySize, entry))) return entry
  const segment = loads.find(({ virtualAddress, memorySize }) => contains(virtualAddress, memorySize, entry))
  return segment ? segment.address + (entry - segment.virtualAddress) : entry
}

async function findPvhEntry(source: ByteSource, headers: ProgramHeader[]): Promise<number | undefined> {
  for (const { type, offset, fileSize } of headers) {
    if (type !== PT_NOTE || fileSize > MAX_NOTES || offset + fileSize > source.size) continue
    const entry = pvhNote(await view(source, offset, fileSize))
    if (entry !== undefined) return entry
  }
  return undefined
}

/** Goes through the notes of a segment: name size, description size, type, then both, padded to 4 bytes. */
function pvhNote(notes: DataView): number | undefined {
  for (let at = 0; at + 12 <= notes.byteLength; ) {
    const nameSize = notes.getUint32(at, true)
    const size = notes.getUint32(at + 4, true)
    const type = notes.getUint32(at + 8, true)
    const description = at + 12 + align4(nameSize)
    const isXen =
      nameSize === 4 && at + 16 <= notes.byteLength && notes.getUint32(at + 12, true) === 0x006e6558
    if (isXen && type === XEN_ELFNOTE_PHYS32_ENTRY && size >= 4 && description + 4 <= notes.byteLength) {
      return notes.getUint32(description, true)
    }
    at = description + align4(size)
  }
  return undefined
}

function align4(value: number): number {
  return Math.ceil(value / 4) * 4
}

function contains(start: number, size: number, address: number): boolean {
  return address >= start && address - start < size
}

/** Beyond 2^53 the result is not exact, but too large for any check that follows. */
function uint64(data: DataView, offset: number): number {
  return data.getUint32(offset + 4, true) * 2 ** 32 + data.getUint32(offset, true)
}

async function view(source: ByteSource, offset: number, length: number): Promise<DataView> {
  const bytes = new Uint8Array(length)
  await source.read(offset, bytes)
  return new DataView(bytes.buffer)
}
