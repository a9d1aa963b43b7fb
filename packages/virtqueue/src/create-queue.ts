import type { CreateQueueResult, QueueOptions } from "./options.js"
import { layOut } from "./ring-layout.js"
import { SplitQueue } from "./split-queue.js"

/**
 * Makes the device side of a queue over the rings that a driver placed in guest memory.
 *
 * Size and addresses come from the guest: when they cannot be used the result has no queue but the reason, and the
 * transport sets DEVICE_NEEDS_RESET. Writes nothing to guest memory; call `enableNotification` before the first `pop`
 * of a new (not restored) queue.
 */
export function createQueue(options: QueueOptions): CreateQueueResult {
  const layout = layOut(options)
  if (typeof layout === "string") return { reason: `queue ${options.index}: ${layout}` }
  return { queue: new SplitQueue(options, layout) }
}
