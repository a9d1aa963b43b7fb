import { TestMemory } from "../memory.js"
import type { TestRunner } from "./fixture.js"
import type { RingKind } from "./raw-ring.js"
import { type QueueBench, type QueueBenchOptions, RAM } from "./ring-bench.js"

export type MakeQueueBench = (options?: Partial<QueueBenchOptions>) => QueueBench

/** Drivers that keep all rules, in every way that there is. */
export function layoutTests({ it, expect }: TestRunner, kind: RingKind, make: MakeQueueBench): void {
  const packed = kind === "packed"
  const one = (...values: number[]): Uint8Array => Uint8Array.from(values)

  for (const layout of ["direct", "indirect", "mixed"] as const) {
    it(`2.7.5, 2.8.5: bytes go both ways, ${layout} descriptors`, () => {
      for (const inOrder of [false, true]) {
        const { driver, queue, take } = make({ inOrder })
        const sent = driver.add({ readable: [one(1, 2, 3), one(4, 5)], writable: [2, 3], layout })
        driver.publish()
        const [chain] = take()
        if (chain === undefined) throw new Error("the device sees no chain")
        expect([chain.head, chain.count, chain.readable]).toEqual([sent.head, 4, 2])
        expect([chain.readableBytes, chain.writableBytes]).toEqual([5, 5])
        const out = new Uint8Array(8)
        expect([chain.copyOut(1, out), ...out]).toEqual([4, 2, 3, 4, 5, 0, 0, 0, 0])
        expect([chain.copyOut(5, out), chain.copyOut(9, out)]).toEqual([0, 0])
        expect([chain.copyIn(1, one(7, 8, 9)), chain.copyIn(4, one(6, 6)), chain.copyIn(5, out)]).toEqual([
          3, 1, 0,
        ])
        queue.push(chain, 4)
        expect(driver.reap()).toEqual([])
        queue.flush()
        expect(driver.reap()).toEqual([sent])
        expect([sent.written, ...(sent.data ?? [])]).toEqual([4, 0xee, 7, 8, 9, 6])
      }
    })
  }

  it("2.7.6, 2.8.21: nothing is there before it is published", () => {
    const { driver, queue } = make()
    driver.add({ writable: [1, 1] })
    expect([queue.pop(), queue.enableNotification()]).toEqual([undefined, false])
    driver.publish()
    expect(queue.enableNotification()).toBe(true)
    expect(queue.pop()?.count).toBe(2)
    expect([queue.pop(), queue.enableNotification()]).toEqual([undefined, false])
  })

  it("2.6: rings, buffers and tables in shared memory, as guest RAM is", () => {
    const memory = new TestMemory({ regions: [{ guestAddress: 0, size: RAM }], shared: true })
    const bench = make({ memory, eventIdx: true })
    for (const layout of ["direct", "indirect"] as const) {
      bench.driver.add({ readable: [one(9)], writable: [1], layout })
      expect(bench.driver.publish()).toBe(true)
      const chains = bench.take()
      const out = one(0)
      expect([chains[0]?.copyOut(0, out), chains[0]?.copyIn(0, out)]).toEqual([1, 1])
      bench.give(chains, 1)
      expect(bench.driver.reap()[0]?.data?.[0]).toBe(9)
    }
    expect(bench.interrupts).toBe(2)
  })

  it("bad-input #35 (2.7.5.3, 2.8.7): indirect tables wherever they lie in memory above 4 GiB", () => {
    const [base, size] = [5 * 2 ** 32, 3 * 2 ** 30]
    const regions = [
      { guestAddress: 0, size: RAM },
      { guestAddress: base, size },
    ]
    const memory = new TestMemory({ regions, shared: true })
    const { driver, take } = make({ memory })
    for (const place of [0, 2 ** 30, 2 ** 30 - 16, 2 ** 31 + 3, 2 ** 30 - 32, size - 32]) {
      driver.add({ writable: [1], layout: "indirect" })
      const descriptor = driver.desc + 16 * (driver.size - driver.freeDescriptors - 1)
      memory.writeBigUint64(descriptor, BigInt(base + place))
      memory.writeUint32(descriptor + 8, 32)
      memory.write(base + place, new Uint8Array(32))
      memory.writeBigUint64(base + place, 5000n)
      memory.writeUint32(base + place + 8, 2)
      if (!packed) memory.writeUint32(base + place + 12, 1 | (1 << 16))
      memory.writeBigUint64(base + place + 16, BigInt(base + place))
      memory.writeUint32(base + place + 24, 7)
      driver.publish()
      const seen = take().map(({ count, addresses, lengths }) => {
        return [count, addresses[0], addresses[1], lengths[0], lengths[1]]
      })
      expect(seen).toEqual([[2, 5000, base + place, 2, 7]])
    }
  })

  it("2.7.5.3.1, 2.8.7: an indirect table over the end of its region is refused", () => {
    const base = 2 ** 32
    const regions = [
      { guestAddress: 0, size: RAM },
      { guestAddress: base, size: 4096 },
      { guestAddress: base + 4096, size: 4096 },
    ]
    for (const [address, seen] of [
      [base + 4096 - 32, 1],
      [base + 4096 - 16, 0],
      [base - 16, 0],
      [base + 8192 - 16, 0],
      [base + 8192 - 32, 1],
    ] as const) {
      const memory = new TestMemory({ regions })
      const { driver, take, broken } = make({ memory })
      driver.add({ writable: [1, 1], layout: "indirect" })
      if (memory.contains(address, 32)) {
        memory.writeUint32(address + 8, 1)
        memory.writeUint32(address + 24, 1)
      }
      memory.writeBigUint64(driver.desc, BigInt(address))
      driver.publish()
      expect([take().length, broken]).toEqual([seen, false])
    }
  })

  it("2.7.8, 2.8.9: chains go back in any order", () => {
    const { driver, take, give } = make()
    const sent = [2, 1, 3].map((count) => driver.add({ writable: new Array<number>(count).fill(1) }))
    driver.publish()
    const [a, b, c] = take()
    if (a === undefined || b === undefined || c === undefined) throw new Error("three chains were offered")
    give([c, a], 1)
    give([b], 1)
    expect(driver.reap()).toEqual([sent[2], sent[0], sent[1]])
  })

  it("2.7.6: a chain that the device gave back to its queue is the next one again", () => {
    const { driver, queue } = make()
    const heads = [1, 2].map(() => driver.add({ writable: [1] }).head)
    driver.publish()
    const first = queue.pop()
    if (first === undefined) throw new Error("two chains were offered")
    queue.unpop(first)
    expect(queue.enableNotification()).toBe(true)
    expect([queue.pop()?.head, queue.pop()?.head, queue.pop()]).toEqual([...heads, undefined])
    expect(queue.enableNotification()).toBe(false)
  })

  it("2.7.8: the chain that goes back is one that the device has", () => {
    const [bench, other] = [make(), make()]
    for (const { driver } of [bench, other]) {
      driver.add({ writable: [1] })
      driver.add({ writable: [1] })
      driver.publish()
    }
    const [first, second] = bench.take()
    const [foreign] = other.take()
    if (first === undefined || second === undefined || foreign === undefined) throw new Error("two chains")
    const { queue } = bench
    const refused = [
      () => queue.push(foreign, 1),
      () => queue.unpop(first),
      () => queue.unpop(foreign),
      () => {
        queue.push(second, 1)
        queue.push(second, 1)
      },
      () => queue.unpop(second),
    ]
    expect(refused.map((call) => throws(call))).toEqual(refused.map(() => true))
    queue.flush()
    expect(bench.driver.reap().length).toBe(1)
  })

  it("2.7.8.2, 2.8.9: never more written than there was room for", () => {
    for (const inOrder of [false, true]) {
      const { driver, take, give } = make({ inOrder })
      const sent = [driver.add({ readable: [one(1)], writable: [3] }), driver.add({ readable: [one(1)] })]
      driver.publish()
      give(take(), 1000)
      driver.reap()
      expect(sent.map(({ written }) => written)).toEqual([3, 0])
    }
  })

  for (const size of packed ? [1, 2, 3, 7, 256, 32768] : [1, 2, 4, 256, 32768]) {
    it(`2.7, 2.8.10.1: rings of size ${size}, full and empty by turns`, () => {
      for (const eventIdx of [false, true]) {
        const { driver, take, give, ring } = make({ size, eventIdx })
        for (let lap = 0; lap < 3; lap++) {
          const count = size > 1000 ? 5 : size
          for (let index = 0; index < count; index++) ring.offer([{ address: 0x1000, length: 4, flags: 2 }])
          expect(driver.publish()).toBe(true)
          const chains = take()
          expect(chains.length).toBe(count)
          give(chains, 4)
          expect(ring.takeUsed().length).toBe(count)
        }
      }
    })
  }

  it("bad-input #35 (2.7.6, 2.8.1): rings and counters wrap, with chains of any length", () => {
    for (const inOrder of [false, true]) {
      for (const start of packed ? [0x8005, 0x0005, 0x0000] : [65530]) {
        const { driver, take, give } = make({ size: 7 + (packed ? 0 : 1), start, inOrder, eventIdx: true })
        for (let round = 0; round < 40; round++) {
          const sent = Array.from({ length: 1 + (round % 3) }, (_, index) => {
            const layout = (["direct", "indirect", "mixed"] as const)[(round + index) % 3]!
            return driver.add({ readable: [one(round, index)], writable: [1 + (index % 3)], layout })
          })
          expect(driver.publish()).toBe(true)
          const chains = take()
          const seen = chains.map((chain) => {
            const out = one(0, 0)
            return [chain.head, chain.copyOut(0, out), ...out]
          })
          expect(seen).toEqual(sent.map(({ head }, index) => [head, 2, round, index]))
          give(inOrder ? [...chains].reverse() : chains, round % 3)
          expect(driver.reap()).toEqual(sent)
          expect(sent.map(({ written }) => written)).toEqual(
            sent.map((_, index) => Math.min(round % 3, 1 + (index % 3))),
          )
        }
        expect([driver.inFlight, driver.freeDescriptors]).toEqual([0, driver.size])
      }
    }
  })

  it("2.7.5: chains of many buffers, and short ones after them", () => {
    const { driver, take, give } = make({ size: 2048 })
    for (const count of [1, 17, 1025, 2048, 3]) {
      driver.add({ writable: new Array<number>(count).fill(1) })
      driver.publish()
      const chains = take()
      expect(chains.map((chain) => [chain.count, chain.writableBytes])).toEqual([[count, count]])
      give(chains, count)
      expect(driver.reap()[0]?.written).toBe(count)
    }
  })

  it("bad-input #12 (2.7.5): what long chains take is given back with them", () => {
    const { driver, take, give } = make({ size: 1 })
    let taken = 0
    for (let round = 0; round < 1500; round++) {
      driver.add({ writable: [1] })
      driver.publish()
      const chains = take()
      taken += chains.length
      give(chains, 0)
      driver.reap()
    }
    expect(taken).toBe(1500)
  })
}

function throws(call: () => void): boolean {
  try {
    call()
    return false
  } catch {
    return true
  }
}
