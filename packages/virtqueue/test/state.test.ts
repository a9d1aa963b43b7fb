import { RestoreError, StateError } from "@virtkit/interface"
import { createQueue, type QueueState } from "@virtkit/virtqueue"
import { describe, expect, it } from "vitest"
import {
  bytes,
  copyOf,
  deviceSide,
  LargeMemory,
  RINGS,
  type SetupOptions,
  setup,
  setupRing,
} from "./setup.js"

describe.each(RINGS)("state of a queue on a $ring ring", ({ packed }) => {
  const make = (options: SetupOptions = {}) => setupRing({ packed, ...options })

  it("is plain data, and a new queue goes on from it with the chains in flight", () => {
    const { driver, queue, memory } = make()
    const sent = [1, 2, 3, 4].map((value) => driver.add({ readable: [bytes(value)], writable: [1] }))
    driver.publish()
    const [a, b, c] = [queue.pop()!, queue.pop()!, queue.pop()!]
    expect(c.head).toBe(sent[2]!.head)
    queue.push(a, 1)
    // On a packed ring this writes over the descriptors of `a`, and a later one over those of `b`, still in flight.
    queue.push(c, 1)
    const saved = JSON.parse(JSON.stringify(queue.state())) as unknown

    const other = deviceSide(driver, copyOf(memory), { packed })
    other.queue.restore(saved)
    expect(other.queue.enableNotification()).toBe(true)
    expect(driver.reap()).toEqual([sent[0], sent[2]])
    const again = other.queue.pop()!
    expect([again.head, again.count, again.readable]).toEqual([b.head, 2, 1])
    const out = bytes(0)
    again.copyOut(0, out)
    expect(out[0]).toBe(2)
    expect(other.queue.pop()!.head).toBe(sent[3]!.head)
    expect(other.queue.pop()).toBeUndefined()
    expect(other.queue.inFlight).toBe(2)
  })

  it("goes on in the same memory to the end, on a full ring that wraps", () => {
    for (const inOrder of [false, true]) {
      const first = make({ size: 4, inOrder, start: packed ? 0x8003 : 65535 })
      const { driver, memory } = first
      const sent = [1, 2, 3, 4].map(() => driver.add({ writable: [4] }))
      driver.publish()
      const chains = sent.map(() => first.queue.pop()!)
      first.queue.push(chains[2]!, 4)
      const { queue } = deviceSide(driver, memory, { packed, inOrder })
      queue.restore(structuredClone(first.queue.state()))
      expect(queue.state()).toEqual(first.queue.state())
      for (const at of [0, 1, 3]) {
        const chain = queue.pop()!
        expect(chain.head).toBe(sent[at]!.head)
        queue.push(chain, 3)
      }
      expect(queue.pop()).toBeUndefined()
      queue.flush()
      const order = inOrder ? [0, 1, 2, 3] : [2, 0, 1, 3]
      expect(driver.reap()).toEqual(order.map((at) => sent[at]))
      expect(sent.map((chain) => chain.written)).toEqual([3, 3, 4, 3])
      driver.add({ writable: [1] })
      driver.publish()
      expect(queue.pop()).toBeDefined()
    }
  })

  it("keeps the order of redelivered chains over unpop and a second save", () => {
    const first = make()
    const heads = [1, 2, 3].map(() => first.driver.add({ writable: [1] }).head)
    first.driver.publish()
    while (first.queue.pop() !== undefined);
    const { queue } = deviceSide(first.driver, first.memory, { packed })
    queue.restore(first.queue.state())
    queue.unpop(queue.pop()!)
    queue.pop()
    expect((queue.state() as QueueState).inFlight.map((chain) => chain.id)).toEqual(heads)
  })

  it("has a chain that was given back to the queue by unpop", () => {
    const first = make()
    const { head } = first.driver.add({ writable: [1] })
    first.driver.publish()
    first.queue.unpop(first.queue.pop()!)
    const { queue } = deviceSide(first.driver, first.memory, { packed })
    queue.restore(first.queue.state())
    expect(queue.enableNotification()).toBe(true)
    expect([queue.pop()!.head, queue.pop()]).toEqual([head, undefined])
    expect(queue.enableNotification()).toBe(false)
  })

  it("is taken back by a new queue only", () => {
    const { driver, queue } = make()
    driver.add({ writable: [1] })
    driver.publish()
    queue.pop()
    expect(() => queue.restore(queue.state())).toThrow(StateError)
  })

  it("has chains of many buffers", () => {
    const { driver, queue, memory } = make({ size: 64 })
    driver.add({ readable: new Array(20).fill(bytes(1, 2)), writable: new Array<number>(20).fill(3) })
    driver.publish()
    queue.pop()
    const other = deviceSide(driver, memory, { packed, size: 64 })
    other.queue.restore(queue.state())
    const chain = other.queue.pop()!
    expect([chain.count, chain.readable, chain.readableBytes, chain.writableBytes]).toEqual([40, 20, 40, 60])
  })

  it("keeps why a queue is broken", () => {
    const { driver, queue, memory } = make()
    const state = { ...(queue.state() as QueueState), broken: "why" }
    const other = deviceSide(driver, memory, { packed })
    other.queue.restore(state)
    expect([other.queue.broken, other.queue.lastError, other.queue.pop()]).toEqual([true, "why", undefined])
    expect(other.queue.state()).toEqual(state)
  })

  it("bad-input #31: refuses a state that does not fit, and changes nothing", () => {
    for (const inOrder of [false, true]) {
      const { driver, queue, memory } = make({ inOrder })
      for (let i = 0; i < 4; i++) driver.add({ readable: [bytes(1)], writable: [1] })
      driver.publish()
      queue.push(queue.pop()!, 0)
      queue.pop()
      queue.pop()
      const good = queue.state() as QueueState
      const [one, two] = [good.inFlight[0]!, good.inFlight[1]!]
      const first = (change: object): object => ({ ...good, inFlight: [{ ...one, ...change }, two] })
      const place = { address: 4096, length: 1 }
      const wrong: unknown[] = [
        undefined,
        null,
        3,
        {},
        { ...good, version: 2 },
        { ...good, ring: packed ? "split" : "packed" },
        { ...good, inOrder: !inOrder },
        { ...good, size: 16 },
        { ...good, desc: 0 },
        { ...good, avail: 0 },
        { ...good, used: 0 },
        { ...good, nextAvail: 65536 },
        { ...good, nextAvail: good.nextAvail + 1 },
        { ...good, nextUsed: -1 },
        { ...good, nextUsed: 0.5 },
        { ...good, nextUsed: good.nextAvail },
        { ...good, broken: 1 },
        { ...good, inFlight: "0" },
        { ...good, inFlight: [] },
        { ...good, inFlight: [one] },
        { ...good, inFlight: [one, null] },
        { ...good, inFlight: new Array(9).fill(one) },
        first({ id: packed ? 65536 : 8 }),
        first({ id: -1 }),
        first({ slots: 0 }),
        first({ slots: 3 }),
        first({ slots: 9 }),
        first({ readable: 3 }),
        { ...good, inFlight: [3, two] },
        first({ buffers: [place, 3] }),
        first({
          buffers: [
            { address: 0, length: 2 ** 32 - 1 },
            { address: 0, length: 2 },
          ],
        }),
        first({ buffers: {} }),
        first({ buffers: [place, null] }),
        first({ buffers: [place, { address: 4096, length: 0 }] }),
        first({ buffers: [place, { address: 2 ** 53, length: 1 }] }),
        first({ buffers: [place, { address: 2 ** 40, length: 1 }] }),
        first({ buffers: [place, { address: 4096, length: 2 ** 32 }] }),
        first({ buffers: new Array(9).fill(place) }),
        first({ whole: 1 }),
        first({ written: -1 }),
        first({ written: 2 ** 32 }),
        ...(inOrder ? [] : [first({ written: 1 })]),
        ...(packed
          ? [
              { ...good, nextAvail: 0x8000 | 8 },
              { ...good, nextUsed: 0x8000 | 8 },
              { ...good, nextAvail: 0x8000 | 12, nextUsed: 0x8000 | 8 },
              { ...good, nextAvail: 3, nextUsed: 0x8000 | 7, inFlight: [one] },
              { ...good, nextUsed: good.nextUsed & 0x7fff },
            ]
          : [first({ id: two.id })]),
      ]
      const other = deviceSide(driver, memory, { packed, inOrder })
      const untouched = other.queue.state()
      for (const state of wrong) {
        expect(() => other.queue.restore(state), JSON.stringify(state)).toThrow(RestoreError)
      }
      expect(other.queue.state()).toEqual(untouched)
      other.queue.restore(good)
      expect(other.queue.state()).toEqual(good)
    }
  })
})

it("bad-input #13, #31: a saved chain of more than 2^32 bytes is refused", () => {
  const memory = new LargeMemory(3 * 2 ** 30)
  const { driver, queue } = setup({ memory })
  driver.add({ readable: [bytes(1)], writable: [1] })
  driver.publish()
  queue.pop()
  const state = queue.state() as QueueState
  const half = { address: 0, length: 2 ** 31 }
  for (const [buffers, fits] of [
    [[half, half], true],
    [[half, half, { address: 0, length: 1 }], false],
  ] as const) {
    const other = deviceSide(driver, memory)
    const restore = (): void =>
      other.queue.restore({ ...state, inFlight: [{ ...state.inFlight[0]!, buffers }] })
    if (fits) restore()
    else expect(restore).toThrow(RestoreError)
  }
})

it("is that of a split ring in any order, if nothing else is said", () => {
  const { driver, memory, queue } = setup()
  const { size, desc, avail, used } = driver
  const rest = { memory, eventIdx: false, indirect: false, onInterrupt: () => {}, onBroken: () => {} }
  const made = createQueue({ index: 0, size, desc, avail, used, ...rest })
  driver.add({ writable: [1] })
  driver.publish()
  queue.pop()
  const [chain] = (queue.state() as QueueState).inFlight
  const done = { ...(queue.state() as QueueState), inFlight: [{ ...chain, written: 1 }] }
  expect(() => made.queue?.restore(done)).toThrow(RestoreError)
  made.queue?.restore(queue.state())
  expect(made.queue?.state()).toEqual(queue.state())
})

describe("state of a queue on a split ring", () => {
  it("bad-input #17: a head that waits to be delivered again is in flight, until it is given back", () => {
    const first = setup()
    first.driver.add({ writable: [1] })
    first.driver.publish()
    first.queue.pop()
    const { queue, broken } = deviceSide(first.driver, first.memory)
    queue.restore(first.queue.state())
    queue.push(queue.pop()!, 1)
    queue.flush()
    first.driver.reap()
    first.driver.offerHead(0)
    first.driver.publish()
    expect(queue.pop()).toBeDefined()

    const other = deviceSide(first.driver, first.memory)
    other.queue.restore(queue.state())
    other.queue.unpop(other.queue.pop()!)
    other.queue.pop()
    first.driver.offerHead(0)
    first.driver.publish()
    expect(other.queue.pop()).toBeUndefined()
    expect([broken, other.broken]).toEqual([[], ["head 0 was made available twice"]])
  })
})
