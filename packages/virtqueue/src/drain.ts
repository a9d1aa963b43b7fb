import type { Chain, Queue } from "@virtkit/interface"

/**
 * Why {@link drainQueue} returned: the queue is `"empty"` and the driver will notify; the `"limit"` was reached and
 * the caller must come back in a later turn of the event loop; or the handler `"stopped"` it and will come back when it
 * can take more. After the last two the driver does not notify.
 */
export type DrainResult = "empty" | "limit" | "stopped"

/**
 * Takes up to `limit` chains (default: the queue's size, see bad-input #16) and hands each to `handle`, then publishes
 * what was pushed. When `handle` returns false it could not take the chain, which
 * goes back to the queue; anything else, nothing included, means that it took it.
 *
 * `handle` may push the chain at once or keep it and push it later. Typical use in `VirtioDevice.notify`:
 * `if (drainQueue(queue, handle) === "limit") context.defer(() => this.notify(queue.index))`.
 */
export function drainQueue(
  queue: Queue,
  handle: (chain: Chain) => unknown,
  limit: number = queue.size,
): DrainResult {
  let handled = 0
  let result: DrainResult | undefined
  queue.disableNotification()
  while (result === undefined) {
    const before = handled
    let chain: Chain | undefined
    while (handled < limit) {
      chain = queue.pop()
      if (chain === undefined) break
      handled++
      if (handle(chain) === false) {
        queue.unpop(chain)
        result = "stopped"
        break
      }
    }
    if (result !== undefined) break
    if (handled >= limit) result = "limit"
    else if (!queue.enableNotification()) result = "empty"
    // Chains are there, but none that a device gets to see: malformed ones without end must not keep us here.
    else if (handled === before) result = "limit"
    else queue.disableNotification()
  }
  queue.flush()
  return result
}
