import type { GuestMemory } from "@virtkit/interface"
import { type BackedRegion, GuestMemoryMap, heapRegion } from "@virtkit/memory"
import { createQueue, type QueueOptions, type QueueState, type SavedChain } from "@virtkit/virtqueue"

const PAGE = 4096

/**
 * The chains that begin at `heads`, which a process before this one took from a split ring: as they are in the descriptor
 * table still, since the driver does not change them before they come back. One that breaks the rules has no buffers, so
 * that the device gives it back without having done anything.
 *
 * A second ring over the same descriptors, in memory that only this function sees, offers exactly these heads.
 */
export function takenChains(
  options: QueueOptions,
  regions: readonly BackedRegion[],
  heads: readonly number[],
): SavedChain[] {
  if (heads.length === 0) return []
  const { size } = options
  const above = regions.reduce((end, region) => Math.max(end, region.guestAddress + region.size), 0)
  const availBytes = Math.ceil((6 + 2 * size) / PAGE) * PAGE
  const usedBytes = Math.ceil((6 + 8 * size) / PAGE) * PAGE
  const memory = new GuestMemoryMap([...regions, heapRegion(above, availBytes + usedBytes)])
  const { queue } = createQueue({
    ...options,
    avail: above,
    used: above + availBytes,
    memory,
    eventIdx: false,
    onInterrupt: () => {},
    onBroken: () => {},
  })
  if (queue === undefined) return []
  for (const [at, head] of heads.entries()) memory.writeUint16(above + 4 + 2 * at, head)
  memory.writeUint16(above + 2, heads.length)
  while (queue.pop() !== undefined) {
    // They are wanted as its state has them.
  }
  const found = new Map((queue.state() as QueueState).inFlight.map((chain) => [chain.id, chain]))
  return heads.map(
    (id) => found.get(id) ?? { id, slots: 1, readable: 0, buffers: [], written: null, whole: false },
  )
}

/**
 * Where in the available ring to go on with a queue in that state so that the chains in flight, and no others, are taken
 * again: used.idx, if they are the last ones that were taken. Undefined while one that was taken later has gone back
 * already.
 */
export function whereToGoOn(state: QueueState, memory: GuestMemory): number | undefined {
  if (state.inFlight.some(isDone)) return undefined
  const inFlight = new Set(state.inFlight.map(({ id }) => id))
  for (let at = state.nextUsed; at !== state.nextAvail; at = (at + 1) & 0xffff) {
    const head = memory.readUint16(state.avail + 4 + 2 * (at & (state.size - 1)))
    if (!inFlight.has(head)) return undefined
  }
  return state.nextUsed
}

/** The device is done with it, and it waits for others to go back first (VIRTIO_F_IN_ORDER): it must not be done again. */
export function isDone({ written }: SavedChain): boolean {
  return written !== null
}
