import type { CreateQueueResult, QueueOptions } from "./options.js"
import { PackedRing } from "./packed-ring.js"
import { layOutPacked, layOutSplit } from "./ring-layout.js"
import { RingQueue } from "./ring-queue.js"
import { SplitRing } from "./split-ring.js"

/**
 * Makes the device side of a queue over the ring that a driver placed in guest memory.
 *
 * Size and addresses come from the guest: when they cannot be used the result has no queue but the reason, and the
 * transport sets DEVICE_NEEDS_RESET. Writes nothing to guest memory; call `enableNotification` before the first `pop`
 * of a new (not restored) queue.
 */
export function createQueue(options: QueueOptions): CreateQueueResult {
  const layout = options.packed ? layOutPacked(options) : layOutSplit(options)
  if (typeof layout === "string") return { reason: `queue ${options.index}: ${layout}` }
  const ring = "descWords" in layout ? new PackedRing(options, layout) : new SplitRing(options, layout)
  return { queue: new RingQueue(options, ring) }
}
