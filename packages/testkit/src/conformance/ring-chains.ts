import { TestMemory } from "../memory.js"
import { DESCRIPTOR } from "../spec.js"
import type { TestRunner } from "./fixture.js"
import { packedChainTests } from "./packed-rules.js"
import type { RawBuffer } from "./raw-ring.js"
import { type BenchOptions, BUFFER, LargeMemory, type MakeBench, RAM, TABLE } from "./ring-bench.js"
import { BAD, chainChecks, GOOD } from "./ring-checks.js"
import { splitChainTests } from "./split-rules.js"

const { NEXT, WRITE, INDIRECT } = DESCRIPTOR

/** Two regions with a hole between them. */
const REGIONS = [
  { guestAddress: 0, size: RAM },
  { guestAddress: 2 * RAM, size: 4096 },
]

/** Chains that break a rule of either ring, or go to its limits. */
export function chainTests(runner: TestRunner, bench: MakeBench, common: BenchOptions): void {
  const { it, expect } = runner
  const { make, refuses, works } = chainChecks(runner, bench, common)
  const { kind } = common

  it("bad-input #10 (2.7.5.3.1, 2.8.7): an indirect table of length 0 or odd length", async () => {
    for (const length of [0, 1, 8, 24, 40]) {
      const test = await make()
      test.ring.table(TABLE, [GOOD, GOOD, GOOD])
      refuses(test, [{ address: TABLE, length, flags: INDIRECT }])
    }
  })

  it("bad-input #10 (2.7.5.3.1): an indirect table larger than the queue", async () => {
    for (const length of [16 * 9, 16 * 16, 0xffff_fff0]) {
      const test = await make()
      test.ring.table(TABLE, [GOOD])
      refuses(test, [{ address: TABLE, length, flags: INDIRECT }])
    }
  })

  it("bad-input #9 (2.7.5.3.1): an indirect descriptor that was not negotiated", async () => {
    const test = await make({ indirect: false })
    test.ring.table(TABLE, [GOOD])
    refuses(test, [{ address: TABLE, length: 16, flags: INDIRECT }])
  })

  it("bad-input #9 (2.7.5.3.1, 2.8.19): an indirect descriptor with a next one", async () => {
    const test = await make()
    test.ring.table(TABLE, [GOOD])
    refuses(test, [{ address: TABLE, length: 16, flags: INDIRECT }, GOOD])
  })

  it("bad-input #11 and #35 (2.7.5, 2.8.5): buffers that wrap, cross the end of RAM or lie in a hole", async () => {
    for (const [address, length] of [
      [2n ** 64n - 1n, 1],
      [2n ** 64n - 1n, 2],
      [2n ** 64n - 2n ** 32n, 0xffff_ffff],
      [2n ** 53n, 16],
      [2n ** 53n - 1n, 0xffff_ffff],
      [2n ** 32n + BigInt(BUFFER), 1],
      [RAM - 1, 2],
      [RAM, 1],
      [RAM + 4096, 16],
      [2 * RAM - 1, 2],
      [2 * RAM, 4097],
      [0, RAM + 1],
    ] as const) {
      const memory = (): TestMemory => new TestMemory({ regions: REGIONS })
      refuses(await make({ memory: memory() }), [{ address, length, flags: WRITE }])
      refuses(await make({ memory: memory() }), [{ address, length }])
      const inTable = await make({ memory: memory() })
      inTable.ring.table(TABLE, [GOOD, { address, length, flags: WRITE }])
      refuses(inTable, [{ address: TABLE, length: 32, flags: INDIRECT }])
    }
  })

  it("bad-input #11 (2.7.5, 2.8.5): a buffer below or beyond the region of the one before it", async () => {
    for (const [first, second] of [
      [2 * RAM, RAM],
      [2 * RAM, 2 * RAM - 1],
      [RAM - 1, RAM],
      [RAM - 1, 2 * RAM + 4096],
    ] as const) {
      const test = await make({ memory: new TestMemory({ regions: REGIONS }) })
      refuses(test, [
        { address: first, length: 1 },
        { address: second, length: 1 },
      ])
    }
  })

  it("bad-input #11 (2.7.5, 2.8.5): buffers up to the very end of a region, and from its very start", async () => {
    const test = await make({ memory: new TestMemory({ regions: REGIONS }) })
    const places = [
      [RAM - 2, 2],
      [2 * RAM, 4096],
      [0, 1],
      [2 * RAM + 4095, 1],
      [0, RAM],
    ] as const
    test.ring.offer(places.map(([address, length]) => ({ address, length })))
    test.ring.publish()
    const [chain] = test.take()
    const seen = places.map((_, index) => [chain?.addresses[index], chain?.lengths[index]])
    expect(seen).toEqual(places.map((place) => [...place]))
  })

  it("bad-input #11 (2.7.5.3, 2.8.7): indirect tables outside of RAM", async () => {
    for (const address of [RAM - 16, RAM, 2n ** 64n - 16n, 2n ** 53n, 2n ** 32n + BigInt(TABLE)]) {
      const test = await make()
      test.ring.table(TABLE, [GOOD, GOOD])
      refuses(test, [{ address, length: 32, flags: INDIRECT }])
    }
  })

  it("bad-input #13 (2.7.5.2, 2.8.5): more than 2^32 bytes in a chain", async () => {
    for (const [half, flags] of [
      [2 ** 31, NEXT],
      [2 ** 31, WRITE],
    ] as const) {
      const test = await make({ memory: new LargeMemory(3 * 2 ** 30) })
      refuses(test, [
        { address: 0, length: half, flags },
        { address: 0, length: half, flags: WRITE },
        { address: 0, length: 1, flags: WRITE },
      ])
    }
  })

  it("bad-input #13 (2.7.5.2, 2.8.5): 2^32 bytes exactly go through", async () => {
    const test = await make({ memory: new LargeMemory(3 * 2 ** 30) })
    const half = { address: 0, length: 2 ** 31, flags: WRITE }
    const id = test.ring.offer([half, half])
    test.ring.publish()
    const chains = test.take()
    expect(chains.map((chain) => chain.writableBytes)).toEqual([2 ** 32])
    test.give(chains, 2 ** 32)
    // 2.7.8: the field has 32 bits.
    expect(test.ring.takeUsed()).toEqual([{ id, length: 0xffff_ffff }])
  })

  it("bad-input #12 (2.7.5): a huge buffer costs nothing by itself", async () => {
    const test = await make({ memory: new LargeMemory(5 * 2 ** 30) })
    const id = test.ring.offer([{ address: 0x1000, length: 0xffff_ffff, flags: WRITE }])
    test.ring.publish()
    const chains = test.take()
    expect(chains.map(({ count, writableBytes }) => [count, writableBytes])).toEqual([[1, 0xffff_ffff]])
    test.give(chains, 0)
    expect(test.ring.takeUsed()).toEqual([{ id, length: 0 }])
  })

  it("bad-input #14 (2.7.5): zero-length descriptors are left out, wherever they point", async () => {
    const test = await make()
    const nothing = { address: 2n ** 60n, length: 0 }
    const list = [nothing, { address: BUFFER, length: 2 }, nothing, { ...nothing, flags: WRITE }]
    for (const layout of ["direct", "indirect"] as const) {
      if (layout === "direct") test.ring.offer(list)
      else {
        test.ring.table(TABLE, list)
        test.ring.offer([{ address: TABLE, length: 64, flags: INDIRECT }])
      }
      test.ring.publish()
      const chains = test.take()
      const seen = chains.map((chain) => {
        const { count, readable, readableBytes, writableBytes } = chain
        return [count, readable, readableBytes, writableBytes, chain.addresses[0], chain.lengths[0]]
      })
      expect(seen).toEqual([[1, 1, 2, 0, BUFFER, 2]])
      test.give(chains, 0)
      test.ring.takeUsed()
    }
    works(test)
  })

  it("bad-input #14 (2.7.5): a chain of nothing goes through", async () => {
    const test = await make()
    const id = test.ring.offer([{ address: 0, length: 0 }])
    test.ring.publish()
    const chains = test.take()
    expect(chains.map((chain) => [chain.count, chain.copyOut(0, new Uint8Array(1))])).toEqual([[0, 0]])
    test.give(chains, 5)
    expect(test.ring.takeUsed()).toEqual([{ id, length: 0 }])
    works(test)
  })

  it("bad-input #22 (2.7.4.2, 2.8.5): a readable descriptor after a writable one", async () => {
    const list = [GOOD, { ...GOOD, flags: 0 }]
    refuses(await make(), list)
    refuses(await make(), [{ ...GOOD, flags: 0 }, ...list])
    const test = await make()
    test.ring.table(TABLE, list)
    refuses(test, [{ address: TABLE, length: 32, flags: INDIRECT }])
  })

  it("bad-input #20 (2.7.8.2, 2.8.9): malformed chains go back in their place between good ones", async () => {
    const test = await make()
    const chains = [[BAD, BAD], [GOOD], [BAD], [GOOD, GOOD], [BAD]]
    const ids = chains.map((chain) => test.ring.offer(chain))
    test.ring.publish()
    const taken = test.take()
    expect(taken.map(({ head }) => head)).toEqual([ids[1], ids[3]])
    test.give(taken, 1)
    const used = test.ring.takeUsed()
    expect(used.map(({ id }) => id).sort()).toEqual([...ids].sort())
    for (const { id, length } of used) expect(length).toBe(taken.some(({ head }) => head === id) ? 1 : 0)
    for (let lap = 0; lap < 3 * test.ring.size; lap++) works(test)
  })

  it("bad-input #20 (2.7.8.2, 2.8.9): nothing but malformed chains, for many laps", async () => {
    const test = await make()
    for (let lap = 0; lap < 5 * test.ring.size; lap++) {
      const ids = [test.ring.offer([BAD, BAD]), test.ring.offer([BAD])]
      test.ring.publish()
      expect(test.take().length).toBe(0)
      expect(test.ring.takeUsed()).toEqual(ids.map((id) => ({ id, length: 0 })))
    }
    works(test)
  })

  it("bad-input #18 (2.7.4.2): a descriptor that is changed after it was taken changes nothing", async () => {
    for (const indirect of [false, true]) {
      const test = await make()
      const [before, after] = [
        [{ address: BUFFER, length: 4, flags: WRITE }],
        [{ address: 2n ** 60n, length: 0xffff_ffff, flags: NEXT }],
      ]
      test.ring.table(TABLE, before)
      const id = test.ring.offer(indirect ? [{ address: TABLE, length: 16, flags: INDIRECT }] : before)
      test.ring.publish()
      const [chain] = test.take()
      test.ring.table(TABLE, after)
      test.ring.table(test.driver.desc, after)
      expect(chain?.copyIn(0, Uint8Array.of(1, 2, 3, 4, 5))).toBe(4)
      expect([chain?.head, chain?.addresses[0], chain?.lengths[0]]).toEqual([id, BUFFER, 4])
      expect(test.memory.readUint32(BUFFER)).toBe(0x0403_0201)
    }
  })

  it("bad-input #21 (2.7.4.1): any framing carries the same bytes", async () => {
    const content = Uint8Array.from({ length: 40 }, (_, index) => index)
    for (const cut of [1, 3, 7, 39, 40]) {
      const test = await make({ size: 128 })
      const pieces: Uint8Array[] = []
      for (let at = 0; at < 40; at += cut) pieces.push(content.subarray(at, at + cut))
      const sent = test.driver.add({ readable: pieces, writable: pieces.map((piece) => piece.length) })
      test.driver.publish()
      const chains = test.take()
      const [header, rest] = [new Uint8Array(16), new Uint8Array(30)]
      expect([chains[0]?.copyOut(0, header), chains[0]?.copyOut(16, rest)]).toEqual([16, 24])
      expect([...header, ...rest.subarray(0, 24)]).toEqual([...content])
      expect(chains[0]?.copyIn(5, content.subarray(5))).toBe(35)
      test.give(chains, 40)
      expect(test.driver.reap().length).toBe(1)
      expect([...(sent.data ?? [])]).toEqual([0xee, 0xee, 0xee, 0xee, 0xee, ...content.subarray(5)])
    }
  })

  it("bad-input #12 (2.7.5.3.1): long chains at every descriptor do not add up without bound", async () => {
    const size = 2048
    const test = await make({ size })
    test.ring.table(TABLE, new Array<RawBuffer>(size).fill({ address: BUFFER, length: 1 }))
    for (let slot = 0; slot < size; slot++) {
      test.ring.offer([{ address: TABLE, length: 16 * size, flags: INDIRECT }])
    }
    test.ring.publish()
    let entries = 0
    const taken: unknown[] = []
    // Again and again: a device may take no more than a batch at a time.
    for (let round = 0; round < 4; round++) {
      for (const chain of test.take()) {
        entries += chain.count
        taken.push(chain)
      }
    }
    expect(test.broken).toBe(false)
    expect(entries <= size * 1024).toBe(true)
    expect(test.ring.takeUsed().length).toBe(size - taken.length)
  })

  if (kind === "split") splitChainTests(runner, bench, common)
  else packedChainTests(runner, bench, common)
}
