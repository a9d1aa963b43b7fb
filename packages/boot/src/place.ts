import { ConfigError, type GuestMemory } from "@virtkit/interface"
import type { ElfImage } from "./elf.js"
import { formatSize, KernelFormatError } from "./errors.js"
import type { Placed } from "./initrd.js"
import { HIGH_MEMORY_START } from "./layout.js"
import { lowMemoryEnd } from "./memory-map.js"
import type { SetupHeader } from "./setup-header.js"
import { type ByteSource, copyToGuest } from "./source.js"

/** Loads the protected-mode part of a bzImage where it wants to be, or as low as it may be when RAM ends before. */
export async function placeBzImage(
  memory: GuestMemory,
  source: ByteSource,
  header: SetupHeader,
): Promise<Placed> {
  const end = lowMemoryEnd(memory)
  const size = Math.max(header.initSize, header.kernel.size)
  const preferred = header.prefAddress || HIGH_MEMORY_START
  const lowest = Math.ceil(HIGH_MEMORY_START / header.alignment) * header.alignment
  const addresses = header.relocatable ? [preferred, lowest] : [preferred]
  const address = addresses.find((candidate) => candidate >= HIGH_MEMORY_START && candidate + size <= end)
  if (address === undefined) throw tooSmall(source, end, Math.min(...addresses) + size)
  await copyToGuest(source, header.kernel.offset, header.kernel.size, memory, address)
  return { address, size }
}

/** Loads the segments of an ELF image at their physical addresses, which must lie in RAM from 1 MiB on. */
export async function placeElf(memory: GuestMemory, source: ByteSource, elf: ElfImage): Promise<Placed> {
  const end = lowMemoryEnd(memory)
  const [first, last] = [elf.segments[0], elf.segments.at(-1)]
  if (!first || !last) throw new KernelFormatError(`${source.name} has no segment to load`)
  // Below lie the boot data, the legacy hole and the ACPI tables.
  if (first.address < HIGH_MEMORY_START) {
    throw new KernelFormatError(
      `${source.name} wants to be loaded at 0x${first.address.toString(16)}, below 1 MiB, where virtkit keeps boot data`,
    )
  }
  const imageEnd = last.address + last.memorySize
  if (imageEnd > end) throw tooSmall(source, end, imageEnd)
  for (const { offset, fileSize, address, memorySize } of elf.segments) {
    await copyToGuest(source, offset, fileSize, memory, address)
    if (memorySize > fileSize) memory.fill(address + fileSize, memorySize - fileSize, 0)
  }
  return { address: first.address, size: imageEnd - first.address }
}

function tooSmall(source: ByteSource, have: number, need: number): ConfigError {
  return new ConfigError(
    `${formatSize(have)} of guest memory below 4 GiB are too little for ${source.name}: ` +
      `it needs ${formatSize(need)}`,
  )
}
