import type { Chain, Queue } from "@virtkit/interface"
import { drainQueue } from "@virtkit/virtqueue"

/** Names as in virtio 1.3, section 5.1.6.5. */
const VIRTIO_NET_CTRL_MQ = 4
const VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET = 0
const VIRTIO_NET_OK = 0
const VIRTIO_NET_ERR = 1

/** Feature bits that the front end has itself for a card with several pairs of queues. */
export const VIRTIO_NET_F_CTRL_VQ: bigint = 1n << 17n
export const VIRTIO_NET_F_MQ: bigint = 1n << 22n

/**
 * The control queue of a card whose back end knows of none: the driver says by it how many pairs of queues it uses, and nothing
 * else. Takes what is there, no more than the queue is long; true when there may be more.
 */
export function serveNetControl(queue: Queue, maxPairs: number, setPairs: (pairs: number) => void): boolean {
  const answered = (chain: Chain): number => {
    // Not carried out either, since the driver could not learn of it.
    if (chain.writableBytes === 0) return 0
    const pairs = pairsOf(chain)
    const valid = pairs >= 1 && pairs <= maxPairs
    if (valid) setPairs(pairs)
    return chain.copyIn(0, Uint8Array.of(valid ? VIRTIO_NET_OK : VIRTIO_NET_ERR))
  }
  return drainQueue(queue, (chain) => queue.push(chain, answered(chain))) === "limit"
}

/** The number in a command that sets it; 0 in all others. A copy is parsed (bad-input #18). */
function pairsOf(chain: Chain): number {
  const command = new Uint8Array(4)
  if (chain.readableBytes !== command.length || chain.copyOut(0, command) !== command.length) return 0
  const isSet = command[0] === VIRTIO_NET_CTRL_MQ && command[1] === VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET
  return isSet ? command[2]! + 256 * command[3]! : 0
}
