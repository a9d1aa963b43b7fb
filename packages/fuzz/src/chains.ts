import type { VirtioDevice } from "@virtkit/interface"
import {
  type ChainLayout,
  type ChainRequest,
  DeviceHarness,
  type DriverChain,
  TestMemory,
} from "@virtkit/testkit"
import { createQueue } from "@virtkit/virtqueue"
import type { Input } from "./input.js"
import { must } from "./target.js"

const LAYOUTS: readonly ChainLayout[] = ["direct", "indirect", "mixed"]
/** Turns of the event loop that a device may take by itself, and milliseconds if threads do the work. */
const TURNS = 50
const PATIENCE = 5000
export const QUEUE_SIZE = 16

/** A device and a driver that keeps the rules of rings, for what is in the chains. */
export function harnessOf(device: VirtioDevice, features?: bigint, memory?: TestMemory): DeviceHarness {
  const harness = new DeviceHarness({
    device,
    createQueue,
    memory: memory ?? new TestMemory({ regions: [{ guestAddress: 0, size: 0x4_0000 }] }),
    queueSize: QUEUE_SIZE,
    ...(features === undefined ? {} : { features }),
  })
  harness.start()
  return harness
}

/** A chain of these bytes and so much room, cut into buffers as the input says (bad-input #21). */
export function framed(input: Input, readable: Uint8Array, writable: number): ChainRequest | undefined {
  if (readable.length + writable === 0) return undefined
  const layout = input.pick(LAYOUTS)
  const cuts = input.u8()
  const pieces: Uint8Array[] = []
  for (let at = 0; at < readable.length; ) {
    const left = readable.length - at
    const length = pieces.length < (cuts & 7) ? Math.min(left, input.u8() % 20) : left
    pieces.push(readable.subarray(at, at + length))
    at += length
  }
  const rooms: number[] = []
  for (let left = writable; left > 0; ) {
    const length = rooms.length < ((cuts >> 3) & 7) ? Math.min(left, input.u8() * 3) : left
    rooms.push(length)
    left -= length
  }
  // Free descriptors are never fewer than that.
  const fits = pieces.length + rooms.length <= QUEUE_SIZE / 2
  return { readable: pieces, writable: rooms, layout: fits ? layout : "indirect" }
}

/** Adds a chain if there are descriptors for it, waits until the device gave it back, and looks at what it said. */
export async function sent(
  harness: DeviceHarness,
  queue: number,
  request: ChainRequest,
): Promise<DriverChain> {
  const ring = harness.ring(queue)
  const chain = ring.add(request)
  harness.kick(queue)
  await given(harness, queue, chain)
  return chain
}

export async function given(harness: DeviceHarness, queue: number, chain: DriverChain): Promise<void> {
  for (let turns = 0; ; turns++) {
    harness.ring(queue).reap()
    if (chain.written !== undefined) break
    must(turns < TURNS + PATIENCE, "a chain does not come back")
    await new Promise((resolve) => (turns < TURNS ? setImmediate(resolve) : setTimeout(resolve, 1)))
  }
  fine(harness, chain)
}

/** What holds for every chain that came back. */
export function fine(harness: DeviceHarness, chain: DriverChain): void {
  const room = chain.buffers.reduce((sum, { writable, length }) => sum + (writable ? length : 0), 0)
  must(chain.written! <= room, `${chain.written} bytes were written into ${room}`)
  must(harness.needsReset.length === 0, `needs a reset: ${harness.needsReset[0]}`)
}
