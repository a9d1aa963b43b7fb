import { StateError } from "@virtkit/interface"
import { type RingDriver, TestMemory } from "@virtkit/testkit"
import { createQueue, drainQueue, ringFeatures } from "@virtkit/virtqueue"
import { describe, expect, it } from "vitest"
import { RAM, RINGS, type Setup, type SetupOptions, setupRing } from "./setup.js"

describe.each(RINGS)("a queue on a $ring ring", ({ packed }) => {
  const setup = (options: SetupOptions = {}) => setupRing({ packed, ...options })

  it("goes without what the options leave out", () => {
    const { driver, memory } = setup()
    const { size, desc, avail, used } = driver
    const quiet = { onInterrupt: () => {}, onBroken: () => {} }
    const options = { index: 0, size, desc, avail, used, memory, eventIdx: false, indirect: false, ...quiet }
    const { queue } = createQueue(packed ? { ...options, packed } : options)
    // Not in the order in which they came: the driver sees each at once.
    const [first, second] = [driver.add({ writable: [1] }), driver.add({ writable: [1] })]
    driver.publish()
    const [one, two] = [queue!.pop()!, queue!.pop()!]
    queue!.push(two, 1)
    queue!.flush()
    expect(driver.reap()).toEqual([second])
    queue!.push(one, 1)
    queue!.flush()
    expect(driver.reap()).toEqual([first])
  })

  describe("chains", () => {
    it("pops a chain again after unpop", () => {
      const { driver, queue } = setup()
      const [first, second] = [driver.add({ writable: [1] }), driver.add({ writable: [1] })]
      driver.publish()
      queue.unpop(queue.pop()!)
      expect([queue.inFlight, queue.enableNotification()]).toEqual([0, true])
      expect(queue.pop()!.head).toBe(first.head)
      expect(queue.pop()!.head).toBe(second.head)
      expect(queue.counters.chains).toBe(2)
      expect(queue.enableNotification()).toBe(false)
    })

    it("tells a device that gives back what it does not have", () => {
      const { driver, queue } = setup()
      const other = setup()
      for (const ring of [driver, other.driver]) {
        ring.add({ writable: [1] })
        ring.add({ writable: [1] })
        ring.publish()
      }
      const first = queue.pop()!
      const second = queue.pop()!
      expect(() => queue.unpop(first)).toThrow(StateError)
      expect(() => queue.push(other.queue.pop()!, 0)).toThrow(StateError)
      queue.push(second, 0)
      expect(() => queue.push(second, 0)).toThrow(StateError)
      expect(() => queue.unpop(second)).toThrow(StateError)
      expect(queue.inFlight).toBe(1)
    })

    it("uses the same chain objects again", () => {
      const { driver, queue } = setup()
      const seen = new Set<unknown>()
      for (let round = 0; round < 20; round++) {
        driver.add({ writable: [1] })
        driver.publish()
        const chain = queue.pop()!
        seen.add(chain)
        seen.add(chain.addresses)
        queue.push(chain, 0)
        queue.flush()
        driver.reap()
      }
      // Two by turns: one is being filled while the other is out.
      expect(seen.size).toBe(4)
    })

    it("keeps no long arrays", () => {
      const { driver, queue } = setup({ size: 2048 })
      const seen: number[] = []
      for (const count of [1024, 1025, 1]) {
        driver.add({ writable: new Array<number>(count).fill(1) })
        driver.publish()
        const chain = queue.pop()!
        seen.push(chain.count)
        queue.push(chain, 0)
        seen.push(chain.addresses.length)
        queue.flush()
        driver.reap()
      }
      expect(seen).toEqual([1024, 1024, 1025, 16, 1, 1024])
    })
  })

  describe("interrupts to the driver", () => {
    function complete({ driver, queue }: Setup<RingDriver>, count: number): void {
      for (let i = 0; i < count; i++) driver.add({ writable: [1] })
      driver.publish()
      for (let i = 0; i < count; i++) queue.push(queue.pop()!, 1)
      queue.flush()
    }

    it("one a flush, however many chains", () => {
      const test = setup()
      complete(test, 3)
      expect(test.interrupts()).toBe(1)
      test.queue.flush()
      expect(test.interrupts()).toBe(1)
      expect(test.queue.counters).toMatchObject({ chains: 3, interrupts: 1, interruptsSuppressed: 0 })
    })
  })

  it("marks no memory as written while nobody wants to know", () => {
    const mark = (dirtyTracking: boolean) => {
      const memory = new TestMemory({ regions: [{ guestAddress: 0, size: RAM }] })
      const { driver, queue } = setup({ memory: Object.assign(memory, { dirtyTracking }) })
      driver.add({ writable: [1] })
      driver.publish()
      memory.clearWritten()
      drainQueue(queue, (chain) => queue.push(chain, 0))
      return memory.written.length
    }
    expect(mark(true)).toBeGreaterThan(0)
    expect(mark(false)).toBe(0)
  })

  describe("drainQueue", () => {
    it("takes all, publishes once and asks for notifications", () => {
      const { driver, queue, interrupts } = setup()
      for (let i = 0; i < 5; i++) driver.add({ writable: [1] })
      driver.publish()
      const result = drainQueue(queue, (chain) => queue.push(chain, 1))
      expect([result, driver.reap().length, interrupts()]).toEqual(["empty", 5, 1])
      driver.add({ writable: [1] })
      expect(driver.publish()).toBe(true)
    })

    it("sees what is offered while it drains", () => {
      const { driver, queue } = setup()
      driver.add({ writable: [1] })
      driver.publish()
      let late = true
      const enable = queue.enableNotification.bind(queue)
      queue.enableNotification = () => {
        if (late) {
          late = false
          driver.add({ writable: [1] })
          expect(driver.publish()).toBe(false)
        }
        return enable()
      }
      let taken = 0
      const result = drainQueue(queue, (chain) => {
        taken++
        queue.push(chain, 0)
      })
      expect([result, taken]).toEqual(["empty", 2])
    })

    it("gives the chain back and stays silent when the handler stops it", () => {
      const { driver, queue } = setup()
      driver.add({ writable: [1] })
      driver.publish()
      expect(drainQueue(queue, () => false)).toBe("stopped")
      expect(queue.inFlight).toBe(0)
      driver.add({ writable: [1] })
      expect(driver.publish()).toBe(false)
      expect(drainQueue(queue, (chain) => queue.push(chain, 0))).toBe("empty")
      expect(driver.reap()).toHaveLength(2)
    })

    it("bad-input #16: a driver that refills while the device drains is left at the limit", () => {
      const { driver, queue } = setup({ size: 4 })
      driver.add({ writable: [1] })
      driver.publish()
      let taken = 0
      const result = drainQueue(queue, (chain) => {
        taken++
        queue.push(chain, 0)
        queue.flush()
        driver.reap()
        driver.add({ writable: [1] })
        driver.publish()
      })
      expect([result, taken]).toEqual(["limit", 4])
    })

    it("bad-input #16: malformed chains without end do not keep it", () => {
      const { driver, queue, memory } = setup()
      let offered = 0
      const again = (): void => {
        driver.reap()
        const { buffers } = driver.add({ readable: [Uint8Array.of(1)] })
        expect(buffers).toHaveLength(1)
        memory.writeUint32(driver.desc + 16 * (offered++ % 8) + 4, 0xffff_ffff)
        driver.publish()
      }
      again()
      const enable = queue.enableNotification.bind(queue)
      queue.enableNotification = () => {
        again()
        return enable()
      }
      expect(drainQueue(queue, () => true)).toBe("limit")
      expect([queue.counters.malformed, queue.counters.chains]).toEqual([1, 0])
    })
  })
})

it("features decide what a ring is", () => {
  const none = { packed: false, inOrder: false, eventIdx: false, indirect: false }
  expect(ringFeatures(0x1_0000_0000n)).toEqual(none)
  expect(ringFeatures(1n << 28n)).toEqual({ ...none, indirect: true })
  expect(ringFeatures(1n << 29n)).toEqual({ ...none, eventIdx: true })
  expect(ringFeatures(1n << 34n)).toEqual({ ...none, packed: true })
  expect(ringFeatures(1n << 35n)).toEqual({ ...none, inOrder: true })
})
