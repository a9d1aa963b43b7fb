import type { DeviceQueue } from "@virtkit/virtqueue"

/** The parts of a ring whose addresses a driver sets: descriptor table, driver area, device area. */
export type RingPart = "desc" | "avail" | "used"

const PARTS: readonly RingPart[] = ["desc", "avail", "used"]

/**
 * What the driver wrote into the registers of one queue. While `queue` is set the registers are frozen: that queue has
 * its own copy of all of it, and later writes are ignored by the transport (bad-input #1).
 */
export class QueueConfig {
  readonly index: number
  readonly maxSize: number
  size: number
  /** Set while the driver has the queue enabled. */
  queue: DeviceQueue | undefined
  /** Set while the device is at resetting the queue (2.6.1); settles, never rejects, when it is done. */
  resetting: Promise<void> | undefined
  /** Low and high half of each address, in the order of PARTS. */
  readonly #halves: Uint32Array = new Uint32Array(2 * PARTS.length)

  constructor(index: number, maxSize: number) {
    this.index = index
    this.maxSize = maxSize
    this.size = maxSize
  }

  get ready(): boolean {
    return this.queue !== undefined
  }

  /** Guest physical address of a part; infinity when it is not below 2^53, where no memory is. */
  address(part: RingPart): number {
    const at = 2 * PARTS.indexOf(part)
    const high = this.#halves[at + 1]!
    return high < 0x20_0000 ? high * 0x1_0000_0000 + this.#halves[at]! : Number.POSITIVE_INFINITY
  }

  /** Replaces 32 bits of an address; `half` is 0 for the low and 1 for the high ones. */
  setAddressHalf(part: RingPart, half: 0 | 1, value: number): void {
    this.#halves[2 * PARTS.indexOf(part) + half] = value
  }

  /** 32 bits of an address as the driver wrote them. */
  addressHalf(part: RingPart, half: 0 | 1): number {
    return this.#halves[2 * PARTS.indexOf(part) + half]!
  }

  /** For the saved state: the halves of the three addresses, low ones first. */
  get addressHalves(): number[] {
    return [...this.#halves]
  }

  set addressHalves(halves: readonly number[]) {
    this.#halves.set(halves)
  }

  /** Back to how it was before the driver came. */
  reset(): void {
    this.disable()
    this.resetting = undefined
    this.size = this.maxSize
    this.#halves.fill(0)
  }

  disable(): void {
    this.queue?.close()
    this.queue = undefined
  }
}
