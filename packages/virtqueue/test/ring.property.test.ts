import type { Chain } from "@virtkit/interface"
import type { ChainLayout, DriverChain } from "@virtkit/testkit"
import { drainQueue } from "@virtkit/virtqueue"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { setup } from "./setup.js"

interface Case {
  size: number
  eventIdx: boolean
  startIndex: number
  /** Sizes of the buffers of each chain that the driver will send. */
  chains: { readable: number[]; writable: number[]; layout: ChainLayout }[]
  /** Decides what happens next, wherever one of several things may. */
  seed: number
}

const length = fc.integer({ min: 1, max: 9 })
const cases: fc.Arbitrary<Case> = fc.record({
  size: fc.constantFrom(1, 2, 4, 8, 16),
  eventIdx: fc.boolean(),
  startIndex: fc.constantFrom(0, 1, 65520, 65534, 65535),
  chains: fc.array(
    fc.record({
      readable: fc.array(length, { minLength: 1, maxLength: 4 }),
      writable: fc.array(length, { maxLength: 4 }),
      layout: fc.constantFrom<ChainLayout>("direct", "indirect", "mixed"),
    }),
    { minLength: 1, maxLength: 40 },
  ),
  seed: fc.integer({ min: 1, max: 0x7fff_ffff }),
})

/**
 * A driver and a device that only act when they were told to, stepping on each other wherever the two could run at the
 * same time. Whatever the interleaving, both must come to rest with all chains done: a notification that is lost either
 * way leaves them waiting for each other.
 */
class Simulation {
  readonly delivered: number[] = []
  readonly completed: DriverChain[] = []
  readonly #case: Case
  readonly #test: ReturnType<typeof setup>
  readonly #sent: DriverChain[] = []
  readonly #held: { chain: Chain; written: number }[] = []
  #random: number
  #depth = 0
  #unpublished = 0
  #notified = false
  #comesBack = false
  #interruptsSeen = 0
  /** The driver is reaping: it does not wait for interrupts. */
  #polling = false

  constructor(testCase: Case) {
    this.#case = testCase
    this.#random = testCase.seed
    this.#test = setup(testCase)
    const { queue } = this.#test
    // The driver may run before and after every step of the device.
    const { pop, flush, disableNotification, enableNotification } = queue
    queue.pop = () => this.#around(() => pop.call(queue))
    queue.flush = () => this.#around(() => flush.call(queue))
    queue.disableNotification = () => this.#around(() => disableNotification.call(queue))
    queue.enableNotification = () => this.#around(() => enableNotification.call(queue))
  }

  run(): void {
    for (let step = 0; this.#step(); step++) {
      if (step > 100_000) throw new Error("driver and device never come to rest")
    }
    expect(this.#test.queue.broken).toBe(false)
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
    const layout = total > this.#case.size || total === 1 ? "indirect" : wanted.layout
    const needed = layout === "direct" ? total : layout === "mixed" ? 2 : 1
    if (needed > driver.freeDescriptors) return false
    const fits = Math.min(total, this.#case.size)
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
    const { driver, interrupts } = this.#test
    if (!this.#polling) {
      if (interrupts() === this.#interruptsSeen) return false
      this.#interruptsSeen = interrupts()
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
    if (!this.#notified && !this.#comesBack) return false
    this.#notified = false
    const { queue } = this.#test
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
    const written = Math.min(chain.writableBytes, 5)
    expect(chain.copyIn(0, new Uint8Array(written).fill(tag))).toBe(written)
    this.delivered.push(tag)
    if (this.#next(2) === 0) this.#test.queue.push(chain, written)
    else this.#held.push({ chain, written })
    return true
  }

  /** An I/O of the device ends, in any order. */
  #complete(): boolean {
    if (this.#held.length === 0) return false
    for (const { chain, written } of this.#held.splice(this.#next(this.#held.length), 1)) {
      this.#test.queue.push(chain, written)
    }
    this.#test.queue.flush()
    return true
  }

  /** Every chain once, in order of availability, with the right bytes. */
  check(): void {
    const expected = this.#case.chains.map((_, index) => index)
    expect(this.delivered).toEqual(expected)
    expect(this.completed).toHaveLength(expected.length)
    for (const [tag, chain] of this.#sent.entries()) {
      const room = chain.data!.length
      expect(chain.written).toBe(Math.min(room, 5))
      expect(chain.data!.every((byte, at) => byte === (at < chain.written! ? tag : 0xee))).toBe(true)
    }
    const { driver, queue, allocator } = this.#test
    expect([driver.inFlight, driver.freeDescriptors, queue.inFlight]).toEqual([0, queue.size, 0])
    expect(allocator.allocated).toBe(3)
  }
}

describe("split ring", () => {
  it("delivers every chain once and in order, and loses no notification, under any interleaving", () => {
    fc.assert(
      fc.property(cases, (testCase) => {
        const simulation = new Simulation(testCase)
        simulation.run()
        simulation.check()
      }),
      { numRuns: 500, seed: 1 },
    )
  })
})
