import type { GuestMemory } from "@virtkit/interface"
import type { Place } from "./raw-ring.js"

/** An atomic access of guest memory. */
export interface AtomicAccess extends Place {
  readonly kind: "load" | "store"
  /** What is stored. */
  readonly value?: number
}

/**
 * Runs `body` and tells `before` of every atomic access of `memory` just before it happens; returns them all. `before`
 * may access memory itself: what it does is not told. There is one thread, so this stands in for other vCPUs.
 */
export function watchAtomics(
  memory: GuestMemory,
  body: () => void,
  before: (access: AtomicAccess) => void = () => {},
): AtomicAccess[] {
  const accesses: AtomicAccess[] = []
  const { load, store } = Atomics
  let inside = false
  const tell = (array: Uint32Array, index: number, value?: number): void => {
    const region = memory.regions.find(({ buffer }) => buffer === array.buffer)
    if (inside || region === undefined) return
    const bytes = array.BYTES_PER_ELEMENT
    const address = region.guestAddress + array.byteOffset - region.byteOffset + index * bytes
    const place = { address, bytes }
    const access: AtomicAccess =
      value === undefined ? { kind: "load", ...place } : { kind: "store", ...place, value }
    accesses.push(access)
    inside = true
    before(access)
    inside = false
  }
  try {
    Atomics.load = ((array: Uint32Array, index: number) => {
      tell(array, index)
      return load(array, index)
    }) as typeof Atomics.load
    Atomics.store = ((array: Uint32Array, index: number, value: number) => {
      tell(array, index, value)
      return store(array, index, value)
    }) as typeof Atomics.store
    body()
  } finally {
    Atomics.load = load
    Atomics.store = store
  }
  return accesses
}

/** Whether one access covers all of the place, so that no half of it can be old. */
export function covers(access: Place, place: Place): boolean {
  return access.address <= place.address && place.address + place.bytes <= access.address + access.bytes
}
