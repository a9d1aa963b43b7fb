import { ConfigError, type GuestMemory } from "@virtkit/interface"
import { formatSize } from "./errors.js"
import { lowMemoryEnd } from "./memory-map.js"
import { type ByteSource, copyToGuest } from "./source.js"

const PAGE = 4096

export interface Placed {
  readonly address: number
  /** Bytes. */
  readonly size: number
}

/**
 * Loads the initrd as high as the kernel allows (`addressMax` is the last byte it may occupy) and as RAM below the
 * 4 GiB hole reaches, but above the kernel, which ends at `kernelEnd`. Throws {@link ConfigError} when it does not fit.
 */
export async function loadInitrd(
  memory: GuestMemory,
  source: ByteSource,
  kernelEnd: number,
  addressMax: number,
): Promise<Placed | undefined> {
  if (source.size === 0) return undefined
  const end = lowMemoryEnd(memory)
  const address = Math.floor((Math.min(end, addressMax + 1) - source.size) / PAGE) * PAGE
  if (address < kernelEnd) {
    throw new ConfigError(
      `${source.name} (${formatSize(source.size)}) does not fit into guest memory: ` +
        `of ${formatSize(end)} below 4 GiB the kernel takes the first ${formatSize(kernelEnd)}`,
    )
  }
  await copyToGuest(source, 0, source.size, memory, address)
  return { address, size: source.size }
}
