import type { GuestMemory } from "@virtkit/interface"
import { TestAllocator } from "./allocator.js"
import { PackedRingDriver } from "./packed-ring.js"
import type { ChainRecord } from "./record-plan.js"
import type { DriverChain, RingDriver } from "./ring-driver.js"
import { FEATURE } from "./spec.js"
import { SplitRingDriver } from "./split-ring.js"
import type { RingAddresses } from "./transport-driver.js"

/** Puts a ring where the guest had it, and everything else where there is room. */
class PlacedAllocator extends TestAllocator {
  readonly #places: number[]
  readonly #rest: TestAllocator

  constructor(places: readonly number[], rest: TestAllocator) {
    super(0, 0)
    this.#places = [...places]
    this.#rest = rest
  }

  override allocate(length: number, alignment?: number): number {
    return this.#places.shift() ?? this.#rest.allocate(length, alignment)
  }

  override free(address: number): void {
    this.#rest.free(address)
  }
}

/** A ring of the player's, with the chains of the trace that wait for room in it. */
export class ReplayRing {
  readonly ring: RingDriver
  readonly #indirect: boolean
  readonly #waiting: ChainRecord[] = []
  readonly #offered = new Map<DriverChain, ChainRecord>()

  /** `at`: where the three parts are to be. Default: anywhere. */
  constructor(
    memory: GuestMemory,
    allocator: TestAllocator,
    size: number,
    features: bigint,
    at?: RingAddresses,
  ) {
    const options = {
      memory,
      allocator: at === undefined ? allocator : new PlacedAllocator([at.desc, at.avail, at.used], allocator),
      size,
      eventIdx: (features & FEATURE.RING_EVENT_IDX) !== 0n,
      inOrder: (features & FEATURE.IN_ORDER) !== 0n,
    }
    const isPacked = (features & FEATURE.RING_PACKED) !== 0n
    this.ring = isPacked ? new PackedRingDriver(options) : new SplitRingDriver(options)
    this.#indirect = (features & FEATURE.RING_INDIRECT_DESC) !== 0n
  }

  wait(chain: ChainRecord): void {
    this.#waiting.push(chain)
  }

  /** Makes available what there is room for; true when the device must be notified. */
  offer(): boolean {
    let count = 0
    for (let next = this.#waiting[0]; next !== undefined; next = this.#waiting[0]) {
      const buffers = Math.max(1, next.buffers.length)
      const isIndirect = this.#indirect && buffers > 1
      if ((isIndirect ? 1 : buffers) > this.ring.freeDescriptors) break
      this.#waiting.shift()
      const layout = isIndirect ? "indirect" : "direct"
      this.#offered.set(this.ring.add({ ...contentsOf(next), layout }), next)
      count++
    }
    return count > 0 && this.ring.publish()
  }

  /** Takes what the device gave back. */
  reap(): { chain: DriverChain; record: ChainRecord }[] {
    return this.ring.reap().map((chain) => {
      const record = this.#offered.get(chain)!
      this.#offered.delete(chain)
      return { chain, record }
    })
  }
}

/** The buffers of a chain as the driver is to make them. What the trace did not keep of the contents is zero. */
function contentsOf({ buffers, data }: ChainRecord): { readable: Uint8Array[]; writable: number[] } {
  const readable: Uint8Array[] = []
  const writable: number[] = []
  let at = 0
  for (const buffer of buffers) {
    if (buffer.writable) {
      writable.push(buffer.length)
      continue
    }
    const content = new Uint8Array(buffer.length)
    content.set(data.subarray(at, at + buffer.length))
    at += buffer.length
    readable.push(content)
  }
  // Buffers without a byte are not in the trace, but a chain has one at least.
  if (buffers.length === 0) readable.push(new Uint8Array(0))
  return { readable, writable }
}
