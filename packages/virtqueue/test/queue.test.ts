import { RestoreError, StateError } from "@virtkit/interface"
import { TestMemory } from "@virtkit/testkit"
import { drainQueue } from "@virtkit/virtqueue"
import { describe, expect, it } from "vitest"
import { bytes, deviceSide, RAM, setup } from "./setup.js"

describe("chains", () => {
  for (const layout of ["direct", "indirect", "mixed"] as const) {
    it(`carries bytes both ways, ${layout} descriptors`, () => {
      const { driver, queue } = setup()
      const sent = driver.add({ readable: [bytes(1, 2, 3), bytes(4, 5)], writable: [2, 3], layout })
      driver.publish()
      const chain = queue.pop()!
      expect([chain.head, chain.count, chain.readable]).toEqual([sent.head, 4, 2])
      expect([chain.readableBytes, chain.writableBytes]).toEqual([5, 5])
      const out = new Uint8Array(8)
      expect(chain.copyOut(1, out)).toBe(4)
      expect([...out.subarray(0, 4)]).toEqual([2, 3, 4, 5])
      expect(chain.copyIn(1, bytes(7, 8, 9))).toBe(3)
      queue.push(chain, 4)
      expect(driver.reap()).toEqual([])
      queue.flush()
      expect(driver.reap()).toEqual([sent])
      expect(sent.written).toBe(4)
      expect([...sent.data!]).toEqual([0xee, 7, 8, 9, 0xee])
    })
  }

  it("works on shared memory, as guest RAM is", () => {
    const memory = new TestMemory({ regions: [{ guestAddress: 0, size: RAM }], shared: true })
    const { driver, queue, interrupts } = setup({ memory, eventIdx: true })
    driver.add({ readable: [bytes(9)] })
    expect(driver.publish()).toBe(true)
    queue.push(queue.pop()!, 0)
    queue.flush()
    expect(driver.reap()).toHaveLength(1)
    expect(interrupts()).toBe(1)
  })

  it("gives chains back in any order", () => {
    const { driver, queue } = setup()
    const [first, second] = [driver.add({ writable: [1] }), driver.add({ writable: [1] })]
    driver.publish()
    const [a, b] = [queue.pop()!, queue.pop()!]
    queue.push(b, 1)
    queue.push(a, 1)
    queue.flush()
    expect(driver.reap()).toEqual([second, first])
  })

  it("pops a chain again after unpop", () => {
    const { driver, queue } = setup()
    const [first, second] = [driver.add({ writable: [1] }), driver.add({ writable: [1] })]
    driver.publish()
    queue.unpop(queue.pop()!)
    expect(queue.inFlight).toBe(0)
    expect(queue.pop()!.head).toBe(first.head)
    expect(queue.pop()!.head).toBe(second.head)
    expect(queue.counters.chains).toBe(2)
  })

  it("tells a device that gives back what it does not have", () => {
    const { driver, queue } = setup()
    driver.add({ writable: [1] })
    driver.add({ writable: [1] })
    driver.publish()
    const first = queue.pop()!
    const second = queue.pop()!
    expect(() => queue.unpop(first)).toThrow(StateError)
    queue.push(second, 0)
    expect(() => queue.push(second, 0)).toThrow(StateError)
    expect(() => queue.unpop(second)).toThrow(StateError)
  })

  it("uses the same chain objects again", () => {
    const { driver, queue } = setup()
    const seen = new Set<unknown>()
    for (let round = 0; round < 20; round++) {
      driver.add({ writable: [1] })
      driver.publish()
      const chain = queue.pop()!
      seen.add(chain)
      seen.add(chain.addresses)
      queue.push(chain, 0)
      queue.flush()
      driver.reap()
    }
    expect(seen.size).toBe(2)
  })

  it("never reports more written than the driver gave room for", () => {
    const { driver, queue } = setup()
    const sent = driver.add({ readable: [bytes(1)], writable: [3] })
    driver.publish()
    queue.push(queue.pop()!, 1000)
    queue.flush()
    driver.reap()
    expect(sent.written).toBe(3)
  })

  it("takes a queue of size 1 and one of 32768", () => {
    for (const size of [1, 32768]) {
      const { driver, queue } = setup({ size })
      for (let round = 0; round < 3; round++) {
        driver.add({ writable: [4] })
        driver.publish()
        queue.push(queue.pop()!, 4)
        queue.flush()
        expect(driver.reap()).toHaveLength(1)
      }
      expect(queue.pop()).toBeUndefined()
    }
  })

  it("goes over the end of the 16-bit indexes", () => {
    const { driver, queue } = setup({ size: 4, startIndex: 65533, eventIdx: true })
    for (let round = 0; round < 10; round++) {
      driver.add({ readable: [bytes(round)] })
      expect(driver.publish()).toBe(true)
      const chain = queue.pop()!
      const out = bytes(0)
      chain.copyOut(0, out)
      expect(out[0]).toBe(round)
      queue.push(chain, 0)
      queue.flush()
      queue.enableNotification()
      expect(driver.reap()).toHaveLength(1)
    }
    expect(driver.usedIndex).toBe(7)
  })
})

describe("notifications to the device", () => {
  for (const eventIdx of [false, true]) {
    it(`come when enabled and not when disabled, EVENT_IDX ${eventIdx}`, () => {
      const { driver, queue } = setup({ eventIdx })
      driver.add({ writable: [1] })
      expect(driver.publish()).toBe(true)
      queue.disableNotification()
      queue.pop()
      driver.add({ writable: [1] })
      expect(driver.publish()).toBe(false)
      expect(queue.enableNotification()).toBe(true)
      queue.pop()
      expect(queue.enableNotification()).toBe(false)
      driver.add({ writable: [1] })
      expect(driver.publish()).toBe(true)
    })
  }
})

describe("interrupts to the driver", () => {
  function complete({ driver, queue }: ReturnType<typeof setup>, count: number): void {
    for (let i = 0; i < count; i++) driver.add({ writable: [1] })
    driver.publish()
    for (let i = 0; i < count; i++) queue.push(queue.pop()!, 1)
    queue.flush()
  }

  it("one a flush, however many chains", () => {
    const test = setup()
    complete(test, 3)
    expect(test.interrupts()).toBe(1)
    test.queue.flush()
    expect(test.interrupts()).toBe(1)
    expect(test.queue.counters).toMatchObject({ chains: 3, interrupts: 1, interruptsSuppressed: 0 })
  })

  it("none while the driver set NO_INTERRUPT", () => {
    const test = setup()
    test.driver.disableInterrupts()
    complete(test, 1)
    expect(test.interrupts()).toBe(0)
    expect(test.queue.counters.interruptsSuppressed).toBe(1)
    expect(test.driver.enableInterrupts()).toBe(true)
    test.driver.reap()
    complete(test, 1)
    expect(test.interrupts()).toBe(1)
  })

  it("with EVENT_IDX only when used_event is passed", () => {
    const test = setup({ eventIdx: true })
    test.driver.delayInterrupts(3)
    complete(test, 2)
    expect(test.interrupts()).toBe(0)
    complete(test, 2)
    expect(test.interrupts()).toBe(1)
    complete(test, 1)
    expect(test.interrupts()).toBe(1)
  })

  it("with EVENT_IDX over the end of the indexes", () => {
    const test = setup({ eventIdx: true, startIndex: 65535 })
    test.driver.delayInterrupts(2)
    complete(test, 1)
    expect(test.interrupts()).toBe(0)
    complete(test, 1)
    expect(test.interrupts()).toBe(1)
  })
})

describe("drainQueue", () => {
  it("takes all, publishes once and asks for notifications", () => {
    const { driver, queue, interrupts } = setup()
    for (let i = 0; i < 5; i++) driver.add({ writable: [1] })
    driver.publish()
    const result = drainQueue(queue, (chain) => queue.push(chain, 1))
    expect([result, driver.reap().length, interrupts()]).toEqual(["empty", 5, 1])
    driver.add({ writable: [1] })
    expect(driver.publish()).toBe(true)
  })

  it("sees what is offered while it drains", () => {
    const { driver, queue } = setup()
    driver.add({ writable: [1] })
    driver.publish()
    let late = true
    const enable = queue.enableNotification.bind(queue)
    queue.enableNotification = () => {
      if (late) {
        late = false
        driver.add({ writable: [1] })
        expect(driver.publish()).toBe(false)
      }
      return enable()
    }
    let taken = 0
    const result = drainQueue(queue, (chain) => {
      taken++
      queue.push(chain, 0)
    })
    expect([result, taken]).toEqual(["empty", 2])
  })

  it("gives the chain back and stays silent when the handler stops it", () => {
    const { driver, queue } = setup()
    driver.add({ writable: [1] })
    driver.publish()
    expect(drainQueue(queue, () => false)).toBe("stopped")
    expect(queue.inFlight).toBe(0)
    driver.add({ writable: [1] })
    expect(driver.publish()).toBe(false)
    expect(drainQueue(queue, (chain) => queue.push(chain, 0))).toBe("empty")
    expect(driver.reap()).toHaveLength(2)
  })

  it("bad-input #16: a driver that refills while the device drains is left at the limit", () => {
    const { driver, queue } = setup({ size: 4 })
    driver.add({ writable: [1] })
    driver.publish()
    let taken = 0
    const result = drainQueue(queue, (chain) => {
      taken++
      queue.push(chain, 0)
      queue.flush()
      driver.reap()
      driver.add({ writable: [1] })
      driver.publish()
    })
    expect([result, taken]).toEqual(["limit", 4])
  })
})

describe("state", () => {
  it("is plain data, and a new queue goes on from it with the chains in flight", () => {
    const { driver, queue, memory } = setup()
    const sent = [1, 2, 3, 4].map((value) => driver.add({ readable: [bytes(value)], writable: [1] }))
    driver.publish()
    const [a, , c] = [queue.pop()!, queue.pop()!, queue.pop()!]
    expect(c.head).toBe(sent[2]!.head)
    queue.push(a, 1)
    const saved = JSON.parse(JSON.stringify(queue.state())) as unknown

    const other = deviceSide(driver, copyOf(memory))
    other.queue.restore(saved)
    expect(other.queue.enableNotification()).toBe(true)
    const heads: number[] = []
    for (let chain = other.queue.pop(); chain !== undefined; chain = other.queue.pop()) heads.push(chain.head)
    expect(heads).toEqual(sent.slice(1).map((chain) => chain.head))
    expect(driver.reap()).toEqual([sent[0]])
  })

  it("keeps the order of redelivered chains over unpop and a second save", () => {
    const first = setup()
    const heads = [1, 2, 3].map(() => first.driver.add({ writable: [1] }).head)
    first.driver.publish()
    while (first.queue.pop() !== undefined);
    const { queue } = deviceSide(first.driver, first.memory)
    queue.restore(first.queue.state())
    queue.unpop(queue.pop()!)
    queue.pop()
    expect(queue.state()).toMatchObject({ inFlight: heads })
  })

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
    first.driver.add({ writable: [1] })
    first.driver.publish()
    expect(queue.pop()).toBeDefined()

    const other = deviceSide(first.driver, first.memory)
    other.queue.restore({ ...(queue.state() as object), inFlight: [1, 0] })
    first.driver.offerHead(0)
    first.driver.publish()
    expect(other.queue.pop()!.head).toBe(1)
    other.queue.unpop(other.queue.pop()!)
    other.queue.pop()
    expect(other.queue.pop()).toBeUndefined()
    expect([broken, other.broken]).toEqual([[], ["head 0 was made available twice"]])
  })

  it("is taken back by a new queue only", () => {
    const { driver, queue } = setup()
    driver.add({ writable: [1] })
    driver.publish()
    queue.pop()
    expect(() => queue.restore(queue.state())).toThrow(StateError)
  })

  it("bad-input #31: refuses a state that does not fit, and changes nothing", () => {
    const { driver, queue, memory } = setup()
    driver.add({ writable: [1] })
    driver.publish()
    queue.push(queue.pop()!, 0)
    const good = queue.state() as Record<string, unknown>
    const wrong: unknown[] = [
      undefined,
      null,
      3,
      {},
      { ...good, version: 2 },
      { ...good, ring: "packed" },
      { ...good, size: 16 },
      { ...good, used: 0 },
      { ...good, nextAvail: 65536 },
      { ...good, nextUsed: -1 },
      { ...good, nextUsed: 0.5 },
      { ...good, broken: 1 },
      { ...good, inFlight: "0" },
      { ...good, inFlight: [8] },
      { ...good, inFlight: [1, 1] },
      { ...good, inFlight: new Array(9).fill(0) },
    ]
    const other = deviceSide(driver, memory)
    const untouched = other.queue.state()
    for (const state of wrong) expect(() => other.queue.restore(state)).toThrow(RestoreError)
    expect(other.queue.state()).toEqual(untouched)
    other.queue.restore(good)
    expect(other.queue.state()).toEqual(good)
  })
})

describe("dirty tracking", () => {
  it("hears of every byte that the queue writes", () => {
    const { driver, queue, memory } = setup({ size: 2, eventIdx: true })
    for (let round = 0; round < 5; round++) {
      driver.add({ writable: [1] })
      driver.publish()
      const before = copyOf(memory)
      memory.clearWritten()
      queue.push(queue.pop()!, 1)
      queue.flush()
      queue.enableNotification()
      for (let address = 0; address < 8192; address++) {
        if (before.readUint8(address) === memory.readUint8(address)) continue
        const marked = memory.written.some((range) => {
          return address >= range.address && address < range.address + range.length
        })
        expect(marked, `address ${address}`).toBe(true)
      }
      driver.reap()
    }
  })
})

function copyOf(memory: TestMemory): TestMemory {
  const copy = new TestMemory({ regions: [{ guestAddress: 0, size: RAM }] })
  const content = new Uint8Array(RAM)
  memory.read(0, content)
  copy.write(0, content)
  return copy
}
