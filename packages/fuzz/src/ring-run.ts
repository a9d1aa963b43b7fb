import type { Chain } from "@virtkit/interface"
import { createQueue, type DeviceQueue, type QueueOptions } from "@virtkit/virtqueue"
import type { GuardedMemory } from "./guarded-memory.js"
import { RingModel, type Taken } from "./ring-model.js"
import { must } from "./target.js"
import { withoutNumbers } from "./words.js"

export const DESC = 0x1000
export const AVAIL = 0x1400
export const USED = 0x1800
/** Up to here region 0 goes, where region 1 begins. */
export const BOUNDARY = 0x4000

export interface RingShape {
  readonly packed: boolean
  readonly size: number
  readonly eventIdx: boolean
  readonly indirect: boolean
  readonly inOrder: boolean
  readonly start: number
}

interface Held {
  readonly chain: Chain
  readonly taken: Taken
}

/** The device side of a ring, step by step beside its model. What the driver does goes through {@link write}. */
export class RingRun {
  readonly memory: GuardedMemory
  /** What the memory must hold, the parts aside that the device writes. */
  readonly #mirror: GuardedMemory
  readonly model: RingModel
  readonly held: Held[] = []
  /** How it went, for the result. */
  readonly events: Set<string> = new Set()
  readonly #options: QueueOptions
  readonly #shape: RingShape
  #queue: DeviceQueue
  /** Chains that the device had when it was replaced, or took back: they come again first. */
  readonly #again: Taken[] = []
  /** The chain popped last, while it can be taken back. */
  #last: Held | undefined
  /** Used entries that are not published yet were overwritten. */
  #disturbed = false
  #chains = 0

  constructor(shape: RingShape, memory: GuardedMemory, mirror: GuardedMemory) {
    const { packed, size, indirect, inOrder, start } = shape
    this.#shape = shape
    this.memory = memory
    this.#mirror = mirror
    memory.reset()
    mirror.reset()
    const place = { memory, size, desc: DESC, avail: AVAIL, used: USED }
    this.model = new RingModel({ ...place, packed, indirect, inOrder, start })
    this.#options = {
      ...shape,
      ...place,
      index: 0,
      onInterrupt: () => this.events.add("interrupt"),
      onBroken: (reason) => this.events.add(`broken: ${withoutNumbers(reason)}`),
    }
    this.#queue = this.#make()
    const state = this.#queue.state() as object
    this.#queue.restore({ ...state, nextAvail: start, nextUsed: start })
    if (!packed) {
      this.write(AVAIL, 2, start * 0x1_0000)
      memory.writeUint16(USED + 2, start)
    }
  }

  get chains(): number {
    return this.#chains
  }

  /** The driver writes 1, 2 or 4 bytes anywhere. What is not in memory is left out. */
  write(address: number, size: 1 | 2 | 4, value: number): void {
    if (!this.memory.contains(address, size)) return
    for (const memory of [this.memory, this.#mirror]) {
      if (size === 1) memory.writeUint8(address, value & 0xff)
      else if (size === 2) memory.writeUint16(address, value & 0xffff)
      else memory.writeUint32(address, value >>> 0)
    }
    if (this.#isDevicePart(address, size)) this.#disturbed = true
  }

  pop(): Chain | undefined {
    const { model, memory } = this
    const again = this.#again.length > 0 && !model.broken
    const wasMalformed = model.malformed
    const expected = model.broken ? undefined : again ? this.#again.shift() : model.pop()
    const chain = this.#queue.pop()
    must(this.#queue.broken === model.broken, "broken is not what it must be")
    if (this.#queue.lastError !== undefined) this.events.add(withoutNumbers(this.#queue.lastError))
    if (!again && model.malformed > wasMalformed) this.#disturbed = false
    must((chain === undefined) === (expected === undefined), `${chain ? "a" : "no"} chain, which is wrong`)
    if (chain === undefined || expected === undefined) return undefined
    this.#chains++
    must(chain.head === expected.head, `head ${chain.head} instead of ${expected.head}`)
    must(chain.count <= this.#shape.size, `${chain.count} buffers in a queue of ${this.#shape.size}`)
    const buffers = Array.from({ length: chain.count }, (_, at) => {
      return { address: chain.addresses[at]!, length: chain.lengths[at]! }
    })
    must(JSON.stringify(buffers) === JSON.stringify(expected.buffers), "the buffers are others")
    must(chain.readable === expected.readable, `${chain.readable} readable buffers`)
    for (const { address, length } of buffers) {
      must(length > 0 && memory.contains(address, length), "a buffer that is not in guest memory")
    }
    this.#last = { chain, taken: expected }
    this.held.push(this.#last)
    return chain
  }

  /** The device reads all of a chain, writes `bytes` into it and gives it back. */
  push(index: number, bytes: number, written: number): void {
    const [held] = this.held.splice(index % Math.max(1, this.held.length), 1)
    if (held === undefined) return
    const { chain, taken } = held
    must(chain.copyOut(0, new Uint8Array(256)) === Math.min(256, chain.readableBytes), "not all was read")
    this.#copyIn(chain, new Uint8Array(Math.min(bytes, 256)).fill(0x5e))
    const room = chain.writableBytes
    if (this.#last === held) this.#last = undefined
    this.#queue.push(chain, written)
    this.model.giveBack(taken, Math.min(written, room))
  }

  unpop(): void {
    if (this.#last === undefined) return
    this.#queue.unpop(this.#last.chain)
    this.#again.unshift(this.#last.taken)
    this.held.splice(this.held.indexOf(this.#last), 1)
    this.#last = undefined
  }

  flush(): void {
    this.#queue.flush()
    const from = this.model.nextUsed
    const published = this.model.publish()
    // With IN_ORDER one entry may stand for many.
    if (!this.#disturbed && !this.#shape.inOrder) this.#checkUsed(from, published)
    this.#disturbed = false
  }

  notification(on: boolean): void {
    if (!on) this.#queue.disableNotification()
    else this.#queue.enableNotification()
  }

  /** Another device goes on from the saved state. */
  replace(): void {
    this.flush()
    const state = structuredClone(this.#queue.state())
    this.#queue.close()
    this.#queue = this.#make()
    this.#queue.restore(state)
    this.model.restored()
    const taken = this.held.splice(0).map((held) => held.taken)
    this.#again.unshift(...taken)
    this.#last = undefined
    this.events.add("replaced")
    const again = this.#queue.state()
    must(JSON.stringify(again) === JSON.stringify(state), "a state that was restored is another one")
  }

  /** Everything goes back; nothing may be lost, and nothing else may have been written. */
  finish(): void {
    for (let most = 2 * this.#shape.size + 2; this.pop() !== undefined; most--) {
      must(most > 0, "more chains than the ring has room for")
      this.push(0, 4, 4)
    }
    while (this.held.length > 0) this.push(0, 0, 0)
    this.flush()
    const { nextAvail, nextUsed, inFlight } = this.#queue.state() as Record<string, unknown>
    must(nextAvail === this.model.nextAvail, "another number of chains was taken")
    // A broken queue pops nothing, so what came again before stays where it is.
    const left = this.model.broken ? this.#again.length : 0
    must((inFlight as unknown[]).length >= left, "a chain is lost")
    if (left === 0) must(nextUsed === nextAvail && (inFlight as unknown[]).length === 0, "a chain is lost")
    this.memory.check()
    this.#checkMirror()
  }

  #make(): DeviceQueue {
    const { queue, reason } = createQueue(this.#options)
    must(queue !== undefined, `no queue: ${reason}`)
    return queue
  }

  #copyIn(chain: Chain, bytes: Uint8Array): void {
    const count = chain.copyIn(0, bytes)
    must(count === Math.min(bytes.length, chain.writableBytes), "not all was written")
    let left = count
    for (let at = chain.readable; at < chain.count && left > 0; at++) {
      const length = Math.min(left, chain.lengths[at]!)
      this.#mirror.write(chain.addresses[at]!, bytes.subarray(0, length))
      if (this.#isDevicePart(chain.addresses[at]!, length)) this.#disturbed = true
      left -= length
    }
  }

  #checkUsed(from: number, published: readonly Taken[]): void {
    const { packed, size } = this.#shape
    let position = from
    for (const { head, written, slots } of published) {
      const at = packed ? DESC + 16 * (position & 0x7fff) : USED + 4 + 8 * (position % size)
      const [id, length] = packed
        ? [this.memory.readUint16(at + 12), this.memory.readUint32(at + 8)]
        : [this.memory.readUint32(at), this.memory.readUint32(at + 4)]
      must(id === head && length === written, `used ${id}, ${length} bytes, instead of ${head}, ${written}`)
      position = packed ? moved(position, slots, size) : (position + 1) & 0xffff
    }
    if (packed) return
    must(
      this.memory.readUint16(USED + 2) === this.model.nextUsed || published.length === 0,
      "used.idx is wrong",
    )
  }

  /** The parts that the device writes by itself: the used ring, or descriptors and event suppression. */
  #deviceParts(): (readonly [address: number, length: number])[] {
    const { packed, size } = this.#shape
    return packed
      ? [
          [DESC, 16 * size],
          [USED, 4],
        ]
      : [[USED, 6 + 8 * size]]
  }

  #isDevicePart(address: number, length: number): boolean {
    return this.#deviceParts().some(([start, bytes]) => address < start + bytes && start < address + length)
  }

  #checkMirror(): void {
    for (const [address, length] of this.#deviceParts()) {
      for (const memory of [this.memory, this.#mirror]) memory.fill(address, length, 0)
    }
    must(this.memory.sameAs(this.#mirror), "the device wrote where it must not")
  }
}

function moved(position: number, slots: number, size: number): number {
  const slot = (position & 0x7fff) + slots
  const wrap = position & 0x8000
  return slot < size ? slot | wrap : (slot - size) | (wrap ^ 0x8000)
}
