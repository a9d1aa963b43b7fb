import type { Chain } from "@virtkit/interface"
import { DESCRIPTOR } from "../spec.js"
import { covers, watchAtomics } from "./atomics.js"
import type { TestRunner } from "./fixture.js"
import { packedDriver } from "./raw-ring.js"
import { type BenchOptions, BUFFER, type MakeBench, TABLE } from "./ring-bench.js"
import { BAD, chainChecks, GOOD } from "./ring-checks.js"

const { NEXT, WRITE, INDIRECT } = DESCRIPTOR

/** 2.8: lists of descriptors in a row. */
export function packedChainTests(runner: TestRunner, bench: MakeBench, common: BenchOptions): void {
  const { it, expect } = runner
  const { make, refuses } = chainChecks(runner, bench, common)
  const indirect = { address: TABLE, length: 32, flags: INDIRECT }

  it("bad-input #9 (2.8.19): an indirect descriptor at the end of a list", async () => {
    const test = await make()
    test.ring.table(TABLE, [GOOD, GOOD])
    refuses(test, [GOOD, indirect])
  })

  it("bad-input #9 (2.8.7): of the flags in an indirect table WRITE alone counts", async () => {
    const test = await make()
    const flags = INDIRECT | NEXT | 0x8080
    test.ring.table(TABLE, [
      { address: TABLE, length: 32, flags },
      { address: BUFFER, length: 3, flags: flags | WRITE },
    ])
    test.ring.offer([{ ...indirect, flags: INDIRECT | WRITE }])
    test.ring.publish()
    const seen = test.take().map(({ count, readableBytes, writableBytes }) => {
      return [count, readableBytes, writableBytes]
    })
    expect(seen).toEqual([[2, 32, 3]])
  })

  it("bad-input #20 and #30 (2.8.6): a malformed list is read to its end, where its id is, over the end of the ring", async () => {
    const test = await make({ size: 5 })
    for (let slot = 0; slot < 3; slot++) test.ring.offer([{ address: BUFFER, length: 1 }])
    test.ring.publish()
    test.give(test.take(), 0)
    expect(test.ring.takeUsed().length).toBe(3)
    refuses(test, [BAD, GOOD, { ...indirect, flags: INDIRECT }, GOOD])
  })

  it("2.8.10.1: an indirect table as long as a queue of any size, at any address", async () => {
    const test = await make({ size: 7 })
    const entries = Array.from({ length: 7 }, (_, index) => {
      return { address: BUFFER + index, length: 1, flags: index > 4 ? WRITE : 0 }
    })
    test.ring.table(TABLE + 3, entries)
    test.ring.offer([{ address: TABLE + 3, length: 16 * 7, flags: INDIRECT }])
    test.ring.publish()
    const [chain] = test.take()
    expect([chain?.count, chain?.readable]).toEqual([7, 5])
    expect([...(chain?.addresses.subarray(0, 7) ?? [])]).toEqual(entries.map(({ address }) => address))
  })
}

/** 2.8.1 and 2.8.6: whose a slot is, and where a list ends. */
export function packedTrustTests(runner: TestRunner, bench: MakeBench, common: BenchOptions): void {
  const { it, expect } = runner
  const { make, breaks } = chainChecks(runner, bench, common)
  const linked = { ...GOOD, flags: GOOD.flags! | NEXT }

  it("bad-input #8 and #30 (2.8.6): a list without end stops after queue size links", async () => {
    for (const size of [1, 3, 8]) {
      const test = await make({ size })
      test.ring.offer(new Array(size).fill(linked))
      test.ring.publish()
      breaks(test)
    }
  })

  it("bad-input #8 and #30 (2.8.6): a malformed list without end", async () => {
    const test = await make()
    test.ring.offer(new Array(8).fill({ ...BAD, flags: NEXT }))
    test.ring.publish()
    breaks(test)
  })

  it("bad-input #30 (2.8.6): a list that goes on into a slot that is not available", async () => {
    for (const length of [1, 2, 7]) {
      const test = await make()
      test.ring.offer(new Array(length).fill(linked))
      test.ring.publish()
      breaks(test)
    }
  })

  it("bad-input #30 (2.8.6): a list that goes on over the end of the ring, into a slot of the lap before", async () => {
    const test = await make({ size: 4 })
    for (let slot = 0; slot < 3; slot++) test.ring.offer([GOOD])
    test.ring.publish()
    test.give(test.take(), 1)
    test.ring.takeUsed()
    test.ring.offer([linked])
    test.ring.publish()
    breaks(test)
  })

  it("bad-input #30 (2.8.1): a slot that was available is not any more", async () => {
    const test = await make()
    for (let slot = 0; slot < 3; slot++) test.ring.offer([GOOD])
    test.ring.publish()
    const ring = packedDriver(test.ring)
    let done = false
    let taken: Chain[] = []
    watchAtomics(
      test.memory,
      () => {
        taken = test.take()
      },
      (access) => {
        // Between two looks at the flags: the second slot is taken back.
        if (done || access.kind !== "load" || !covers(access, test.ring.availability(2))) return
        done = true
        ring.writeDescriptor(1, { ...GOOD, flags: 2 })
      },
    )
    // A device that looks at one slot after the other finds nothing wrong, and one that has looked need not look again; else
    // the ring is broken.
    expect(taken.length).toBe(test.broken ? 1 : 3)
  })

  it("bad-input #15 (2.8.6): a list longer than what is left", async () => {
    for (const [before, after] of [
      [2, 3],
      [3, 2],
      [1, 4],
    ] as const) {
      const test = await make({ size: 4 })
      for (let slot = 0; slot < before; slot++) test.ring.offer([GOOD])
      test.ring.publish()
      expect(test.take().length).toBe(before)
      test.ring.offer(new Array(after).fill(linked).with(-1, GOOD))
      test.ring.publish()
      breaks(test)
    }
  })

  it("bad-input #17 (2.8.6): every descriptor of a list in flight takes its room", async () => {
    for (const after of [[2], [1, 1]]) {
      const test = await make({ size: 4 })
      test.ring.offer([GOOD, GOOD, GOOD])
      test.ring.publish()
      expect(test.take().length).toBe(1)
      for (const length of after) test.ring.offer(new Array(length).fill(linked).with(-1, GOOD))
      test.ring.publish()
      test.take()
      expect(test.broken).toBe(true)
    }
  })

  it("2.8.6: a list that takes all that is left", async () => {
    const test = await make({ size: 5 })
    for (let lap = 0; lap < 7; lap++) {
      const ids = [test.ring.offer([GOOD, GOOD]), test.ring.offer([GOOD, GOOD, GOOD])]
      test.ring.publish()
      const chains = test.take()
      expect(chains.map(({ head, count }) => [head, count])).toEqual([
        [ids[0], 2],
        [ids[1], 3],
      ])
      test.give([...chains].reverse(), 1)
      expect(test.ring.takeUsed().map(({ id }) => id)).toEqual([...ids].reverse())
    }
  })

  it("2.8.6: any 16-bit number is an id", async () => {
    const test = await make({ size: 2 })
    for (const [index, id] of [0xffff, 2, 0x8000, 0].entries()) {
      packedDriver(test.ring).offer([{ address: BUFFER, length: 1, flags: 2, id }])
      test.ring.publish()
      const chains = test.take()
      expect(chains.map(({ head }) => head)).toEqual([id])
      test.give(chains, 1)
      expect(packedDriver(test.ring).descriptor(index % 2).id).toBe(id)
    }
  })

  it("2.8.9: WRITE in a used descriptor says that something was written", async () => {
    const test = await make()
    for (const written of [1, 0]) {
      for (let chains = 0; chains < 3; chains++) test.ring.offer([GOOD])
      test.ring.publish()
      test.give(test.take(), written)
    }
    const flags = [0, 1, 2, 3, 4, 5].map((slot) => packedDriver(test.ring).descriptor(slot).flags & 2)
    expect(flags).toEqual([2, 2, 2, 0, 0, 0])
  })
}
