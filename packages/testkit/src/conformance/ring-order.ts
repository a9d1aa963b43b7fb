import type { Chain } from "@virtkit/interface"
import type { PackedRingDriver } from "../packed-ring.js"
import type { SplitRingDriver } from "../split-ring.js"
import type { TestRunner } from "./fixture.js"
import type { RingKind } from "./raw-ring.js"
import { LargeMemory, type QueueBench } from "./ring-bench.js"
import { BAD, GOOD } from "./ring-checks.js"
import type { MakeQueueBench } from "./ring-layouts.js"

/** 2.7.11, 2.8.22 and 6: VIRTIO_F_IN_ORDER. */
export function orderTests({ it, expect }: TestRunner, kind: RingKind, bench: MakeQueueBench): void {
  const make: MakeQueueBench = (options) => bench({ inOrder: true, ...options })
  const send = ({ driver, take }: QueueBench, rooms: readonly number[]) => {
    const sent = rooms.map((room) => driver.add({ writable: [room] }))
    driver.publish()
    return { sent, chains: take() }
  }

  it("2.7.11, 2.8.22: what the device did before its turn is held back", () => {
    const test = make()
    const { sent, chains } = send(test, [2, 2, 2])
    const [a, b, c] = chains as [Chain, Chain, Chain]
    test.queue.push(c, 2)
    test.queue.push(b, 1)
    test.queue.flush()
    expect([test.driver.reap(), test.interrupts]).toEqual([[], 0])
    test.give([a], 0)
    expect([test.driver.reap(), test.interrupts]).toEqual([sent, 1])
    expect(sent.map((chain) => chain.written)).toEqual([0, 1, 2])
  })

  it("bad-input #20 (2.7.11, 2.8.22): malformed chains are held back too", () => {
    const test = make()
    const ids = [[GOOD], [BAD, BAD], [GOOD]].map((chain) => test.ring.offer(chain))
    test.ring.publish()
    const [a, c] = test.take() as [Chain, Chain]
    test.give([c], 1)
    expect(test.ring.takeUsed()).toEqual([])
    test.give([a], 1)
    // The last of the first batch is the malformed chain: not filled, so not left out.
    const used = usedElements(test, kind === "split" ? [0, 2] : [0, 3])
    expect(used).toEqual([
      { id: ids[1], length: 0 },
      { id: ids[2], length: 1 },
    ])
  })

  it("bad-input #20 (2.7.11, 2.8.22): a malformed chain without room is not left out either", () => {
    const test = make()
    const ids = [[BAD], [GOOD]].map((chain) => test.ring.offer(chain))
    test.ring.publish()
    test.give(test.take(), 1)
    expect(usedElements(test, [0, 1])).toEqual([
      { id: ids[0], length: 0 },
      { id: ids[1], length: 1 },
    ])
  })

  it("2.7.11, 2.8.22: chains that were filled are left out of a batch, others are not", () => {
    const test = make({ size: 8 })
    const { sent, chains } = send(test, [4, 4, 4, 4, 4])
    for (const [index, written] of [4, 4, 3, 4, 0].entries()) test.queue.push(chains[index]!, written)
    test.queue.flush()
    expect(test.interrupts).toBe(1)
    // 0 to 2 are one batch, which ends with a chain that was not filled, and 3 to 4 another.
    expect(usedElements(test, [0, 3])).toEqual([
      { id: sent[2]?.head, length: 3 },
      { id: sent[4]?.head, length: 0 },
    ])
    expect(test.driver.reap()).toEqual(sent)
    expect(sent.map(({ written }) => written)).toEqual([4, 4, 3, 4, 0])
  })

  it("2.7.8, 2.8.9: without IN_ORDER none is left out", () => {
    const test = bench({ inOrder: false })
    const { sent, chains } = send(test, [4, 4, 4])
    test.give(chains, 4)
    expect(usedElements(test, [0, 1, 2])).toEqual(sent.map(({ head }) => ({ id: head, length: 4 })))
  })

  it("2.7.11, 2.8.22: no batch goes on over a flush", () => {
    const test = make()
    const { sent, chains } = send(test, [4, 4, 4])
    for (const [index, chain] of chains.entries()) {
      test.give([chain], 4)
      expect([index, test.driver.reap()]).toEqual([index, [sent[index]]])
    }
    expect(usedElements(test, [0, 1, 2])).toEqual(sent.map(({ head }) => ({ id: head, length: 4 })))
  })

  it("bad-input #13 (2.7.11, 2.8.22): a chain with room for 2^32 bytes is never left out: its length says less", () => {
    const test = make({ memory: new LargeMemory(3 * 2 ** 30) })
    const half = { address: 0, length: 2 ** 31, flags: 2 }
    const ids = [test.ring.offer([half, half]), test.ring.offer([half])]
    test.ring.publish()
    const [first, second] = test.take() as [Chain, Chain]
    test.queue.push(first, 2 ** 32)
    test.queue.push(second, 2 ** 31)
    test.queue.flush()
    expect(usedElements(test, kind === "split" ? [0, 1] : [0, 2]).map(({ id }) => id)).toEqual(ids)
  })

  if (kind === "packed") {
    it("2.8.22: a batch over the end of the ring is written where it began, with the wrap counter of there", () => {
      const test = make({ size: 7, start: 0x8005 })
      const ids = [2, 1, 1, 1, 1].map((count) => {
        return test.driver.add({ writable: new Array<number>(count).fill(4) }).head
      })
      test.driver.publish()
      const ring = test.driver as PackedRingDriver
      const untouched = [6, 0, 1, 3].map((slot) => ring.descriptor(slot))
      const chains = test.take()
      for (const [index, written] of [8, 4, 1, 4, 0].entries()) test.queue.push(chains[index]!, written)
      expect(ring.descriptor(5).flags & 0x8000).toBe(0)
      test.queue.flush()
      // Slots 5 and 6, then on the next lap 0, 1, 2, 3.
      expect(ring.descriptor(5)).toEqual({ id: ids[2], length: 1, flags: 0x8082 })
      expect(ring.descriptor(2)).toEqual({ id: ids[4], length: 0, flags: 0x0000 })
      expect([6, 0, 1, 3].map((slot) => ring.descriptor(slot))).toEqual(untouched)
      expect(test.driver.reap().map((chain) => chain.written)).toEqual([8, 4, 1, 4, 0])
    })
  }
}

/** What the device wrote there, whatever it published. */
function usedElements(test: QueueBench, places: readonly number[]): { id: number; length: number }[] {
  return places.map((place) => {
    if (test.kind === "split") return (test.driver as SplitRingDriver).usedElement(place)
    const { id, length } = (test.driver as PackedRingDriver).descriptor(place)
    return { id, length }
  })
}
