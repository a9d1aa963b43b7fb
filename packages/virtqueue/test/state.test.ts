import { RestoreError, StateError } from "@virtkit/interface"
import { createQueue, type QueueState } from "@virtkit/virtqueue"
import { describe, expect, it } from "vitest"
import { bytes, deviceSide, LargeMemory, RINGS, type SetupOptions, setup, setupRing } from "./setup.js"

describe.each(RINGS)("state of a queue on a $ring ring", ({ packed }) => {
  const make = (options: SetupOptions = {}) => setupRing({ packed, ...options })

  it("is taken back by a new queue only", () => {
    const { driver, queue } = make()
    driver.add({ writable: [1] })
    driver.publish()
    queue.pop()
    expect(() => queue.restore(queue.state())).toThrow(StateError)
  })

  it("says where it is, as the queue itself does", () => {
    const { driver, queue } = make()
    for (let left = 3; left > 0; left--) driver.add({ writable: [1] })
    driver.publish()
    queue.push(queue.pop()!, 0)
    queue.pop()
    queue.flush()
    const lap = packed ? 0x8000 : 0
    expect([queue.nextAvail, queue.nextUsed]).toEqual([lap | 2, lap | 1])
    expect(queue.state()).toMatchObject({ nextAvail: queue.nextAvail, nextUsed: queue.nextUsed })
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
