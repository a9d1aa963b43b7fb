import type { GuestMemory } from "@virtkit/interface"
import { type BackedRegion, GuestMemoryMap, heapRegion } from "@virtkit/memory"
import { createQueue, type QueueOptions, type QueueState, type SavedChain } from "@virtkit/virtqueue"
import { DESCRIPTOR_BYTES, type TakenPacked } from "./inflight-packed.js"
import { isDone } from "./recover.js"

const PAGE = 4096
/** 2.8.1 and 2.8.13: flags of a descriptor; those that are its driver's, beside whose it is; and those that say so. */
const NEXT = 1
const DRIVERS = 7
const AVAIL = 0x80
const OWNER = 0x8080
/** Wrap counter of a position. */
const WRAP = 0x8000

/**
 * The chains that a process before this one took from a packed ring, of which it kept the descriptors. One that breaks the rules has
 * no buffers, so that the device gives it back without having done anything.
 *
 * A second ring, in memory that only this function sees, offers exactly these.
 */
export function takenPackedChains(
  options: QueueOptions,
  regions: readonly BackedRegion[],
  taken: readonly TakenPacked[],
): SavedChain[] {
  const slots = taken.reduce((sum, { descriptors }) => sum + descriptors.length / DESCRIPTOR_BYTES, 0)
  // More than there can be: whoever restores it says so.
  const fits = slots <= options.size
  const found = fits && slots > 0 ? parse(options, regions, taken) : new Map<number, SavedChain>()
  return taken.map(({ descriptors }, index) => {
    const view = new DataView(descriptors.buffer, descriptors.byteOffset, descriptors.length)
    const id = view.getUint16(descriptors.length - 4, true)
    const count = descriptors.length / DESCRIPTOR_BYTES
    const chain = found.get(index) ?? { readable: 0, buffers: [], written: null, whole: false }
    return { ...chain, id, slots: count }
  })
}

/** By their place in the list; without those that break a rule. */
function parse(
  options: QueueOptions,
  regions: readonly BackedRegion[],
  taken: readonly TakenPacked[],
): Map<number, SavedChain> {
  const above = regions.reduce((end, region) => Math.max(end, region.guestAddress + region.size), 0)
  const bytes = Math.ceil((DESCRIPTOR_BYTES * options.size) / PAGE) * PAGE
  const memory = new GuestMemoryMap([...regions, heapRegion(above, bytes + PAGE)])
  const { queue } = createQueue({
    ...options,
    desc: above,
    avail: above + bytes,
    used: above + bytes + 4,
    memory,
    eventIdx: false,
    inOrder: false,
    onInterrupt: () => {},
    onBroken: () => {},
  })
  if (queue === undefined) return new Map()
  let at = above
  for (const [index, { descriptors }] of taken.entries()) {
    for (let from = 0; from < descriptors.length; from += DESCRIPTOR_BYTES, at += DESCRIPTOR_BYTES) {
      const descriptor = descriptors.slice(from, from + DESCRIPTOR_BYTES)
      const isLast = from + DESCRIPTOR_BYTES === descriptors.length
      const flags = descriptor[14]! & DRIVERS & ~NEXT
      memory.write(at, descriptor)
      memory.writeUint16(at + 12, index)
      memory.writeUint16(at + 14, flags | AVAIL | (isLast ? 0 : NEXT))
    }
  }
  while (queue.pop() !== undefined) {
    // They are wanted as its state has them.
  }
  return new Map((queue.state() as QueueState).inFlight.map((chain) => [chain.id, chain]))
}

/** The position behind these chains, which begin at `position`. */
export function advance(position: number, chains: readonly SavedChain[], size: number): number {
  const slot = (position & ~WRAP) + chains.reduce((sum, { slots }) => sum + slots, 0)
  return slot < size ? slot | (position & WRAP) : (slot - size) | (~position & WRAP)
}

/** Whether the driver sees the descriptor at that position as used: it is no available one of this lap. */
export function isUsed({ memory, desc, size }: QueueOptions, position: number): boolean {
  const slot = position & ~WRAP
  if (slot >= size) return false
  const flags = memory.readUint16(desc + DESCRIPTOR_BYTES * slot + 14)
  return (flags & OWNER) !== ((position & WRAP) !== 0 ? AVAIL : OWNER & ~AVAIL)
}

/**
 * Whether the chains in flight on a packed ring lie untouched in it from where the next used descriptor goes: then they, and no
 * others, are taken again from there. While one that was taken later has gone back already, what was written for that lies over
 * the first ones.
 */
export function isTail({ size, desc, nextUsed, inFlight }: QueueState, memory: GuestMemory): boolean {
  let slot = nextUsed & 0x7fff
  for (const chain of inFlight) {
    const last = desc + 16 * ((slot + chain.slots - 1) % size)
    const isEnd = (memory.readUint16(last + 14) & NEXT) === 0
    if (isDone(chain) || !isEnd || memory.readUint16(last + 12) !== chain.id) return false
    slot = (slot + chain.slots) % size
  }
  return true
}

/** A position in a packed ring as a base: the next chain is taken where the next one is given back. */
export function twice(position: number): number {
  return position * 0x1_0001
}

/**
 * Where a packed ring goes on: where chains are given back, since this side has none in flight. DPDK's driver leaves that half
 * out when it starts a ring.
 */
export function packedStart(base: number): number {
  return base === WRAP ? WRAP : base >>> 16
}
