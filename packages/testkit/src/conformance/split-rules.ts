import { DESCRIPTOR } from "../spec.js"
import type { TestRunner } from "./fixture.js"
import { type RawBuffer, splitDriver } from "./raw-ring.js"
import { type BenchOptions, BUFFER, type MakeBench, TABLE } from "./ring-bench.js"
import { chainChecks, GOOD } from "./ring-checks.js"

const { NEXT, WRITE, INDIRECT } = DESCRIPTOR

/** 2.7: links. */
export function splitChainTests(runner: TestRunner, bench: MakeBench, common: BenchOptions): void {
  const { it, expect } = runner
  const { make, refuses } = chainChecks(runner, bench, common)
  const link = (next: number, length = 1): RawBuffer => ({ address: BUFFER, length, flags: NEXT, next })

  it("bad-input #8 (2.7.5.2): a loop ends after queue size links", async () => {
    refuses(await make(), [link(1), link(0)])
    refuses(await make(), [link(0)])
    refuses(await make(), [link(0, 0)])
    refuses(await make(), [link(1, 0), link(0, 0)])
  })

  it("bad-input #8 (2.7.5.3.1): a loop within an indirect table", async () => {
    for (const loop of [[link(0)], [link(1), link(0)], [link(1, 0), link(0, 0)]]) {
      const test = await make()
      test.ring.table(TABLE, loop)
      refuses(test, [{ address: TABLE, length: 16 * loop.length, flags: INDIRECT }])
    }
  })

  it("bad-input #9 (2.7.5.3.1): an indirect table within one, and one that points to itself", async () => {
    for (const address of [TABLE, TABLE + 64]) {
      const test = await make()
      test.ring.table(TABLE + 64, [GOOD, GOOD])
      test.ring.table(TABLE, [{ address, length: 32, flags: INDIRECT }])
      refuses(test, [{ address: TABLE, length: 32, flags: INDIRECT }])
    }
  })

  it("bad-input #10 (2.7.5.3.1): next past the indirect table", async () => {
    for (const next of [1, 2, 0xffff]) {
      const test = await make()
      // What lies there would be a good descriptor.
      test.ring.table(TABLE, [GOOD, GOOD, GOOD])
      test.ring.table(TABLE, [{ address: BUFFER, length: 1, flags: WRITE | NEXT, next }])
      refuses(test, [{ address: TABLE, length: 16, flags: INDIRECT }])
    }
  })

  it("bad-input #10 (2.7.5): next past the descriptor table", async () => {
    for (const next of [8, 9, 0xffff]) refuses(await make(), [link(next)])
  })

  it("bad-input #10 (2.7.5.3.1): direct and indirect descriptors count together", async () => {
    for (const entries of [7, 8]) {
      const test = await make()
      test.ring.table(TABLE, new Array<RawBuffer>(entries).fill({ address: BUFFER, length: 1 }))
      const chain = [
        { address: BUFFER, length: 1 },
        { address: TABLE, length: 16 * entries, flags: INDIRECT },
      ]
      if (entries === 8) {
        refuses(test, chain)
        continue
      }
      test.ring.offer(chain)
      test.ring.publish()
      expect(test.take().map(({ count }) => count)).toEqual([8])
    }
  })

  it("2.7.5.3.2: an indirect table as long as the queue; WRITE on its descriptor is ignored", async () => {
    const test = await make()
    const entries = Array.from({ length: 8 }, (_, index) => ({ address: BUFFER + index, length: 1 }))
    test.ring.table(TABLE + 3, entries)
    test.ring.offer([{ address: TABLE + 3, length: 16 * 8, flags: INDIRECT | WRITE }])
    test.ring.publish()
    const [chain] = test.take()
    expect([chain?.count, chain?.readable]).toEqual([8, 8])
    expect([...(chain?.addresses.subarray(0, 8) ?? [])]).toEqual(entries.map(({ address }) => address))
  })
}

/** 2.7.6: indexes and heads. */
export function splitTrustTests(runner: TestRunner, bench: MakeBench, common: BenchOptions): void {
  const { it, expect } = runner
  const { make, breaks } = chainChecks(runner, bench, common)
  it("bad-input #15 (2.7.6): avail.idx jumps by more than the queue size", async () => {
    for (const jump of [9, 10, 0x7fff, 0x8000, 0xffff]) {
      const test = await make()
      splitDriver(test.ring).setAvailIndex(jump)
      breaks(test)
    }
  })

  it("bad-input #15 (2.7.6): avail.idx goes back", async () => {
    const test = await make()
    for (let slot = 0; slot < 3; slot++) test.ring.offer([GOOD])
    test.ring.publish()
    test.give(test.take(), 1)
    splitDriver(test.ring).setAvailIndex(2)
    breaks(test)
  })

  it("bad-input #17 (2.7.6): a head that the device has already", async () => {
    const test = await make()
    for (let slot = 0; slot < 7; slot++) test.ring.offer([GOOD])
    test.ring.publish()
    expect(test.take().length).toBe(7)
    splitDriver(test.ring).offerHead(3)
    test.ring.publish()
    breaks(test)
  })

  it("bad-input #17 (2.7.6): a head twice, after it was given back, is another chain", async () => {
    const test = await make()
    for (let round = 0; round < 20; round++) {
      splitDriver(test.ring).writeDescriptor(3, { address: BUFFER, length: 1, flags: 2 })
      splitDriver(test.ring).offerHead(3)
      test.ring.publish()
      const chains = test.take()
      expect(chains.map(({ head }) => head)).toEqual([3])
      test.give(chains, 1)
      expect(test.ring.takeUsed()).toEqual([{ id: 3, length: 1 }])
    }
  })

  it("bad-input #10 (2.7.6): a head that is no descriptor", async () => {
    for (const head of [8, 9, 0x7fff, 0xffff]) {
      const test = await make()
      // What lies behind the table would be a good descriptor.
      splitDriver(test.ring).offerHead(head)
      test.ring.publish()
      breaks(test)
    }
  })

  it("bad-input #35 (2.7.6): the 16-bit indexes wrap", async () => {
    const test = await make({ size: 32768 })
    for (let batch = 0; batch < 4; batch++) {
      for (let head = 0; head < 20_000; head++) splitDriver(test.ring).offerHead(head)
      test.ring.publish()
      const chains = test.take()
      expect([chains.length, test.broken]).toEqual([20_000, false])
      test.give(chains, 0)
      expect(test.ring.takeUsed().length).toBe(20_000)
    }
  })
}
