import { DESCRIPTOR, TestMemory } from "@virtkit/testkit"
import { createQueue, drainQueue } from "@virtkit/virtqueue"
import { describe, expect, it } from "vitest"
import { bytes, LargeMemory, RAM, type Setup, setup } from "./setup.js"

const { NEXT, WRITE, INDIRECT } = DESCRIPTOR

/** Where tests put indirect tables and buffers by hand. */
const TABLE = 0x20_0000
const BUFFER = 0x30_0000

/** Offers `head`, and expects that the device never sees it, the driver gets it back with length 0, and all goes on. */
function expectRefused(test: Setup, head: number, reason: RegExp): void {
  const { driver, queue } = test
  const used = driver.publishedUsedIndex
  driver.offerHead(head)
  driver.publish()
  expect(queue.pop()).toBeUndefined()
  expect(queue.lastError).toMatch(reason)
  expect(driver.publishedUsedIndex).toBe((used + 1) & 0xffff)
  expect(driver.usedElement(used)).toEqual({ id: head, length: 0 })
  expect(queue.counters.malformed).toBe(1)
  expect(queue.broken).toBe(false)
  expectWorking(test, 4)
}

/** A good chain at descriptor `head` goes through. */
function expectWorking({ driver, queue }: Setup, head: number): void {
  driver.writeDescriptor(head, { address: BUFFER, length: 1, flags: WRITE })
  driver.offerHead(head)
  driver.publish()
  const chain = queue.pop()!
  expect([chain.head, chain.count]).toEqual([head, 1])
  queue.push(chain, 1)
  queue.flush()
}

function expectBroken({ queue, broken }: Setup, reason: RegExp): void {
  expect(queue.pop()).toBeUndefined()
  expect(queue.broken).toBe(true)
  expect(broken).toEqual([expect.stringMatching(reason)])
  expect(queue.pop()).toBeUndefined()
  expect(queue.enableNotification()).toBe(false)
  expect(broken).toHaveLength(1)
}

describe("chains that break a rule", () => {
  it("bad-input #8: a loop ends after queue size links", () => {
    const test = setup()
    test.driver.writeDescriptor(0, { address: BUFFER, length: 1, flags: NEXT, next: 1 })
    test.driver.writeDescriptor(1, { address: BUFFER, length: 1, flags: NEXT, next: 0 })
    expectRefused(test, 0, /longer than the queue/)
  })

  it("bad-input #8: a loop of zero-length descriptors, and of one that points to itself", () => {
    const test = setup()
    test.driver.writeDescriptor(0, { address: BUFFER, length: 0, flags: NEXT, next: 0 })
    expectRefused(test, 0, /longer than the queue/)
  })

  it("bad-input #8: a loop within an indirect table", () => {
    const test = setup()
    test.driver.writeDescriptor(0, { address: TABLE, length: 32, flags: INDIRECT })
    test.driver.writeDescriptor(0, { address: BUFFER, length: 1, flags: NEXT, next: 1 }, TABLE)
    test.driver.writeDescriptor(1, { address: BUFFER, length: 1, flags: NEXT, next: 0 }, TABLE)
    expectRefused(test, 0, /longer than the queue/)
  })

  it("bad-input #9: an indirect table within one, and one that points to itself", () => {
    for (const address of [TABLE, TABLE + 64]) {
      const test = setup()
      test.driver.writeDescriptor(0, { address: TABLE, length: 32, flags: INDIRECT })
      test.driver.writeDescriptor(0, { address, length: 32, flags: INDIRECT }, TABLE)
      expectRefused(test, 0, /within an indirect table/)
    }
  })

  it("bad-input #9: an indirect descriptor with a next one, or not negotiated", () => {
    const test = setup()
    test.driver.writeDescriptor(0, { address: TABLE, length: 16, flags: INDIRECT | NEXT, next: 1 })
    expectRefused(test, 0, /with a next/)
    const without = setup({ indirect: false })
    without.driver.writeDescriptor(0, { address: TABLE, length: 16, flags: INDIRECT })
    expectRefused(without, 0, /not negotiated/)
  })

  it("bad-input #10: indirect tables of length 0, odd length, and larger than the queue", () => {
    for (const [length, reason] of [
      [0, /odd length/],
      [24, /odd length/],
      [16 * 9, /larger than the queue/],
      [0xffff_fff0, /larger than the queue/],
    ] as const) {
      const test = setup()
      test.driver.writeDescriptor(0, { address: TABLE, length, flags: INDIRECT })
      expectRefused(test, 0, reason)
    }
  })

  it("bad-input #10: next past the indirect table, and past the queue", () => {
    const test = setup()
    test.driver.writeDescriptor(0, { address: TABLE, length: 32, flags: INDIRECT })
    test.driver.writeDescriptor(0, { address: BUFFER, length: 1, flags: NEXT, next: 2 }, TABLE)
    expectRefused(test, 0, /past the descriptor table/)
    const direct = setup()
    direct.driver.writeDescriptor(0, { address: BUFFER, length: 1, flags: NEXT, next: 8 })
    expectRefused(direct, 0, /past the descriptor table/)
  })

  it("bad-input #10: direct and indirect descriptors count together", () => {
    const test = setup({ size: 8 })
    test.driver.writeDescriptor(0, { address: BUFFER, length: 1, flags: NEXT, next: 1 })
    test.driver.writeDescriptor(1, { address: TABLE, length: 16 * 8, flags: INDIRECT })
    for (let i = 0; i < 8; i++) {
      const flags = i < 7 ? NEXT : 0
      test.driver.writeDescriptor(i, { address: BUFFER, length: 1, flags, next: i + 1 }, TABLE)
    }
    expectRefused(test, 0, /longer than the queue/)
  })

  it("takes an indirect table as long as the queue, whose descriptor says writable", () => {
    const { driver, queue } = setup({ size: 8 })
    // 2.7.5.3.2: WRITE on the descriptor that refers to a table is ignored.
    driver.writeDescriptor(0, { address: TABLE, length: 16 * 8, flags: INDIRECT | WRITE })
    for (let i = 0; i < 8; i++) {
      const flags = i < 7 ? NEXT : 0
      driver.writeDescriptor(i, { address: BUFFER + i, length: 1, flags, next: i + 1 }, TABLE)
    }
    driver.offerHead(0)
    driver.publish()
    const chain = queue.pop()!
    expect([chain.count, chain.readable]).toEqual([8, 8])
    expect([...chain.addresses.subarray(0, 8)]).toEqual([0, 1, 2, 3, 4, 5, 6, 7].map((i) => BUFFER + i))
  })

  it("takes an indirect table at any address", () => {
    const { driver, queue } = setup()
    driver.writeDescriptor(0, { address: TABLE + 3, length: 16, flags: INDIRECT })
    driver.writeDescriptor(0, { address: BUFFER, length: 5, flags: WRITE }, TABLE + 3)
    driver.offerHead(0)
    driver.publish()
    expect(queue.pop()!.writableBytes).toBe(5)
  })

  it("bad-input #11, #35: buffers that wrap, cross the end of RAM or lie in a hole", () => {
    const regions = [
      { guestAddress: 0, size: RAM },
      { guestAddress: 2 * RAM, size: 4096 },
    ]
    for (const [address, length] of [
      [2n ** 64n - 1n, 1],
      [2n ** 64n - 1n, 2],
      [2n ** 53n, 16],
      [2n ** 53n - 1n, 0xffff_ffff],
      [RAM - 1, 2],
      [RAM, 1],
      [2 * RAM - 1, 2],
      [2 * RAM, 4097],
    ] as const) {
      const test = setup({ memory: new TestMemory({ regions }) })
      test.driver.writeDescriptor(0, { address, length, flags: WRITE })
      expectRefused(test, 0, /buffer outside of guest memory/)
    }
  })

  it("bad-input #11: indirect tables outside of RAM", () => {
    for (const address of [RAM - 16, 2n ** 64n - 16n, 2n ** 53n]) {
      const test = setup()
      test.driver.writeDescriptor(0, { address, length: 32, flags: INDIRECT })
      expectRefused(test, 0, /table outside of guest memory/)
    }
  })

  it("bad-input #13: more than 2^32 bytes in a chain", () => {
    const size = 3 * 2 ** 30
    const test = setup({ memory: new LargeMemory(size) })
    test.driver.writeDescriptor(0, { address: 0, length: 2 ** 31, flags: NEXT, next: 1 })
    test.driver.writeDescriptor(1, { address: 0, length: 2 ** 31, flags: NEXT | WRITE, next: 2 })
    test.driver.writeDescriptor(2, { address: 0, length: 1, flags: WRITE })
    expectRefused(test, 0, /more than 2\^32 bytes/)
  })

  it("bad-input #13: 2^32 bytes exactly go through", () => {
    const memory = new LargeMemory(3 * 2 ** 30)
    const { driver, queue } = setup({ memory })
    driver.writeDescriptor(0, { address: 0, length: 2 ** 31, flags: NEXT | WRITE, next: 1 })
    driver.writeDescriptor(1, { address: 0, length: 2 ** 31, flags: WRITE })
    driver.offerHead(0)
    driver.publish()
    const chain = queue.pop()!
    expect(chain.writableBytes).toBe(2 ** 32)
    queue.push(chain, 2 ** 32)
    queue.flush()
    expect(driver.usedElement(0).length).toBe(0xffff_ffff)
  })

  it("bad-input #14: zero-length descriptors are left out", () => {
    const test = setup()
    const { driver, queue } = test
    driver.writeDescriptor(0, { address: 2n ** 60n, length: 0, flags: NEXT, next: 1 })
    driver.writeDescriptor(1, { address: BUFFER, length: 2, flags: NEXT, next: 2 })
    driver.writeDescriptor(2, { address: 0, length: 0, flags: WRITE })
    driver.offerHead(0)
    driver.offerHead(3)
    driver.publish()
    const chain = queue.pop()!
    expect([chain.count, chain.readable, chain.readableBytes, chain.writableBytes]).toEqual([1, 1, 2, 0])
    // Descriptor 3 is all zeroes: a chain of nothing.
    const empty = queue.pop()!
    expect([empty.count, empty.copyOut(0, bytes(0)), empty.copyIn(0, bytes(0))]).toEqual([0, 0, 0])
    queue.push(chain, 0)
    queue.push(empty, 0)
    expectWorking(test, 4)
  })

  it("bad-input #22: a readable descriptor after a writable one", () => {
    const test = setup()
    test.driver.writeDescriptor(0, { address: BUFFER, length: 1, flags: NEXT | WRITE, next: 1 })
    test.driver.writeDescriptor(1, { address: BUFFER, length: 1, flags: 0 })
    expectRefused(test, 0, /readable buffer after a writable one/)
  })

  it("bad-input #20: malformed chains go back, in their place between good ones", () => {
    const test = setup()
    const { driver, queue } = test
    const loop = { address: BUFFER, length: 1, flags: NEXT }
    for (const head of [0, 2, 4, 6]) {
      const good = head === 2 || head === 6
      driver.writeDescriptor(
        head,
        good ? { address: BUFFER, length: 1, flags: WRITE } : { ...loop, next: head },
      )
      driver.offerHead(head)
    }
    driver.publish()
    const seen: number[] = []
    drainQueue(queue, (chain) => {
      seen.push(chain.head)
      queue.push(chain, 1)
    })
    expect(seen).toEqual([2, 6])
    expect([0, 1, 2, 3].map((i) => driver.usedElement(i))).toEqual([
      { id: 0, length: 0 },
      { id: 2, length: 1 },
      { id: 4, length: 0 },
      { id: 6, length: 1 },
    ])
    expect(queue.counters).toMatchObject({ chains: 2, malformed: 2 })
    expect(queue.inFlight).toBe(0)
  })

  it("bad-input #21: any framing carries the same bytes", () => {
    const content = Uint8Array.from({ length: 40 }, (_, i) => i)
    for (const cut of [1, 3, 7, 39, 40]) {
      const { driver, queue } = setup({ size: 128 })
      const pieces: Uint8Array[] = []
      for (let at = 0; at < 40; at += cut) pieces.push(content.subarray(at, at + cut))
      driver.add({ readable: pieces, writable: pieces.map((piece) => piece.length) })
      driver.publish()
      const chain = queue.pop()!
      const header = new Uint8Array(16)
      const rest = new Uint8Array(24)
      expect([chain.copyOut(0, header), chain.copyOut(16, rest)]).toEqual([16, 24])
      expect([...header, ...rest]).toEqual([...content])
      expect(chain.copyIn(5, content.subarray(5))).toBe(35)
      queue.push(chain, 40)
      queue.flush()
      expect([...driver.reap()[0]!.data!.subarray(5)]).toEqual([...content.subarray(5)])
    }
  })

  it("bad-input #18: a descriptor changed after the pop changes nothing", () => {
    const { driver, queue } = setup()
    driver.writeDescriptor(0, { address: BUFFER, length: 4, flags: WRITE })
    driver.offerHead(0)
    driver.publish()
    const chain = queue.pop()!
    driver.writeDescriptor(0, { address: 2n ** 60n, length: 0xffff_ffff, flags: NEXT, next: 0 })
    expect(chain.copyIn(0, bytes(1, 2, 3, 4, 5))).toBe(4)
    expect([...chain.addresses.subarray(0, 1), ...chain.lengths.subarray(0, 1)]).toEqual([BUFFER, 4])
  })
})

describe("rings that cannot be trusted", () => {
  it("bad-input #15: avail.idx jumps by more than the queue size", () => {
    for (const jump of [9, 0x7fff, 0xffff]) {
      const test = setup()
      test.driver.setAvailIndex(jump)
      expectBroken(test, /avail\.idx is \d+ ahead/)
    }
  })

  it("bad-input #15: a jump by the queue size is a full ring", () => {
    const test = setup()
    for (let head = 0; head < 8; head++) test.driver.offerHead(head)
    test.driver.publish()
    for (let head = 0; head < 8; head++) expect(test.queue.pop()?.head).toBe(head)
    expect(test.queue.pop()).toBeUndefined()
    expect(test.broken).toEqual([])
  })

  it("bad-input #17: a head that the device has already, so never more in flight than the queue's size", () => {
    const test = setup()
    for (let i = 0; i < 7; i++) test.driver.offerHead(i)
    test.driver.publish()
    while (test.queue.pop() !== undefined);
    expect(test.queue.inFlight).toBe(7)
    test.driver.offerHead(3)
    test.driver.publish()
    expectBroken(test, /head 3 was made available twice/)
  })

  it("bad-input #15, #17: more chains than the driver has got back, even if the device is done with them", () => {
    for (const publish of [false, true]) {
      const test = setup()
      for (let i = 0; i < 8; i++) test.driver.offerHead(i)
      test.driver.publish()
      for (let i = 0; i < 8; i++) test.queue.push(test.queue.pop()!, 0)
      if (publish) test.queue.flush()
      test.driver.offerHead(0)
      test.driver.publish()
      if (publish) expect(test.queue.pop()).toBeDefined()
      else expectBroken(test, /avail.idx is 1 ahead, the ring has room for 0/)
    }
  })

  it("a head that is no descriptor", () => {
    const test = setup()
    test.driver.offerHead(8)
    test.driver.publish()
    expectBroken(test, /head 8 is not below/)
  })

  it("what the device had when the ring broke can still be given back", () => {
    const test = setup()
    test.driver.offerHead(0)
    test.driver.publish()
    const chain = test.queue.pop()!
    test.driver.setAvailIndex(1000)
    expectBroken(test, /ahead/)
    test.queue.push(chain, 0)
    test.queue.flush()
    expect(test.driver.publishedUsedIndex).toBe(1)
  })

  it("bad-input #16: malformed chains without end do not keep a drain", () => {
    const { driver, queue, memory } = setup()
    driver.writeDescriptor(0, { address: 2n ** 60n, length: 1, flags: 0 })
    // A driver on another vCPU that makes the same chain available whenever the ring is looked at.
    const offer = (): void => {
      driver.offerHead(0)
      driver.publish()
    }
    offer()
    const enable = queue.enableNotification.bind(queue)
    queue.enableNotification = () => {
      offer()
      return enable()
    }
    const pop = queue.pop.bind(queue)
    queue.pop = () => {
      offer()
      return pop()
    }
    expect(drainQueue(queue, () => true)).toBe("limit")
    expect(queue.counters.malformed).toBeLessThanOrEqual(queue.size)
    expect(memory.readUint16(driver.used + 2)).toBe(queue.counters.malformed)
  })

  it("bad-input #12: long chains at every head do not add up without bound", () => {
    const size = 2048
    const { driver, queue } = setup({ size })
    driver.writeDescriptor(0, { address: TABLE, length: 16 * size, flags: INDIRECT })
    for (let i = 0; i < size; i++) {
      driver.writeDescriptor(
        i,
        { address: BUFFER, length: 1, flags: i < size - 1 ? NEXT : 0, next: i + 1 },
        TABLE,
      )
    }
    for (let head = 0; head < size; head++) {
      driver.writeDescriptor(head, { address: TABLE, length: 16 * size, flags: INDIRECT })
      driver.offerHead(head)
    }
    driver.publish()
    let entries = 0
    for (let chain = queue.pop(); chain !== undefined; chain = queue.pop()) entries += chain.addresses.length
    expect(queue.counters.malformed).toBe(size / 2)
    expect(entries).toBe(size * 1024)
  })
})

describe("rings in impossible places", () => {
  const memory = new TestMemory({
    regions: [
      { guestAddress: 0, size: 0x10000 },
      { guestAddress: 0x10000, size: 0x10000 },
    ],
  })
  const good = {
    index: 3,
    size: 8,
    desc: 0x1000,
    avail: 0x2000,
    used: 0x3000,
    memory,
    eventIdx: true,
    indirect: true,
    onInterrupt: () => {},
    onBroken: () => {},
  }

  it("bad-input #11: give a reason instead of a queue", () => {
    expect(createQueue(good).queue).toBeDefined()
    for (const [change, reason] of [
      [{ size: 0 }, /power of two/],
      [{ size: 3 }, /power of two/],
      [{ size: 65536 }, /power of two/],
      [{ size: 1.5 }, /power of two/],
      [{ desc: 0x1008 }, /descriptor table at 0x1008 is not aligned to 16/],
      [{ avail: 0x2001 }, /available ring .* not aligned to 2/],
      [{ used: 0x3002 }, /used ring .* not aligned to 4/],
      [{ desc: 0xfff0 }, /descriptor table .* not in guest memory/],
      [{ avail: 0xfff0 }, /available ring .* not in guest memory/],
      [{ used: 0x1fff0 }, /used ring .* not in guest memory/],
      [{ used: 0x20000 }, /not in guest memory/],
      [{ desc: 2 ** 53 }, /not in guest memory/],
      [{ desc: Number.POSITIVE_INFINITY }, /not/],
    ] as const) {
      const made = createQueue({ ...good, ...change })
      expect(made.queue).toBeUndefined()
      expect(made.reason).toMatch(reason)
      expect(made.reason).toMatch(/^queue 3: /)
    }
  })

  it("give a reason in a region that the VMM placed at an odd address", () => {
    const odd = new TestMemory({ regions: [{ guestAddress: 0x1002, size: 0x10000 }] })
    expect(createQueue({ ...good, memory: odd }).reason).toMatch(/not in guest memory/)
    expect(createQueue({ ...good, memory: odd, desc: 0x1010 }).reason).toMatch(/lies in a misaligned region/)
  })

  it("takes rings that end with their region", () => {
    expect(createQueue({ ...good, desc: 0x10000 - 128, used: 0x20000 - 72 }).queue).toBeDefined()
  })
})

describe("used_event", () => {
  it("interrupts when a batch passes it, from the index before to that of the last chain", () => {
    // The batch is the used elements 65534, 65535 and 0.
    for (const [event, expected] of [
      [65533, false],
      [65534, true],
      [65535, true],
      [0, true],
      [1, false],
      [32768, false],
    ] as const) {
      const test = setup({ eventIdx: true, start: 65534 })
      for (let i = 0; i < 3; i++) test.driver.add({ writable: [1] })
      test.driver.publish()
      test.memory.writeUint16(test.driver.avail + 4 + 2 * 8, event)
      for (let i = 0; i < 3; i++) test.queue.push(test.queue.pop()!, 1)
      test.queue.flush()
      expect(test.interrupts() === 1, `used_event ${event}`).toBe(expected)
    }
  })
})

describe("bad-input #19: ring indexes are single 16-bit accesses", () => {
  it("through Atomics on 16-bit words", () => {
    const { driver, queue } = setup({ eventIdx: true })
    const accesses: string[] = []
    const { load, store } = Atomics
    try {
      Atomics.load = ((array: Uint16Array, index: number) => {
        accesses.push(`load ${array.constructor.name} ${index}`)
        return load(array, index)
      }) as typeof Atomics.load
      Atomics.store = ((array: Uint16Array, index: number, value: number) => {
        accesses.push(`store ${array.constructor.name} ${index}`)
        return store(array, index, value)
      }) as typeof Atomics.store
      driver.add({ writable: [1] })
      driver.publish()
      queue.push(queue.pop()!, 1)
      queue.flush()
      queue.enableNotification()
    } finally {
      Atomics.load = load
      Atomics.store = store
    }
    expect(accesses).toEqual([
      "load Uint16Array 1",
      // used.idx before used_event is looked at, avail_event before avail.idx is looked at again.
      "store Uint16Array 1",
      "load Uint16Array 10",
      "store Uint16Array 34",
      "load Uint16Array 1",
    ])
  })
})
