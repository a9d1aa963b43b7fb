import type { Chain } from "@virtkit/interface"
import type { ChainLayout, DriverChain, RingDriver } from "@virtkit/testkit"
import { type DeviceQueue, drainQueue } from "@virtkit/virtqueue"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { deviceSide, type Setup, setupRing } from "./setup.js"

interface Features {
  packed: boolean
  eventIdx: boolean
  indirect: boolean
  inOrder: boolean
}

interface Case extends Features {
  size: number
  start: number
  /** Sizes of the buffers of each chain that the driver will send. */
  chains: { readable: number[]; writable: number[]; layout: ChainLayout }[]
  /** Decides what happens next, wherever one of several things may. */
  seed: number
}

const length = fc.integer({ min: 1, max: 9 })

function cases(features: Features): fc.Arbitrary<Case> {
  const split = fc.record({
    size: fc.constantFrom(1, 2, 4, 8, 16),
    start: fc.constantFrom(0, 1, 65520, 65534, 65535),
  })
  const packed = fc
    .record({ size: fc.integer({ min: 1, max: 17 }), slot: fc.nat(), wrap: fc.boolean() })
    .map(({ size, slot, wrap }) => ({ size, start: (slot % size) | (wrap ? 0x8000 : 0) }))
  const chain = fc.record({
    readable: fc.array(length, { minLength: 1, maxLength: 4 }),
    writable: fc.array(length, { maxLength: 4 }),
    layout: fc.constantFrom<ChainLayout>("direct", "indirect", "mixed"),
  })
  return fc
    .record({
      ring: features.packed ? packed : split,
      chains: fc.array(chain, { minLength: 1, maxLength: 40 }),
      seed: fc.integer({ min: 1, max: 0x7fff_ffff }),
    })
    .map(({ ring, ...rest }) => ({ ...features, ...ring, ...rest }))
}

/**
 * A driver and a device that only act when they were told to, stepping on each other wherever the two could run at the
 * same time. Whatever the interleaving, both must come to rest with all chains done: a notification that is lost either
 * way leaves them waiting for each other. Now and then the device is replaced by one that goes on from its saved state.
 */
class Simulation {
  readonly delivered: number[] = []
  readonly completed: DriverChain[] = []
  readonly #case: Case
  readonly #test: Setup<RingDriver>
  #queue!: DeviceQueue
  readonly #sent: DriverChain[] = []
  readonly #held: { chain: Chain; written: number; tag: number }[] = []
  #random: number
  #depth = 0
  #unpublished = 0
  #notified = false
  #comesBack = false
  #interrupts = 0
  #interruptsSeen = 0
  /** Tags of the chains that the device had when it was replaced, oldest first. */
  readonly #again: number[] = []
  /** Tags in the order in which the device gave chains back. */
  readonly #pushed: number[] = []
  /** The driver is reaping: it does not wait for interrupts. */
  #polling = false

  constructor(testCase: Case) {
    this.#case = testCase
    this.#random = testCase.seed
    this.#test = setupRing({ ...testCase, onInterrupt: () => this.#interrupts++ })
    this.#use(this.#test.queue)
  }

  /** The driver may run before and after every step of the device. */
  #use(queue: DeviceQueue): void {
    this.#queue = queue
    const { pop, flush, disableNotification, enableNotification } = queue
    queue.pop = () => this.#around(() => pop.call(queue))
    queue.flush = () => this.#around(() => flush.call(queue))
    queue.disableNotification = () => this.#around(() => disableNotification.call(queue))
    queue.enableNotification = () => this.#around(() => enableNotification.call(queue))
  }

  /** Save, and restore into a new queue: what the device had is popped again. */
  #replace(): void {
    const { driver, memory } = this.#test
    const state = JSON.parse(JSON.stringify(this.#queue.state())) as unknown
    const { queue } = deviceSide(driver, memory, { ...this.#case, onInterrupt: () => this.#interrupts++ })
    queue.restore(state)
    this.#queue.close()
    this.#again.push(...this.#held.map(({ tag }) => tag))
    this.#again.sort((a, b) => a - b)
    this.#held.length = 0
    this.#use(queue)
    this.#comesBack = true
  }

  run(): void {
    for (let step = 0; this.#step(); step++) {
      if (step > 100_000) throw new Error("driver and device never come to rest")
    }
    expect(this.#queue.broken).toBe(false)
  }

  #step(): boolean {
    const acted = this.#next(2) === 0 ? this.#device() || this.#driver() : this.#driver() || this.#device()
    // At rest: what the device still holds completes by itself.
    return acted || this.#complete()
  }

  #around<T>(step: () => T): T {
    if (this.#depth > 0) return step()
    this.#depth++
    while (this.#next(3) === 0) if (!this.#driver()) break
    const result = step()
    while (this.#next(3) === 0) if (!this.#driver()) break
    this.#depth--
    return result
  }

  /** A number below `bound`, by xorshift. */
  #next(bound: number): number {
    this.#random ^= this.#random << 13
    this.#random ^= this.#random >>> 17
    this.#random ^= this.#random << 5
    return (this.#random >>> 0) % bound
  }

  /** One step of the driver; false when it has nothing to do until it is interrupted. */
  #driver(): boolean {
    const { driver } = this.#test
    if (this.#next(2) === 0 && this.#add()) return true
    if (this.#next(2) === 0 && this.#reap()) return true
    if (this.#add() || this.#reap()) return true
    if (this.#unpublished === 0) return false
    this.#unpublished = 0
    if (driver.publish()) this.#notified = true
    return true
  }

  #add(): boolean {
    const { driver } = this.#test
    const wanted = this.#case.chains[this.#sent.length]
    if (wanted === undefined) return false
    const total = wanted.readable.length + wanted.writable.length
    const { size, indirect, packed } = this.#case
    const fits = Math.min(total, size)
    const layout = !indirect ? "direct" : total > size || total === 1 ? "indirect" : wanted.layout
    const needed = layout === "direct" ? fits : layout === "mixed" && !packed ? 2 : 1
    if (needed > driver.freeDescriptors) return false
    const readable = wanted.readable.slice(0, fits)
    const writable = wanted.writable.slice(0, fits - readable.length)
    const tag = this.#sent.length
    this.#sent.push(
      driver.add({ readable: readable.map((bytes) => new Uint8Array(bytes).fill(tag)), writable, layout }),
    )
    this.#unpublished++
    return true
  }

  #reap(): boolean {
    const { driver } = this.#test
    if (!this.#polling) {
      if (this.#interrupts === this.#interruptsSeen) return false
      this.#interruptsSeen = this.#interrupts
      driver.disableInterrupts()
      this.#polling = true
      return true
    }
    this.completed.push(...driver.reap())
    const delay = this.#case.eventIdx && driver.inFlight > 0 && this.#next(3) === 0
    this.#polling = delay
      ? driver.delayInterrupts(1 + this.#next(Math.min(driver.inFlight, this.#published)))
      : driver.enableInterrupts()
    return true
  }

  /** Chains that the device can know of; an interrupt can be waited for only from those. */
  get #published(): number {
    return Math.max(1, this.#sent.length - this.#unpublished - this.completed.length)
  }

  /** One turn of the device; false when it has nothing to do until it is notified. */
  #device(): boolean {
    if (this.#next(3) === 0 && this.#complete()) return true
    if (this.#next(20) === 0) this.#replace()
    if (!this.#notified && !this.#comesBack) return false
    this.#notified = false
    const queue = this.#queue
    const result = drainQueue(queue, (chain) => this.#handle(chain), 1 + this.#next(queue.size))
    this.#comesBack = result !== "empty"
    return true
  }

  #handle(chain: Chain): boolean {
    if (this.#next(4) === 0) return false
    const content = new Uint8Array(chain.readableBytes)
    expect(chain.copyOut(0, content)).toBe(content.length)
    const tag = content[0]!
    expect(content.every((byte) => byte === tag)).toBe(true)
    if (this.#again.length > 0) expect(this.#again.shift()).toBe(tag)
    else this.delivered.push(tag)
    const written = Math.min(chain.writableBytes, 5)
    expect(chain.copyIn(0, new Uint8Array(written).fill(tag))).toBe(written)
    if (this.#next(2) === 0) this.#push(chain, written, tag)
    else this.#held.push({ chain, written, tag })
    expect(this.#queue.inFlight).toBe(this.#held.length)
    return true
  }

  #push(chain: Chain, written: number, tag: number): void {
    this.#queue.push(chain, written)
    this.#pushed.push(tag)
  }

  /** An I/O of the device ends, in any order. */
  #complete(): boolean {
    if (this.#held.length === 0) return false
    for (const { chain, written, tag } of this.#held.splice(this.#next(this.#held.length), 1)) {
      this.#push(chain, written, tag)
    }
    this.#queue.flush()
    return true
  }

  /** Every chain once, in order of availability, back in the order that is due, with the right bytes. */
  check(): void {
    const expected = this.#case.chains.map((_, index) => index)
    expect(this.delivered).toEqual(expected)
    const back = this.completed.map((chain) => this.#sent.indexOf(chain))
    expect(back).toEqual(this.#case.inOrder ? expected : this.#pushed)
    for (const [tag, chain] of this.#sent.entries()) {
      const room = chain.data!.length
      expect(chain.written).toBe(Math.min(room, 5))
      expect(chain.data!.every((byte, at) => byte === (at < chain.written! ? tag : 0xee))).toBe(true)
    }
    const { driver, allocator } = this.#test
    expect([driver.inFlight, driver.freeDescriptors, this.#queue.inFlight]).toEqual([0, driver.size, 0])
    expect(allocator.allocated).toBe(3)
  }
}

const BOTH = [false, true]
const COMBINATIONS: Features[] = BOTH.flatMap((packed) =>
  BOTH.flatMap((eventIdx) =>
    BOTH.flatMap((indirect) => BOTH.map((inOrder) => ({ packed, eventIdx, indirect, inOrder }))),
  ),
)

describe("every chain is delivered once and in order, and no notification is lost, under any interleaving", () => {
  it.each(COMBINATIONS)(
    "packed $packed, EVENT_IDX $eventIdx, indirect $indirect, IN_ORDER $inOrder",
    (features) => {
      fc.assert(
        fc.property(cases(features), (testCase) => {
          const simulation = new Simulation(testCase)
          simulation.run()
          simulation.check()
        }),
        { numRuns: 60, seed: 1 },
      )
    },
  )
})
