import { heapMemory } from "@virtkit/memory"
import { createQueue, type DeviceQueue } from "@virtkit/virtqueue"
import { AVAIL, BYTES, DESC, type RingShape, USED } from "./ring-drivers.js"

/** Which ring is measured, with which chains. */
export interface RingTask {
  readonly packed: boolean
  readonly inOrder: boolean
  readonly size: number
  readonly descriptors: number
  readonly indirect: boolean
}

/** The device side of a ring, and what a driver for it needs. */
export interface BenchRing {
  readonly queue: DeviceQueue
  readonly buffer: ArrayBufferLike
  readonly shape: RingShape
}

/** Above 4 GiB, where an address is no small integer any more. */
const BASE = 2 ** 33

/** Throws when the ring cannot be, or breaks. */
export function ringOf(task: RingTask): BenchRing {
  const memory = heapMemory([{ guestAddress: BASE, size: BYTES }], { shared: true })
  const { queue, reason } = createQueue({
    ...task,
    index: 0,
    desc: BASE + DESC,
    avail: BASE + AVAIL,
    used: BASE + USED,
    memory,
    eventIdx: true,
    onInterrupt: () => {},
    onBroken: (broken) => {
      throw new Error(broken)
    },
  })
  if (queue === undefined) throw new Error(reason)
  return { queue, buffer: memory.regions[0]!.buffer, shape: { ...task, high: BASE / 2 ** 32 } }
}
