import { GuestMemoryMap } from "./map.js"

/** Guest memory as a message between threads. */
export interface SharedMemory {
  readonly version: 1
  readonly regions: readonly {
    readonly guestAddress: number
    readonly size: number
    readonly buffer: SharedArrayBuffer
    readonly byteOffset: number
    readonly hostAddress: number
  }[]
}

/**
 * The same guest memory in another thread of the process. Closing this map ends its use only; it does not release the
 * memory. Dirty tracking is each map's own: whoever collects it asks all of them.
 */
export function fromShared(shared: SharedMemory): GuestMemoryMap {
  return new GuestMemoryMap(shared.regions.map((region) => ({ ...region, release: () => {} })))
}
