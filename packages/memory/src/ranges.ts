import type { GuestMemory } from "@virtkit/interface"

/** A list of guest ranges that together hold one piece of data, in order. A `Chain` of a queue is one. */
export interface RangeList {
  /** Guest addresses; `count` of them are valid. */
  readonly addresses: Float64Array
  /** Bytes of each. */
  readonly lengths: Uint32Array
  readonly count: number
}

/**
 * Copies out of guest memory what starts `offset` bytes into the list, until `target` is full or the list ends. Returns
 * the number of bytes. Throws GuestAddressError for a range that is not in memory.
 */
export function copyFromRanges(
  memory: GuestMemory,
  list: RangeList,
  offset: number,
  target: Uint8Array,
): number {
  return walk(list, offset, target.length, (address, done, length) =>
    memory.read(address, target.subarray(done, done + length)),
  )
}

/** The same in the other direction: copies `source` into guest memory. */
export function copyToRanges(
  memory: GuestMemory,
  list: RangeList,
  offset: number,
  source: Uint8Array,
): number {
  return walk(list, offset, source.length, (address, done, length) =>
    memory.write(address, source.subarray(done, done + length)),
  )
}

/** Total bytes of the list. */
export function rangesLength(list: RangeList): number {
  let sum = 0
  for (let i = 0; i < list.count; i++) sum += list.lengths[i]!
  return sum
}

function walk(
  list: RangeList,
  offset: number,
  wanted: number,
  copy: (address: number, done: number, length: number) => void,
): number {
  let skip = offset
  let done = 0
  for (let i = 0; i < list.count && done < wanted; i++) {
    const size = list.lengths[i]!
    if (skip >= size) {
      skip -= size
      continue
    }
    const length = Math.min(size - skip, wanted - done)
    copy(list.addresses[i]! + skip, done, length)
    done += length
    skip = 0
  }
  return done
}
