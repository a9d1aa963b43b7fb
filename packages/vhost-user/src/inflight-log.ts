import type { Chain, GuestMemory } from "@virtkit/interface"
import type { DeviceQueue, QueueOptions } from "@virtkit/virtqueue"
import type { InflightQueue } from "./inflight.js"
import { DESCRIPTOR_BYTES, type PackedInflight } from "./inflight-packed.js"

/** What the device has of a ring, written down for a process that comes after this one. */
export interface InflightLog {
  /** The device got a chain. */
  took(chain: Chain): void
  /** That chain goes back into the queue, to be popped again. */
  unpopped(chain: Chain): void
  /** The chain is about to be given back: the driver does not see it yet. */
  gives(chain: Chain): void
  /** What is given is in the ring, and about to be shown. */
  given(): void
  /** The driver sees all that was given. */
  gave(): void
  /** All is given back, or is going to be taken again. */
  clear(): void
}

/** Of a split ring, whose used.idx `usedIndex` reads. */
export function splitLog(inflight: InflightQueue, usedIndex: () => number): InflightLog {
  return {
    took: ({ head }) => inflight.took(head),
    // It stays written down, as of the next time that it is popped.
    unpopped: () => {},
    gives: ({ head }) => inflight.gives(head),
    given: () => {},
    gave: () => inflight.gave(usedIndex()),
    clear: () => inflight.clear(),
  }
}

/** Of a packed ring: copies descriptors out of it. */
export class PackedLog implements InflightLog {
  readonly #inflight: PackedInflight
  readonly #queue: DeviceQueue
  readonly #memory: GuestMemory
  readonly #desc: number
  readonly #size: number
  /** First entries of the chains that the device has. */
  readonly #entries = new Map<Chain, number>()
  /** Those of chains that are popped before any of the ring. */
  readonly #waiting: number[]
  /** Position in the ring behind the last chain that was taken. */
  #position: number

  /** `waiting`: first entries of what `queue` has in flight from before. */
  constructor(
    inflight: PackedInflight,
    queue: DeviceQueue,
    options: QueueOptions,
    waiting: readonly number[],
  ) {
    this.#inflight = inflight
    this.#queue = queue
    this.#memory = options.memory
    this.#desc = options.desc
    this.#size = options.size
    this.#waiting = [...waiting]
    this.#position = queue.nextAvail
  }

  took(chain: Chain): void {
    this.#entries.set(chain, this.#waiting.shift() ?? this.#inflight.took(this.#descriptors()))
  }

  unpopped(chain: Chain): void {
    this.#waiting.unshift(this.#entries.get(chain)!)
    this.#entries.delete(chain)
  }

  gives(chain: Chain): void {
    this.#inflight.gives(this.#entries.get(chain)!)
    this.#entries.delete(chain)
  }

  given(): void {
    this.#inflight.given(this.#queue.nextUsed)
  }

  gave(): void {
    this.#inflight.gave(this.#queue.nextUsed)
  }

  clear(): void {
    this.#inflight.clear()
  }

  /** Of the chain that was taken last: before it lie only those that broke a rule and went back at once. */
  #descriptors(): Uint8Array {
    const end = this.#queue.nextAvail
    const found: Uint8Array[] = []
    for (let position = this.#position; position !== end && found.length < this.#size; ) {
      const slot = position & 0x7fff
      const descriptor = new Uint8Array(DESCRIPTOR_BYTES)
      this.#memory.read(this.#desc + DESCRIPTOR_BYTES * slot, descriptor)
      found.push(descriptor)
      position = slot + 1 < this.#size ? position + 1 : (position & 0x8000) ^ 0x8000
      const isLast = (descriptor[14]! & 1) === 0
      if (isLast && position !== end) found.length = 0
    }
    this.#position = end
    return Buffer.concat(found)
  }
}
