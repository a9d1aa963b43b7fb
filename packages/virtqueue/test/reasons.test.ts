import { DESCRIPTOR, TestMemory } from "@virtkit/testkit"
import { createQueue } from "@virtkit/virtqueue"
import { describe, expect, it } from "vitest"
import { LargeMemory, setup, setupPacked } from "./setup.js"

// What is refused is the conformance suite's business; here, that a person can read why.

const { NEXT, WRITE, INDIRECT } = DESCRIPTOR
const TABLE = 0x20_0000
const BUFFER = 0x30_0000
const byte = { address: BUFFER, length: 1 }

const table = (length: number) => [{ address: TABLE, length, flags: INDIRECT }]
const CHAINS = [
  [/buffer outside of guest memory/, [{ address: 2n ** 60n, length: 1, flags: 0 }]],
  [/table outside of guest memory/, [{ address: 2n ** 60n, length: 16, flags: INDIRECT }]],
  [/odd length/, table(0)],
  [/odd length/, table(24)],
  [/larger than the queue/, table(16 * 9)],
  [
    /readable buffer after a writable one/,
    [
      { ...byte, flags: WRITE | NEXT, next: 1 },
      { ...byte, flags: 0 },
    ],
  ],
] as const

describe("lastError says which rule a chain broke", () => {
  it.each(CHAINS)("%s", (reason, chain) => {
    const split = setup()
    for (const [index, descriptor] of chain.entries()) split.driver.writeDescriptor(index, descriptor)
    split.driver.offerHead(0)
    const packed = setupPacked()
    packed.driver.offer(chain)
    for (const { driver, queue } of [split, packed]) {
      driver.publish()
      expect(queue.pop()).toBeUndefined()
      expect(queue.lastError).toMatch(reason)
      expect([queue.broken, queue.counters.malformed]).toEqual([false, 1])
    }
  })

  it("of an indirect descriptor that a list has over the end of the ring", () => {
    const { driver, queue } = setupPacked({ size: 4, start: 0x8003 })
    driver.offer([
      { ...byte, flags: NEXT },
      { address: TABLE, length: 16, flags: INDIRECT },
    ])
    driver.publish()
    expect(queue.pop()).toBeUndefined()
    expect(queue.lastError).toMatch(/indirect descriptor within a list/)
    expect([queue.broken, queue.counters.malformed]).toEqual([false, 1])
  })

  it("of links", () => {
    for (const [next, reason] of [
      [0, /longer than the queue/],
      [8, /past the descriptor table/],
    ] as const) {
      const { driver, queue } = setup()
      driver.writeDescriptor(0, { ...byte, flags: NEXT, next })
      driver.offerHead(0)
      driver.publish()
      queue.pop()
      expect(queue.lastError).toMatch(reason)
    }
  })

  it("of indirect descriptors", () => {
    const { driver, queue } = setup()
    driver.writeDescriptor(0, { address: TABLE, length: 16, flags: INDIRECT | NEXT, next: 1 })
    driver.writeDescriptor(2, { address: TABLE, length: 16, flags: INDIRECT })
    driver.writeDescriptor(0, { address: TABLE, length: 16, flags: INDIRECT }, TABLE)
    for (const [head, reason] of [
      [0, /with a next one/],
      [2, /within an indirect table/],
    ] as const) {
      driver.offerHead(head)
      driver.publish()
      queue.pop()
      expect(queue.lastError).toMatch(reason)
    }
    const without = setup({ indirect: false })
    without.driver.writeDescriptor(0, { address: TABLE, length: 16, flags: INDIRECT })
    without.driver.offerHead(0)
    without.driver.publish()
    without.queue.pop()
    expect(without.queue.lastError).toMatch(/not negotiated/)
    const packed = setupPacked()
    packed.driver.offer([{ ...byte, flags: NEXT }, ...table(16)])
    packed.driver.publish()
    packed.queue.pop()
    expect(packed.queue.lastError).toMatch(/within a list/)
  })

  it("of long chains", () => {
    const { driver, queue } = setupPacked({ memory: new LargeMemory(3 * 2 ** 30) })
    const half = { address: 0, length: 2 ** 31, flags: NEXT }
    driver.offer([half, half, { ...half, length: 1, flags: 0 }])
    driver.publish()
    queue.pop()
    expect(queue.lastError).toMatch(/more than 2\^32 bytes/)
  })
})

describe("onBroken and lastError say why a ring cannot be trusted", () => {
  it("split", () => {
    for (const [rule, reason] of [
      [0, /avail\.idx is 1000 ahead, the ring has room for 8/],
      [1, /head 8 is not below the queue size 8/],
      [2, /head 3 was made available twice/],
    ] as const) {
      const { driver, queue, broken } = setup()
      if (rule === 0) driver.setAvailIndex(1000)
      if (rule === 1) driver.offerHead(8)
      if (rule === 2) driver.offerHead(3)
      if (rule === 2) driver.offerHead(3)
      if (rule > 0) driver.publish()
      while (queue.pop() !== undefined);
      expect(broken).toEqual([expect.stringMatching(reason)])
      expect(queue.lastError).toBe(broken[0])
    }
  })

  it("packed", () => {
    for (const [slots, reason] of [
      [8, /more descriptors available than there is room for, 8$/],
      [1, /not available where one has to be/],
    ] as const) {
      const { driver, queue, broken } = setupPacked()
      driver.offer(new Array(slots).fill({ ...byte, flags: NEXT }))
      driver.publish()
      while (queue.pop() !== undefined);
      expect(broken).toEqual([expect.stringMatching(reason)])
    }
  })
})

describe("createQueue gives a reason instead of a queue", () => {
  const memory = new TestMemory({ regions: [{ guestAddress: 0, size: 0x10000 }] })
  const good = {
    ...{ index: 3, size: 8, desc: 0x1000, avail: 0x2000, used: 0x3000, memory },
    ...{ eventIdx: true, indirect: true, onInterrupt: () => {}, onBroken: () => {} },
  }
  it.each([
    [{ size: 3 }, /^queue 3: queue size 3 is not a power of two/],
    [{ size: 32769, packed: true }, /^queue 3: queue size 32769 is not a number/],
    [{ desc: 0x1008 }, /descriptor table at 0x1008 is not aligned to 16/],
    [{ avail: 0x2001 }, /available ring .* not aligned to 2/],
    [{ used: 0x3002 }, /used ring .* not aligned to 4/],
    [{ desc: 0xfff0 }, /descriptor table .* not in guest memory/],
    [{ avail: 0xfff0 }, /available ring .* not in guest memory/],
    [{ used: 0xfff0 }, /used ring .* not in guest memory/],
    [{ desc: 2 ** 53 }, /above 2\^53 is not in guest memory/],
    [{ desc: 0x1008, packed: true }, /descriptor ring at 0x1008 is not aligned to 16/],
    [{ avail: 0x2002, packed: true }, /driver event suppression .* not aligned to 4/],
    [{ used: 0x3002, packed: true }, /device event suppression .* not aligned to 4/],
  ])("%o", (change, reason) => {
    const made = createQueue({ ...good, ...change })
    expect(made.queue).toBeUndefined()
    expect(made.reason).toMatch(reason)
  })

  it("for a region that the VMM placed at an odd address", () => {
    const odd = new TestMemory({ regions: [{ guestAddress: 0x1002, size: 0x10000 }] })
    expect(createQueue({ ...good, memory: odd, desc: 0x1010 }).reason).toMatch(/lies in a misaligned region/)
  })
})
