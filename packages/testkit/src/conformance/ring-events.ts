import { PACKED_EVENT } from "../spec.js"
import type { TestRunner } from "./fixture.js"
import type { RingKind } from "./raw-ring.js"
import type { QueueBench } from "./ring-bench.js"
import { GOOD } from "./ring-checks.js"
import type { MakeQueueBench } from "./ring-layouts.js"

/** Who is told, and when: 2.7.7, 2.7.9, 2.7.10, 2.8.10, 2.8.14. */
export function eventTests({ it, expect }: TestRunner, kind: RingKind, make: MakeQueueBench): void {
  const packed = kind === "packed"
  /** Chains come and go back in one batch; returns the interrupts for it. */
  const complete = (bench: QueueBench, count: number): number => {
    const before = bench.interrupts
    for (let index = 0; index < count; index++) bench.driver.add({ writable: [1] })
    bench.driver.publish()
    bench.give(bench.take(), 1)
    return bench.interrupts - before
  }

  it("2.7.7, 2.8.10: one interrupt a batch, however many chains", () => {
    for (const eventIdx of [false, true]) {
      const bench = make({ eventIdx })
      expect(complete(bench, 3)).toBe(1)
      bench.queue.flush()
      expect([bench.interrupts, bench.driver.reap().length]).toEqual([1, 3])
    }
  })

  it("2.7.7.2, 2.8.10: none while the driver wants none", () => {
    for (const eventIdx of packed ? [false, true] : [false]) {
      const bench = make({ eventIdx })
      bench.driver.disableInterrupts()
      expect([complete(bench, 1), complete(bench, 2)]).toEqual([0, 0])
      expect(bench.driver.enableInterrupts()).toBe(true)
      bench.driver.reap()
      expect(complete(bench, 1)).toBe(1)
    }
  })

  it("2.7.7.2, 2.8.14: with EVENT_IDX only when the place that the driver named is passed", () => {
    const bench = make({ eventIdx: true })
    bench.driver.delayInterrupts(3)
    expect([complete(bench, 2), complete(bench, 2), complete(bench, 1)]).toEqual([0, 1, 0])
  })

  it("2.7.7.2, 2.8.14: the same over the end of the ring and of its counters", () => {
    for (const start of packed ? [0x8007, 0x0007] : [65535]) {
      const bench = make({ eventIdx: true, start })
      for (const [first, second] of [
        [1, 1],
        [1, 3],
        [2, 1],
        [3, 2],
        [4, 1],
      ] as const) {
        bench.driver.delayInterrupts(first + 1)
        expect([first, complete(bench, first), complete(bench, second)]).toEqual([first, 0, 1])
        bench.driver.reap()
      }
    }
  })

  it("2.7.10, 2.8.14: the driver is asked to notify, and not to", () => {
    for (const eventIdx of [false, true]) {
      const { driver, queue } = make({ eventIdx })
      driver.add({ writable: [1] })
      expect(driver.publish()).toBe(true)
      queue.disableNotification()
      queue.pop()
      driver.add({ writable: [1] })
      expect([driver.publish(), queue.enableNotification()]).toEqual([false, true])
      queue.pop()
      expect(queue.enableNotification()).toBe(false)
      driver.add({ writable: [1] })
      expect(driver.publish()).toBe(true)
    }
  })

  it("2.7.10, 2.8.14: the place where the device waits is the next chain, lap after lap", () => {
    for (const size of packed ? [1, 3, 5] : [1, 4]) {
      for (const start of packed ? [0x8000, 0x0000] : [65533]) {
        const { driver, queue } = make({ eventIdx: true, size, start })
        for (let round = 0; round < 12; round++) {
          driver.add({ writable: [1] })
          expect([round, driver.publish()]).toEqual([round, true])
          const chain = queue.pop()
          if (chain === undefined) throw new Error("a chain was offered")
          expect(queue.enableNotification()).toBe(false)
          queue.push(chain, 1)
          queue.flush()
          driver.reap()
        }
      }
    }
  })

  if (packed) packedEventTests({ it, expect, describe: () => {} }, make)
  else splitEventTests({ it, expect, describe: () => {} }, make)
}

function splitEventTests({ it, expect }: TestRunner, make: MakeQueueBench): void {
  it("2.7.7.2: used_event from the index before the batch to that of its last chain", () => {
    for (const [event, expected] of [
      [65535, 0],
      [0, 1],
      [1, 1],
      [2, 1],
      [3, 0],
      [32768, 0],
    ] as const) {
      const bench = make({ eventIdx: true })
      bench.memory.writeUint16(bench.ring.driverEvent(true).address, event)
      for (let index = 0; index < 3; index++) bench.ring.offer([GOOD])
      bench.ring.publish()
      bench.give(bench.take(), 1)
      expect([event, bench.interrupts]).toEqual([event, expected])
    }
  })

  it("2.7.10: avail_event is the index of the next chain, and the flags stay 0", () => {
    const bench = make({ eventIdx: true })
    for (let index = 0; index < 3; index++) bench.ring.offer([GOOD])
    bench.ring.publish()
    bench.queue.disableNotification()
    expect(bench.memory.readUint16(bench.driver.used)).toBe(0)
    bench.take()
    const event = bench.memory.readUint16(bench.ring.deviceEvent(true).address)
    expect([event, bench.memory.readUint16(bench.driver.used)]).toEqual([3, 0])
  })
}

function packedEventTests({ it, expect }: TestRunner, make: MakeQueueBench): void {
  it("2.8.14: flags that mean nothing, and DESC without EVENT_IDX, are as ENABLE", () => {
    for (const [eventIdx, flags, count] of [
      [true, 0, 1],
      [true, 1, 0],
      [true, 2, 0],
      [true, 3, 1],
      [true, 0xfffc, 1],
      [false, 2, 1],
      [false, 3, 1],
      [false, 0xfffd, 0],
    ] as const) {
      const bench = make({ eventIdx })
      bench.memory.writeUint16(bench.driver.avail, 0x8000 | 5)
      bench.memory.writeUint16(bench.driver.avail + 2, flags)
      bench.ring.offer([GOOD])
      bench.ring.publish()
      bench.give(bench.take(), 1)
      expect([eventIdx, flags, bench.interrupts]).toEqual([eventIdx, flags, count])
    }
  })

  it("2.8.14: the batch passes the named slot, of this lap or the one before", () => {
    // The batch is slots 6, 7 of the first lap and 0, 1, 2 of the second, wrap counter 0.
    for (const [position, expected] of [
      [0x8000 | 5, 0],
      [0x8000 | 6, 1],
      [0x8000 | 7, 1],
      [0, 1],
      [2, 1],
      [3, 0],
      [0x8000 | 2, 0],
      [0x7fff, 0],
      [0xffff, 0],
    ] as const) {
      const bench = make({ eventIdx: true, start: 0x8006 })
      for (let index = 0; index < 5; index++) bench.ring.offer([GOOD])
      bench.ring.publish()
      bench.memory.writeUint16(bench.driver.avail, position)
      bench.give(bench.take(), 1)
      expect([position, bench.interrupts]).toEqual([position, expected])
    }
  })

  it("2.8.14: the device says where it waits, with the wrap counter", () => {
    const bench = make({ eventIdx: true, size: 3 })
    const event = (): number[] => {
      const { used } = bench.driver
      return [bench.memory.readUint16(used), bench.memory.readUint16(used + 2)]
    }
    expect(event()).toEqual([0x8000, PACKED_EVENT.DESC])
    bench.queue.disableNotification()
    expect(event()[1]).toBe(PACKED_EVENT.DISABLE)
    for (const [count, position] of [
      [1, 0x8001],
      [2, 0x0000],
      [3, 0x8000],
      [2, 0x8002],
    ] as const) {
      for (let index = 0; index < count; index++) bench.ring.offer([GOOD])
      bench.ring.publish()
      bench.give(bench.take(), 1)
      bench.ring.takeUsed()
      expect(event()).toEqual([position, PACKED_EVENT.DESC])
    }
    const flags = make({ size: 3 })
    expect(flags.memory.readUint32(flags.driver.used)).toBe(PACKED_EVENT.ENABLE)
    flags.queue.disableNotification()
    expect(flags.memory.readUint16(flags.driver.used + 2)).toBe(PACKED_EVENT.DISABLE)
  })
}
