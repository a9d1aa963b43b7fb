import {
  DESCRIPTOR,
  PACKED_DESCRIPTOR,
  type PackedRingDriver,
  type RawPackedDescriptor,
  TestMemory,
} from "@virtkit/testkit"
import { createQueue, drainQueue } from "@virtkit/virtqueue"
import { describe, expect, it } from "vitest"
import { bytes, LargeMemory, RAM, type Setup, setupPacked } from "./setup.js"

const { NEXT, WRITE, INDIRECT } = DESCRIPTOR
const { AVAIL, USED } = PACKED_DESCRIPTOR
type Test = Setup<PackedRingDriver>

/** Where tests put indirect tables and buffers by hand. */
const TABLE = 0x20_0000
const BUFFER = 0x30_0000
const good: RawPackedDescriptor = { address: BUFFER, length: 1, flags: WRITE }

function offer({ driver }: Test, ...descriptors: RawPackedDescriptor[]): void {
  driver.offer(descriptors)
  driver.publish()
}

/** Offers a list, and expects that the device never sees it, the driver gets it back with length 0, and all goes on. */
function expectRefused(test: Test, list: readonly RawPackedDescriptor[], reason: RegExp): void {
  const { driver, queue } = test
  const last = list.length - 1
  offer(test, ...list.map((one, at) => ({ ...one, id: at === last ? 77 : 5 })))
  expect(queue.pop()).toBeUndefined()
  expect(queue.lastError).toMatch(reason)
  expect(driver.descriptor(0)).toEqual({ id: 77, length: 0, flags: AVAIL | USED })
  expect(queue.counters.malformed).toBe(1)
  expect(queue.broken).toBe(false)
  offer(test, { ...good, id: 6 })
  const chain = queue.pop()!
  expect([chain.head, chain.count]).toEqual([6, 1])
  queue.push(chain, 1)
  queue.flush()
  expect(driver.descriptor(list.length)).toEqual({ id: 6, length: 1, flags: AVAIL | USED | WRITE })
}

function expectBroken({ queue, broken }: Test, reason: RegExp): void {
  expect(queue.pop()).toBeUndefined()
  expect(queue.broken).toBe(true)
  expect(broken).toEqual([expect.stringMatching(reason)])
  expect(queue.pop()).toBeUndefined()
  expect(queue.enableNotification()).toBe(false)
  expect(broken).toHaveLength(1)
}

function table(test: Test, entries: readonly RawPackedDescriptor[], at: number = TABLE): void {
  for (const [index, entry] of entries.entries()) test.driver.writeDescriptor(index, entry, at)
}

describe("packed chains that break a rule", () => {
  it("bad-input #9: an indirect descriptor in a list, or not negotiated", () => {
    const indirect = { address: TABLE, length: 16, flags: INDIRECT }
    expectRefused(setupPacked(), [{ ...indirect, flags: INDIRECT | NEXT }, good], /within a list/)
    expectRefused(setupPacked(), [{ ...good, flags: NEXT }, indirect], /within a list/)
    expectRefused(setupPacked({ indirect: false }), [indirect], /not negotiated/)
  })

  it("bad-input #9: INDIRECT within an indirect table is ignored, as all flags but WRITE are (2.8.7)", () => {
    const test = setupPacked()
    const flags = INDIRECT | NEXT | AVAIL | USED
    table(test, [
      { address: TABLE, length: 32, flags },
      { address: BUFFER, length: 3, flags: flags | WRITE, id: 9 },
    ])
    offer(test, { address: TABLE, length: 32, flags: INDIRECT | WRITE, id: 4 })
    const chain = test.queue.pop()!
    expect([chain.head, chain.count, chain.readableBytes, chain.writableBytes]).toEqual([4, 2, 32, 3])
  })

  it("bad-input #10: indirect tables of length 0, odd length, and larger than the queue", () => {
    for (const [length, reason] of [
      [0, /odd length/],
      [24, /odd length/],
      [16 * 9, /larger than the queue/],
      [0xffff_fff0, /larger than the queue/],
    ] as const) {
      expectRefused(setupPacked(), [{ address: TABLE, length, flags: INDIRECT }], reason)
    }
  })

  it("takes an indirect table as long as the queue, at any address", () => {
    const test = setupPacked({ size: 7 })
    table(
      test,
      [0, 1, 2, 3, 4, 5, 6].map((i) => ({ address: BUFFER + i, length: 1, flags: i > 4 ? WRITE : 0 })),
      TABLE + 3,
    )
    offer(test, { address: TABLE + 3, length: 16 * 7, flags: INDIRECT })
    const chain = test.queue.pop()!
    expect([chain.count, chain.readable]).toEqual([7, 5])
    expect([...chain.addresses.subarray(0, 7)]).toEqual([0, 1, 2, 3, 4, 5, 6].map((i) => BUFFER + i))
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
      const test = setupPacked({ memory: new TestMemory({ regions }) })
      expectRefused(test, [{ address, length, flags: WRITE }], /buffer outside of guest memory/)
      const inTable = setupPacked({ memory: new TestMemory({ regions }) })
      table(inTable, [{ address, length, flags: WRITE }])
      const indirect = { address: TABLE, length: 16, flags: INDIRECT }
      expectRefused(inTable, [indirect], /buffer outside of guest memory/)
    }
  })

  it("bad-input #11: indirect tables outside of RAM", () => {
    for (const address of [RAM - 16, 2n ** 64n - 16n, 2n ** 53n]) {
      const indirect = { address, length: 32, flags: INDIRECT }
      expectRefused(setupPacked(), [indirect], /table outside of guest memory/)
    }
  })

  it("bad-input #13: more than 2^32 bytes in a chain, and 2^32 exactly", () => {
    const memory = new LargeMemory(3 * 2 ** 30)
    const list = [
      { address: 0, length: 2 ** 31, flags: NEXT },
      { address: 0, length: 2 ** 31, flags: NEXT | WRITE },
      { address: 0, length: 1, flags: WRITE },
    ]
    expectRefused(setupPacked({ memory }), list, /more than 2\^32 bytes/)
    const test = setupPacked({ memory: new LargeMemory(3 * 2 ** 30) })
    offer(
      test,
      { address: 0, length: 2 ** 31, flags: NEXT | WRITE },
      { address: 0, length: 2 ** 31, flags: WRITE },
    )
    const chain = test.queue.pop()!
    expect(chain.writableBytes).toBe(2 ** 32)
    test.queue.push(chain, 2 ** 32)
    test.queue.flush()
    expect(test.driver.descriptor(0).length).toBe(0xffff_ffff)
  })

  it("bad-input #14: zero-length descriptors are left out", () => {
    const test = setupPacked()
    offer(
      test,
      { address: 2n ** 60n, length: 0, flags: NEXT },
      { address: BUFFER, length: 2, flags: NEXT },
      { address: 0, length: 0, flags: WRITE },
    )
    const chain = test.queue.pop()!
    expect([chain.count, chain.readable, chain.readableBytes, chain.writableBytes]).toEqual([1, 1, 2, 0])
    offer(test, { address: 0, length: 0, flags: 0 })
    const empty = test.queue.pop()!
    expect([empty.count, empty.copyOut(0, bytes(0)), empty.copyIn(0, bytes(0))]).toEqual([0, 0, 0])
  })

  it("bad-input #22: a readable descriptor after a writable one, in a list and in a table", () => {
    const list = [
      { address: BUFFER, length: 1, flags: WRITE },
      { address: BUFFER, length: 1, flags: 0 },
    ]
    const linked = [{ ...list[0]!, flags: NEXT | WRITE }, list[1]!]
    expectRefused(setupPacked(), linked, /readable buffer after a writable one/)
    const test = setupPacked()
    table(test, list)
    expectRefused(
      test,
      [{ address: TABLE, length: 32, flags: INDIRECT }],
      /readable buffer after a writable one/,
    )
  })

  it("bad-input #20, #30: a malformed list is read to its end, where its id is, over the end of the ring", () => {
    const test = setupPacked({ size: 5, start: 0x0003 })
    const bad = { address: 2n ** 60n, length: 1, flags: NEXT }
    offer(test, bad, bad, { ...bad, flags: INDIRECT, id: 3 }, { ...good, id: 1 })
    const chain = test.queue.pop()!
    expect([chain.head, test.queue.counters.malformed]).toEqual([1, 1])
    expect(test.driver.descriptor(3)).toEqual({ id: 3, length: 0, flags: 0 })
    expect(test.queue.lastError).toMatch(/outside of guest memory/)
    test.queue.push(chain, 1)
    test.queue.flush()
    expect(test.driver.descriptor(1)).toEqual({ id: 1, length: 1, flags: AVAIL | USED | WRITE })
  })

  it("bad-input #20: malformed chains go back, in their place between good ones", () => {
    const test = setupPacked()
    const bad = { address: 2n ** 60n, length: 1, flags: 0 }
    offer(test, { ...bad, id: 0 }, { ...good, id: 1 }, { ...bad, id: 2 }, { ...good, id: 3 })
    const seen: number[] = []
    drainQueue(test.queue, (chain) => {
      seen.push(chain.head)
      test.queue.push(chain, 1)
    })
    expect(seen).toEqual([1, 3])
    const used = [0, 1, 2, 3].map((slot) => test.driver.descriptor(slot))
    expect(used.map(({ id, length }) => [id, length])).toEqual([
      [0, 0],
      [1, 1],
      [2, 0],
      [3, 1],
    ])
    expect(test.queue.counters).toMatchObject({ chains: 2, malformed: 2 })
  })

  it("bad-input #18: a descriptor changed after the pop changes nothing", () => {
    const test = setupPacked()
    offer(test, { address: BUFFER, length: 4, flags: WRITE, id: 3 })
    const chain = test.queue.pop()!
    test.driver.writeDescriptor(0, { address: 2n ** 60n, length: 0xffff_ffff, flags: NEXT, id: 9 })
    expect(chain.copyIn(0, bytes(1, 2, 3, 4, 5))).toBe(4)
    expect([chain.head, ...chain.addresses.subarray(0, 1), chain.lengths[0]]).toEqual([3, BUFFER, 4])
  })

  it("any 16-bit number may be an id", () => {
    const test = setupPacked({ size: 2 })
    for (const id of [0xffff, 2, 0x8000]) {
      offer(test, { ...good, id })
      const chain = test.queue.pop()!
      expect(chain.head).toBe(id)
      test.queue.push(chain, 1)
      test.queue.flush()
      expect(test.driver.descriptor(id === 2 ? 1 : 0).id).toBe(id)
    }
  })
})

describe("packed rings that cannot be trusted", () => {
  it("bad-input #8, #30: a list without end stops after queue size links", () => {
    for (const size of [1, 3, 8]) {
      const test = setupPacked({ size })
      const endless = { address: BUFFER, length: 1, flags: NEXT }
      offer(test, ...new Array<RawPackedDescriptor>(size).fill(endless))
      expectBroken(test, new RegExp(`room for, ${size}$`))
    }
  })

  it("bad-input #30: a list that goes on into a slot that is not available", () => {
    const test = setupPacked()
    offer(test, { address: BUFFER, length: 1, flags: NEXT })
    expectBroken(test, /not available where/)
  })

  it("bad-input #30: a slot that was available and is not any more", () => {
    const test = setupPacked()
    offer(test, good, good)
    test.queue.pop()
    test.driver.writeDescriptor(1, good)
    expectBroken(test, /not available where/)
  })

  it("bad-input #15, #17: more descriptors than the driver has got back, even if the device is done with them", () => {
    for (const [push, flush] of [
      [false, false],
      [true, false],
      [true, true],
    ] as const) {
      const test = setupPacked({ size: 3 })
      offer(test, good, { ...good, flags: WRITE | NEXT }, good)
      for (let i = 0; i < 2; i++) {
        const chain = test.queue.pop()!
        if (push) test.queue.push(chain, 0)
      }
      if (flush) test.queue.flush()
      offer(test, good)
      if (flush) expect(test.queue.pop()).toBeDefined()
      else expectBroken(test, /room for, 0$/)
    }
  })

  it("bad-input #15: a list longer than what is left", () => {
    const test = setupPacked({ size: 4 })
    offer(test, good, good)
    test.queue.pop()
    test.queue.pop()
    const linked = { ...good, flags: WRITE | NEXT }
    offer(test, linked, linked, linked)
    expectBroken(test, /room for, 2$/)
  })

  it("what the device had when the ring broke can still be given back", () => {
    const test = setupPacked({ size: 2 })
    offer(test, { ...good, id: 1 }, { ...good, flags: NEXT })
    const chain = test.queue.pop()!
    expectBroken(test, /./)
    test.queue.push(chain, 1)
    test.queue.flush()
    expect(test.driver.descriptor(0)).toMatchObject({ id: 1, length: 1 })
  })

  it("bad-input #16: malformed chains without end do not keep a drain", () => {
    const test = setupPacked()
    const { queue } = test
    // A driver on another vCPU that makes a chain available whenever the ring is looked at.
    const again = (): void => offer(test, { address: 2n ** 60n, length: 1, flags: 0 })
    again()
    const enable = queue.enableNotification.bind(queue)
    queue.enableNotification = () => {
      again()
      return enable()
    }
    const pop = queue.pop.bind(queue)
    queue.pop = () => {
      again()
      return pop()
    }
    expect(drainQueue(queue, () => true)).toBe("limit")
    expect(queue.counters.malformed).toBeLessThanOrEqual(queue.size)
  })

  it("bad-input #12: long chains at every slot do not add up without bound", () => {
    const size = 2048
    const test = setupPacked({ size })
    table(test, new Array<RawPackedDescriptor>(size).fill({ address: BUFFER, length: 1, flags: 0 }))
    const indirect = { address: TABLE, length: 16 * size, flags: INDIRECT }
    offer(test, ...new Array<RawPackedDescriptor>(size).fill(indirect))
    let entries = 0
    for (let chain = test.queue.pop(); chain !== undefined; chain = test.queue.pop()) entries += chain.count
    expect(test.queue.counters.malformed).toBe(size / 2)
    expect(entries).toBe(size * 1024)
  })
})

describe("event suppression of packed rings", () => {
  it("interrupts for flags that mean nothing, and for DESC without EVENT_IDX", () => {
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
      const test = setupPacked({ eventIdx })
      test.memory.writeUint16(test.driver.avail, 0x8000 | 5)
      test.memory.writeUint16(test.driver.avail + 2, flags)
      offer(test, good)
      test.queue.push(test.queue.pop()!, 1)
      test.queue.flush()
      expect(test.interrupts(), `EVENT_IDX ${eventIdx}, flags ${flags}`).toBe(count)
    }
  })

  it("interrupts when a batch passes the named slot, of this lap or the one before", () => {
    // The batch is slots 6, 7 of the first lap and 0, 1, 2 of the second, wrap counter 0.
    for (const [position, expected] of [
      [0x8000 | 5, false],
      [0x8000 | 6, true],
      [0x8000 | 7, true],
      [0, true],
      [2, true],
      [3, false],
      [0x8000 | 2, false],
      [0x7fff, false],
      [0xffff, false],
    ] as const) {
      const test = setupPacked({ eventIdx: true, start: 0x8006 })
      offer(test, good, good, good, good, good)
      test.memory.writeUint16(test.driver.avail, position)
      for (let i = 0; i < 5; i++) test.queue.push(test.queue.pop()!, 1)
      test.queue.flush()
      expect(test.interrupts() === 1, `position ${position.toString(16)}`).toBe(expected)
    }
  })

  it("tells the driver where it waits, as one 32-bit word", () => {
    const test = setupPacked({ eventIdx: true, size: 3 })
    const event = () => [
      test.memory.readUint16(test.driver.used),
      test.memory.readUint16(test.driver.used + 2),
    ]
    expect(event()).toEqual([0x8000, 2])
    test.queue.disableNotification()
    expect(event()[1]).toBe(1)
    offer(test, good, good, good)
    for (let i = 0; i < 3; i++) test.queue.pop()
    test.queue.enableNotification()
    expect(event()).toEqual([0x0000, 2])
    const flags = setupPacked()
    expect(flags.memory.readUint32(flags.driver.used)).toBe(0)
    flags.queue.disableNotification()
    expect(flags.memory.readUint32(flags.driver.used)).toBe(1 << 16)
  })
})

describe("bad-input #19: flags and events are single atomic accesses", () => {
  it("through Atomics, in the order that 2.8 needs", () => {
    const test = setupPacked({ eventIdx: true })
    const accesses: string[] = []
    const { load, store } = Atomics
    offer(test, good, good)
    try {
      Atomics.load = ((array: Uint16Array, index: number) => {
        accesses.push(`load ${array.constructor.name} ${index}`)
        return load(array, index)
      }) as typeof Atomics.load
      Atomics.store = ((array: Uint16Array, index: number, value: number) => {
        accesses.push(`store ${array.constructor.name} ${index}`)
        return store(array, index, value)
      }) as typeof Atomics.store
      const chains = [test.queue.pop()!, test.queue.pop()!]
      for (const chain of chains) test.queue.push(chain, 1)
      expect(test.driver.descriptor(0).flags & USED).toBe(0)
      test.queue.flush()
      test.queue.enableNotification()
    } finally {
      Atomics.load = load
      Atomics.store = store
    }
    expect(accesses).toEqual([
      // The flags of the first slot, then a barrier behind those of the second.
      "load Uint16Array 7",
      "load Uint16Array 15",
      // The batch is published before it is asked who wants to know, and the event before the next slot is looked at.
      "store Uint16Array 7",
      "load Int32Array 0",
      "store Int32Array 0",
      "load Uint16Array 23",
    ])
  })
})

describe("packed rings in impossible places", () => {
  const memory = new TestMemory({
    regions: [
      { guestAddress: 0, size: 0x10000 },
      { guestAddress: 0x10000, size: 0x10000 },
    ],
  })
  const options = {
    index: 3,
    size: 7,
    desc: 0x1000,
    avail: 0x2000,
    used: 0x3000,
    memory,
    packed: true,
    eventIdx: true,
    indirect: true,
    onInterrupt: () => {},
    onBroken: () => {},
  }

  it("bad-input #11: give a reason instead of a queue", () => {
    for (const size of [1, 7, 3840]) expect(createQueue({ ...options, size }).queue?.size).toBe(size)
    for (const [change, reason] of [
      [{ size: 0 }, /queue size 0 is not/],
      [{ size: 32769 }, /queue size 32769 is not/],
      [{ size: 1.5 }, /queue size/],
      [{ size: Number.NaN }, /queue size/],
      [{ desc: 0x1008 }, /descriptor ring at 0x1008 is not aligned to 16/],
      [{ avail: 0x2002 }, /driver event suppression .* not aligned to 4/],
      [{ used: 0x3002 }, /device event suppression .* not aligned to 4/],
      [{ desc: 0xffa0 }, /descriptor ring .* not in guest memory/],
      [{ avail: 0x20000 }, /driver event suppression .* not in guest memory/],
      [{ used: 0x20000 }, /device event suppression .* not in guest memory/],
      [{ desc: 2 ** 53 }, /not in guest memory/],
    ] as const) {
      const made = createQueue({ ...options, ...change })
      expect(made.queue).toBeUndefined()
      expect(made.reason).toMatch(reason)
    }
  })

  it("takes rings that end with their region", () => {
    const ends = { desc: 0x10000 - 112, avail: 0xfffc, used: 0x1fffc }
    expect(createQueue({ ...options, ...ends }).queue).toBeDefined()
  })
})
