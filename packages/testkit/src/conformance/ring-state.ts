import type { Chain } from "@virtkit/interface"
import { TestMemory } from "../memory.js"
import type { TestRunner } from "./fixture.js"
import { isRestoreError, NOT_STATES } from "./plain-state.js"
import type { RingKind } from "./raw-ring.js"
import { type QueueBench, RAM } from "./ring-bench.js"
import type { MakeQueueBench } from "./ring-layouts.js"

/** Wrong states of an implementation's own kind, made of a good one that has two chains in flight. */
export type WrongStates = (
  good: unknown,
  options: { packed: boolean; inOrder: boolean },
) => readonly unknown[]

/** What outlives the device side: 2.6 and 2.8.6 say what a driver may rely on. */
export function stateTests(
  { it, expect }: TestRunner,
  kind: RingKind,
  make: MakeQueueBench,
  wrongStates: WrongStates,
): void {
  const packed = kind === "packed"
  const one = (...values: number[]): Uint8Array => Uint8Array.from(values)

  it("2.7.8, 2.8.9: is plain data, and a new queue goes on from it with the chains in flight", () => {
    const { driver, queue, memory, another, take } = make()
    const sent = [1, 2, 3, 4].map((value) => driver.add({ readable: [one(value)], writable: [1] }))
    driver.publish()
    const [a, b, c] = [queue.pop(), queue.pop(), queue.pop()] as [Chain, Chain, Chain]
    queue.push(a, 1)
    // On a packed ring this is written over the descriptors of `b`, still in flight.
    queue.push(c, 1)
    const saved = JSON.parse(JSON.stringify(queue.state())) as unknown
    const other = another(copyOf(memory)).queue
    other.restore(saved)
    expect([driver.reap(), other.enableNotification()]).toEqual([[sent[0], sent[2]], true])
    const again = other.pop()
    const out = one(0)
    expect([again?.head, again?.count, again?.readable, again?.copyOut(0, out), out[0]]).toEqual([
      b.head,
      2,
      1,
      1,
      2,
    ])
    expect([other.pop()?.head, other.pop()]).toEqual([sent[3]?.head, undefined])
    expect(take().length).toBe(1)
  })

  it("2.7.8, 2.8.9: goes on in the same memory to the end, on a full ring that wraps", () => {
    for (const inOrder of [false, true]) {
      for (const start of packed ? [0x8003, 0x0003] : [65535]) {
        const { driver, queue, another } = make({ size: 4, inOrder, start })
        const sent = [1, 2, 3, 4].map(() => driver.add({ writable: [4] }))
        driver.publish()
        const chains = sent.map(() => queue.pop()!)
        queue.push(chains[2]!, 4)
        const saved = queue.state()
        const next = another().queue
        next.restore(structuredClone(saved))
        expect(next.state()).toEqual(saved)
        for (const index of [0, 1, 3]) {
          const chain = next.pop()!
          expect(chain.head).toBe(sent[index]?.head)
          next.push(chain, 3)
        }
        expect(next.pop()).toBe(undefined)
        next.flush()
        const order = inOrder ? [0, 1, 2, 3] : [2, 0, 1, 3]
        expect(driver.reap()).toEqual(order.map((index) => sent[index]))
        expect(sent.map((chain) => chain.written)).toEqual([3, 3, 4, 3])
        for (let round = 0; round < 9; round++) {
          driver.add({ writable: [1] })
          driver.publish()
          next.push(next.pop()!, 1)
          next.flush()
          expect(driver.reap().length).toBe(1)
        }
      }
    }
  })

  it("2.7.6, 2.8.6: chains in flight come again in their order, over a second save too", () => {
    const first = make()
    const heads = [1, 2, 3, 4, 5].map(() => first.driver.add({ writable: [1] }).head)
    first.driver.publish()
    const chains = first.take()
    // Chain objects are used again: their order is not that in which they were made.
    first.give([chains[1]!, chains[3]!], 1)
    first.driver.reap()
    const late = [1, 2].map(() => first.driver.add({ writable: [1] }).head)
    first.driver.publish()
    first.take()
    const expected = [heads[0], heads[2], heads[4], ...late]
    const second = first.another().queue
    second.restore(first.queue.state())
    second.unpop(second.pop()!)
    second.pop()
    const third = first.another().queue
    third.restore(second.state())
    expect(expected.map(() => third.pop()?.head)).toEqual(expected)
    expect(third.pop()).toBe(undefined)
  })

  it("2.7.6, 2.8.6: a chain that waits to be taken again is known to be there", () => {
    const first = make()
    const { head } = first.driver.add({ writable: [1] })
    first.driver.publish()
    first.queue.unpop(first.queue.pop()!)
    const { queue } = first.another()
    queue.restore(first.queue.state())
    expect(queue.enableNotification()).toBe(true)
    expect([queue.pop()?.head, queue.pop()]).toEqual([head, undefined])
    expect(queue.enableNotification()).toBe(false)
  })

  it("bad-input #17 (2.7.6, 2.8.1): chains that came with a state take their room until they are given back", () => {
    const first = make({ size: 2 })
    for (let slot = 0; slot < 2; slot++) first.ring.offer([{ address: 0x1000, length: 1, flags: 2 }])
    first.ring.publish()
    first.take()
    const second = first.another()
    second.queue.restore(first.queue.state())
    const chains = [second.queue.pop()!, second.queue.pop()!]
    first.ring.offer([{ address: 0x1000, length: 1, flags: 2 }])
    first.ring.publish()
    expect([second.queue.pop(), second.broken()]).toEqual([undefined, true])
    // What it had can still be given back.
    for (const chain of chains) second.queue.push(chain, 1)
    second.queue.flush()
    expect(first.ring.takeUsed().length).toBe(2)
  })

  it("2.1.2: a broken ring stays broken", () => {
    const first = make()
    for (let slot = 0; slot < 8; slot++) first.ring.offer([{ address: 0x1000, length: 1, flags: 2 }])
    first.ring.publish()
    first.take()
    first.ring.offer([{ address: 0x1000, length: 1, flags: 2 }])
    first.ring.publish()
    first.take()
    expect([first.broken, first.queue.broken]).toEqual([true, true])
    const second = first.another()
    second.queue.restore(structuredClone(first.queue.state()))
    expect(second.queue.broken).toBe(true)
    expect([second.queue.pop(), second.queue.enableNotification()]).toEqual([undefined, false])
  })

  it("bad-input #31 (2.6): a state that does not fit is refused and changes nothing", () => {
    for (const inOrder of [false, true]) {
      const first = twoInFlight(make({ inOrder }))
      const good = first.queue.state()
      const { queue } = first.another()
      const untouched = queue.state()
      const wrong = [...NOT_STATES, ...wrongStates(good, { packed, inOrder })]
      for (const [index, state] of wrong.entries()) {
        expect([index, isRestoreError(() => queue.restore(state))]).toEqual([index, true])
      }
      expect(queue.state()).toEqual(untouched)
      queue.restore(good)
      expect(queue.state()).toEqual(good)
    }
  })

  it("bad-input #31 (2.6): a state of another ring is refused", () => {
    const state = twoInFlight(make()).queue.state()
    const others = [make({ size: 4 }), make({ inOrder: true })]
    const elsewhere = make()
    elsewhere.allocator.allocate(64)
    for (const { queue } of others) expect(isRestoreError(() => queue.restore(state))).toBe(true)
  })

  it("2.4: a queue in use takes no state", () => {
    const { driver, queue } = make()
    driver.add({ writable: [1] })
    driver.publish()
    queue.pop()
    const state = queue.state()
    let refused = false
    try {
      queue.restore(state)
    } catch {
      refused = true
    }
    expect(refused).toBe(true)
  })
}

/** 2.4 and 2.6.1: after a reset. */
export function closeTests({ it, expect }: TestRunner, make: MakeQueueBench): void {
  it("bad-input #27 (2.4, 2.6.1): after a reset late calls of the device touch nothing", () => {
    for (const inOrder of [false, true]) {
      const bench = make({ eventIdx: true, inOrder })
      const { driver, queue, memory } = bench
      for (let index = 0; index < 4; index++) driver.add({ writable: [4] })
      driver.publish()
      const chain = queue.pop()!
      queue.push(queue.pop()!, 4)
      queue.unpop(queue.pop()!)
      queue.close()
      memory.clearWritten()
      const before = copyOf(memory)
      queue.push(chain, 4)
      queue.unpop(chain)
      queue.flush()
      queue.disableNotification()
      expect([queue.enableNotification(), queue.pop()]).toEqual([false, undefined])
      queue.close()
      expect([memory.written, bench.interrupts]).toEqual([[], 0])
      expect(same(before, memory)).toBe(true)
    }
  })
}

/** Not the specification's: a VMM that migrates has to know what was written. */
export function dirtyTests({ it, expect }: TestRunner, make: MakeQueueBench): void {
  it("2.7.8, 2.8.9: every byte that the device writes is told to dirty tracking", () => {
    for (const inOrder of [false, true]) {
      const bench = make({ size: 4, eventIdx: true, inOrder })
      const { driver, queue, memory } = bench
      for (let round = 0; round < 9; round++) {
        for (let index = 0; index <= round % 3; index++) driver.add({ writable: [1] })
        driver.publish()
        const before = copyOf(memory)
        memory.clearWritten()
        queue.disableNotification()
        bench.give(bench.take(), 1)
        const told = new Set<number>()
        for (const { address, length } of memory.written) {
          for (let offset = 0; offset < length; offset++) told.add(address + offset)
        }
        const missing: number[] = []
        for (let address = 0; address < 8192; address++) {
          if (before.readUint8(address) === memory.readUint8(address)) continue
          if (!told.has(address)) missing.push(address)
        }
        expect(missing).toEqual([])
        driver.reap()
      }
    }
  })
}

function twoInFlight(bench: QueueBench): QueueBench {
  const { driver, queue } = bench
  for (let index = 0; index < 4; index++) driver.add({ readable: [Uint8Array.of(1)], writable: [1] })
  driver.publish()
  queue.push(queue.pop()!, 0)
  queue.pop()
  queue.pop()
  return bench
}

/** The same bytes in other memory. */
function copyOf(memory: TestMemory): TestMemory {
  const copy = new TestMemory({ regions: [{ guestAddress: 0, size: RAM }] })
  const content = new Uint8Array(RAM)
  memory.read(0, content)
  copy.write(0, content)
  return copy
}

function same(one: TestMemory, other: TestMemory): boolean {
  for (let address = 0; address < RAM; address += 8) {
    if (one.readUint32(address) !== other.readUint32(address)) return false
    if (one.readUint32(address + 4) !== other.readUint32(address + 4)) return false
  }
  return true
}
