import { StateError } from "@virtkit/interface"
import type { RingDriver } from "@virtkit/testkit"
import { TestMemory } from "@virtkit/testkit"
import { drainQueue } from "@virtkit/virtqueue"
import { describe, expect, it } from "vitest"
import { bytes, copyOf, RAM, RINGS, type Setup, type SetupOptions, setupRing } from "./setup.js"

describe.each(RINGS)("a queue on a $ring ring", ({ packed }) => {
  const setup = (options: SetupOptions = {}) => setupRing({ packed, ...options })

  describe("chains", () => {
    for (const layout of ["direct", "indirect", "mixed"] as const) {
      it(`carries bytes both ways, ${layout} descriptors`, () => {
        const { driver, queue } = setup()
        const sent = driver.add({ readable: [bytes(1, 2, 3), bytes(4, 5)], writable: [2, 3], layout })
        driver.publish()
        const chain = queue.pop()!
        expect([chain.head, chain.count, chain.readable]).toEqual([sent.head, 4, 2])
        expect([chain.readableBytes, chain.writableBytes]).toEqual([5, 5])
        const out = new Uint8Array(8)
        expect(chain.copyOut(1, out)).toBe(4)
        expect([...out.subarray(0, 4)]).toEqual([2, 3, 4, 5])
        expect(chain.copyIn(1, bytes(7, 8, 9))).toBe(3)
        queue.push(chain, 4)
        expect(driver.reap()).toEqual([])
        queue.flush()
        expect(driver.reap()).toEqual([sent])
        expect(sent.written).toBe(4)
        expect([...sent.data!]).toEqual([0xee, 7, 8, 9, 0xee])
      })
    }

    it("sees nothing before it is published", () => {
      const { driver, queue } = setup()
      driver.add({ writable: [1] })
      expect(queue.pop()).toBeUndefined()
      expect(queue.enableNotification()).toBe(false)
      driver.publish()
      expect(queue.enableNotification()).toBe(true)
      expect(queue.pop()).toBeDefined()
    })

    it("works on shared memory, as guest RAM is", () => {
      const memory = new TestMemory({ regions: [{ guestAddress: 0, size: RAM }], shared: true })
      const { driver, queue, interrupts } = setup({ memory, eventIdx: true })
      driver.add({ readable: [bytes(9)] })
      expect(driver.publish()).toBe(true)
      queue.push(queue.pop()!, 0)
      queue.flush()
      expect(driver.reap()).toHaveLength(1)
      expect(interrupts()).toBe(1)
    })

    it("takes buffers and tables of any region", () => {
      const high = 2 ** 40
      const regions = [
        { guestAddress: 0, size: RAM },
        { guestAddress: high, size: 4096 },
      ]
      const memory = new TestMemory({ regions })
      const { driver, queue } = setup({ memory })
      for (let round = 0; round < 4; round++) {
        const sent = driver.add({ readable: [bytes(round)], writable: [1], layout: "indirect" })
        // The table moves to the high region, and so does what it says of the first buffer.
        const table = new Uint8Array(32)
        memory.read(tableOf(driver, sent.buffers[1]!.address), table)
        memory.write(high + 64 * round, table)
        memory.writeBigUint64(high + 64 * round, BigInt(high + 2048 + round))
        memory.writeUint8(high + 2048 + round, 100 + round)
        memory.writeBigUint64(driver.desc + (packed ? 16 * round : 16 * sent.head), BigInt(high + 64 * round))
        driver.publish()
        const chain = queue.pop()!
        const out = bytes(0)
        chain.copyOut(0, out)
        expect([out[0], chain.addresses[1]]).toEqual([100 + round, sent.buffers[1]!.address])
        queue.push(chain, 0)
        queue.flush()
        driver.reap()
      }
    })

    it("bad-input #11: a buffer below the region of the one before it", () => {
      const regions = [
        { guestAddress: 0, size: RAM },
        { guestAddress: 2 * RAM, size: 4096 },
      ]
      for (const [low, expected] of [
        [2 * RAM - 1, undefined],
        [RAM - 1, 2],
      ] as const) {
        const memory = new TestMemory({ regions })
        const { driver, queue } = setup({ memory })
        driver.add({ writable: [1, 1] })
        memory.writeBigUint64(driver.desc, BigInt(2 * RAM))
        memory.writeBigUint64(driver.desc + 16, BigInt(low))
        driver.publish()
        expect(queue.pop()?.count).toBe(expected)
      }
    })

    it("takes indirect tables wherever they lie in a large region", () => {
      const size = 3 * 2 ** 30
      const memory = new TestMemory({ regions: [{ guestAddress: 4096, size }], shared: true })
      const { driver, queue } = setup({ memory })
      for (const place of [2 ** 30, 2 ** 30 - 16, 2 ** 31 + 3, 4096, size - 32, 2 ** 30 - 32]) {
        driver.add({ writable: [1], layout: "indirect" })
        const at = driver.desc + 16 * (8 - driver.freeDescriptors - 1)
        memory.writeBigUint64(at, BigInt(4096 + place))
        memory.writeUint32(at + 8, 32)
        memory.write(4096 + place, new Uint8Array(32))
        memory.writeBigUint64(4096 + place + 16, BigInt(place))
        memory.writeUint32(4096 + place + 24, 7)
        memory.writeUint32(4096 + place, 5000)
        memory.writeUint32(4096 + place + 8, 2)
        if (!packed) memory.writeUint32(4096 + place + 12, 1 | (1 << 16))
        driver.publish()
        const chain = queue.pop()!
        expect([...chain.addresses.subarray(0, chain.count)]).toEqual([5000, place])
        expect([...chain.lengths.subarray(0, chain.count)]).toEqual([2, 7])
      }
    })

    it("gives chains back in any order", () => {
      const { driver, queue } = setup()
      const [first, second] = [driver.add({ writable: [1, 1] }), driver.add({ writable: [1] })]
      driver.publish()
      const [a, b] = [queue.pop()!, queue.pop()!]
      queue.push(b, 1)
      queue.push(a, 1)
      queue.flush()
      expect(driver.reap()).toEqual([second, first])
    })

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

    it("never reports more written than the driver gave room for", () => {
      const { driver, queue } = setup()
      const sent = driver.add({ readable: [bytes(1)], writable: [3] })
      driver.publish()
      queue.push(queue.pop()!, 1000)
      queue.flush()
      driver.reap()
      expect(sent.written).toBe(3)
    })

    it("takes queues of size 1 and 32768", () => {
      for (const size of [1, 32768]) {
        const { driver, queue } = setup({ size })
        for (let round = 0; round < 3; round++) {
          driver.add({ writable: [4] })
          driver.publish()
          queue.push(queue.pop()!, 4)
          queue.flush()
          expect(driver.reap()).toHaveLength(1)
        }
        expect(queue.pop()).toBeUndefined()
      }
    })

    it("takes a ring that is full, lap after lap", () => {
      const { driver, queue } = setup({ size: 8, eventIdx: true })
      for (let round = 0; round < 5; round++) {
        for (let i = 0; i < 8; i++) driver.add({ writable: [1] })
        expect(driver.publish()).toBe(true)
        for (let i = 0; i < 8; i++) queue.push(queue.pop()!, 1)
        expect(queue.pop()).toBeUndefined()
        queue.flush()
        queue.enableNotification()
        expect(driver.reap()).toHaveLength(8)
      }
      expect(queue.counters.interrupts).toBe(5)
    })

    it("goes over the end of the ring and of its counters", () => {
      for (const start of packed ? [0x8003, 0x0003, 0x0000] : [65533]) {
        const { driver, queue } = setup({ size: 4, start, eventIdx: true })
        for (let round = 0; round < 10; round++) {
          driver.add({ readable: [bytes(round)] })
          expect(driver.publish()).toBe(true)
          const chain = queue.pop()!
          const out = bytes(0)
          chain.copyOut(0, out)
          expect(out[0]).toBe(round)
          queue.push(chain, 0)
          queue.flush()
          queue.enableNotification()
          expect(driver.reap()).toHaveLength(1)
        }
      }
    })
  })

  describe("notifications to the device", () => {
    for (const eventIdx of [false, true]) {
      it(`come when enabled and not when disabled, EVENT_IDX ${eventIdx}`, () => {
        const { driver, queue } = setup({ eventIdx })
        driver.add({ writable: [1] })
        expect(driver.publish()).toBe(true)
        queue.disableNotification()
        queue.pop()
        driver.add({ writable: [1] })
        expect(driver.publish()).toBe(false)
        expect(queue.enableNotification()).toBe(true)
        queue.pop()
        expect(queue.enableNotification()).toBe(false)
        driver.add({ writable: [1] })
        expect(driver.publish()).toBe(true)
      })
    }
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

    it("none while the driver wants none", () => {
      for (const eventIdx of packed ? [false, true] : [false]) {
        const test = setup({ eventIdx })
        test.driver.disableInterrupts()
        complete(test, 1)
        expect(test.interrupts()).toBe(0)
        expect(test.queue.counters.interruptsSuppressed).toBe(1)
        expect(test.driver.enableInterrupts()).toBe(true)
        test.driver.reap()
        complete(test, 1)
        expect(test.interrupts()).toBe(1)
      }
    })

    it("with EVENT_IDX only when the place that the driver named is passed", () => {
      const test = setup({ eventIdx: true })
      test.driver.delayInterrupts(3)
      complete(test, 2)
      expect(test.interrupts()).toBe(0)
      complete(test, 2)
      expect(test.interrupts()).toBe(1)
      complete(test, 1)
      expect(test.interrupts()).toBe(1)
    })

    it("with EVENT_IDX over the end of the ring and of its counters", () => {
      for (const start of packed ? [0x8007, 0x0007] : [65535]) {
        for (const [first, second] of [
          [1, 1],
          [1, 3],
          [2, 1],
        ] as const) {
          const test = setup({ eventIdx: true, start })
          test.driver.delayInterrupts(first + 1)
          complete(test, first)
          expect(test.interrupts()).toBe(0)
          complete(test, second)
          expect(test.interrupts()).toBe(1)
        }
      }
    })
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
  })

  describe("bad-input #27: after close", () => {
    it("late pushes and pops touch nothing", () => {
      for (const inOrder of [false, true]) {
        const { driver, queue, memory, interrupts } = setup({ eventIdx: true, inOrder })
        for (let i = 0; i < 3; i++) driver.add({ writable: [4] })
        driver.publish()
        const chain = queue.pop()!
        queue.push(queue.pop()!, 4)
        queue.unpop(queue.pop()!)
        queue.close()
        memory.clearWritten()
        queue.push(chain, 4)
        queue.unpop(chain)
        queue.flush()
        queue.disableNotification()
        expect(queue.enableNotification()).toBe(false)
        expect(queue.pop()).toBeUndefined()
        expect([memory.written, interrupts(), queue.inFlight]).toEqual([[], 0, 0])
      }
    })
  })

  describe("dirty tracking", () => {
    it("hears of every byte that the queue writes", () => {
      for (const inOrder of [false, true]) {
        const { driver, queue, memory } = setup({ size: 4, eventIdx: true, inOrder })
        for (let round = 0; round < 9; round++) {
          for (let i = 0; i <= round % 3; i++) driver.add({ writable: [1] })
          driver.publish()
          const before = copyOf(memory)
          memory.clearWritten()
          queue.disableNotification()
          for (let i = 0; i <= round % 3; i++) queue.push(queue.pop()!, 1)
          queue.flush()
          queue.enableNotification()
          for (let address = 0; address < 8192; address++) {
            if (before.readUint8(address) === memory.readUint8(address)) continue
            const marked = memory.written.some((range) => {
              return address >= range.address && address < range.address + range.length
            })
            expect(marked, `address ${address}`).toBe(true)
          }
          driver.reap()
        }
      }
    })
  })
})

/** The drivers allocate an indirect table right behind its buffers. */
function tableOf(_driver: RingDriver, lastBuffer: number): number {
  return lastBuffer + 16
}
