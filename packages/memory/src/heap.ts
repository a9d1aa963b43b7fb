import { ConfigError } from "@virtkit/interface"
import { layoutRam, type RegionLayout } from "./layout.js"
import { GuestMemoryMap } from "./map.js"
import type { BackedRegion } from "./region.js"

export interface HeapMemoryOptions {
  /** SharedArrayBuffers instead of ArrayBuffers, so that workers can be handed the memory. Default false. */
  shared?: boolean
}

/**
 * Guest memory on the JavaScript heap, for tests and for devices without KVM: it has no host addresses. `layout` is a
 * size in bytes or a list of ranges. Throws {@link ConfigError}.
 */
export function heapMemory(
  layout: number | readonly RegionLayout[],
  options: HeapMemoryOptions = {},
): GuestMemoryMap {
  const ranges = typeof layout === "number" ? layoutRam(layout) : layout
  return new GuestMemoryMap(ranges.map((range) => heapRegion(range.guestAddress, range.size, options)))
}

/** One region of such memory. */
export function heapRegion(
  guestAddress: number,
  size: number,
  options: HeapMemoryOptions = {},
): BackedRegion {
  return {
    guestAddress,
    size,
    buffer: reserve(size, options.shared === true),
    byteOffset: 0,
    hostAddress: 0,
    release: () => {},
  }
}

function reserve(size: number, shared: boolean): ArrayBufferLike {
  try {
    return shared ? new SharedArrayBuffer(size) : new ArrayBuffer(size)
  } catch (error) {
    throw new ConfigError(`cannot allocate ${size} bytes of guest memory`, { cause: error })
  }
}
