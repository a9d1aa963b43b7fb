import { ringFeatures } from "@virtkit/virtqueue"
import { describe, expect, it } from "vitest"
import { bytes, LargeMemory, RINGS, setup, setupPacked, setupRing } from "./setup.js"

describe.each(RINGS)("VIRTIO_F_IN_ORDER on a $ring ring", ({ packed }) => {
  it("holds back what the device did before its turn", () => {
    const { driver, queue, interrupts } = setupRing({ packed, inOrder: true })
    const sent = [0, 1, 2].map(() => driver.add({ writable: [2] }))
    driver.publish()
    const [a, b, c] = [queue.pop()!, queue.pop()!, queue.pop()!]
    queue.push(c, 2)
    queue.push(b, 1)
    queue.flush()
    expect([driver.reap(), interrupts(), queue.inFlight]).toEqual([[], 0, 1])
    queue.push(a, 0)
    queue.flush()
    expect([driver.reap(), interrupts()]).toEqual([sent, 1])
    expect(sent.map((chain) => chain.written)).toEqual([0, 1, 2])
  })

  it("holds back malformed chains too", () => {
    const { driver, queue, memory } = setupRing({ packed, inOrder: true })
    const sent = [
      driver.add({ writable: [1] }),
      driver.add({ writable: [1, 1] }),
      driver.add({ writable: [1] }),
    ]
    // The second chain begins at the second descriptor of either ring.
    memory.writeUint32(driver.desc + 16 + 4, 0xffff_ffff)
    driver.publish()
    const [a, c] = [queue.pop()!, queue.pop()!]
    queue.push(c, 1)
    queue.flush()
    expect(driver.reap()).toEqual([])
    queue.push(a, 1)
    queue.flush()
    expect(driver.reap()).toEqual(sent)
    expect(sent.map((chain) => chain.written)).toEqual([1, 0, 1])
  })

  it("goes on for laps with batches of any size", () => {
    const { driver, queue } = setupRing({ packed, inOrder: true, size: 8, start: packed ? 0x0006 : 65530 })
    for (let round = 0; round < 40; round++) {
      const sent = Array.from({ length: 1 + (round % 4) }, (_, at) => {
        return driver.add({ readable: [bytes(at)], writable: [1 + (at % 3)] })
      })
      driver.publish()
      const chains = sent.map(() => queue.pop()!)
      for (const chain of chains.reverse()) queue.push(chain, round % 3)
      queue.flush()
      expect(driver.reap()).toEqual(sent)
      expect(sent.map(({ written }) => written)).toEqual(
        sent.map((_, at) => Math.min(round % 3, 1 + (at % 3))),
      )
    }
    expect([driver.inFlight, driver.freeDescriptors]).toEqual([0, 8])
  })
})

describe("batches with VIRTIO_F_IN_ORDER", () => {
  it("split: one element at the place of the first chain that was filled, with the head of the last", () => {
    const { driver, queue } = setup({ inOrder: true })
    const heads = [4, 4, 4, 4, 4].map((bytes) => driver.add({ writable: [bytes] }).head)
    driver.publish()
    for (const written of [4, 4, 3, 4, 0]) queue.push(queue.pop()!, written)
    queue.flush()
    expect(driver.publishedUsedIndex).toBe(5)
    // Filled: 0, 1, 3. So 0 to 2 are one batch, which ends with a chain that was not, and 3 to 4 another.
    expect(driver.usedElement(0)).toEqual({ id: heads[2], length: 3 })
    expect(driver.usedElement(3)).toEqual({ id: heads[4], length: 0 })
    for (const skipped of [1, 2, 4]) expect(driver.usedElement(skipped)).toEqual({ id: 0, length: 0 })
  })

  it("split: none goes on over a flush", () => {
    const { driver, queue } = setup({ inOrder: true })
    const heads = [4, 4].map((bytes) => driver.add({ writable: [bytes] }).head)
    driver.publish()
    for (const head of heads) {
      const chain = queue.pop()!
      expect(chain.head).toBe(head)
      queue.push(chain, 4)
      queue.flush()
    }
    expect([driver.usedElement(0).id, driver.usedElement(1).id]).toEqual(heads)
  })

  it("packed: one descriptor at the place of the first chain that was filled, with the id of the last", () => {
    const { driver, queue } = setupPacked({ inOrder: true, size: 7, start: 0x8005 })
    const ids = [2, 1, 1, 1, 1].map(
      (count) => driver.add({ writable: new Array<number>(count).fill(4) }).head,
    )
    driver.publish()
    const untouched = [6, 0, 1, 3].map((slot) => driver.descriptor(slot))
    for (const written of [8, 4, 1, 4, 0]) queue.push(queue.pop()!, written)
    expect(driver.descriptor(5).flags & 0x8000).toBe(0)
    queue.flush()
    // Slots 5 and 6, then on the next lap 0, 1, 2, 3.
    expect(driver.descriptor(5)).toEqual({ id: ids[2], length: 1, flags: 0x8082 })
    expect(driver.descriptor(2)).toEqual({ id: ids[4], length: 0, flags: 0x0000 })
    expect([6, 0, 1, 3].map((slot) => driver.descriptor(slot))).toEqual(untouched)
    expect(driver.reap().map((chain) => chain.written)).toEqual([8, 4, 1, 4, 0])
  })

  it("packed: none goes on over a flush", () => {
    const { driver, queue } = setupPacked({ inOrder: true })
    const ids = [4, 4].map((bytes) => driver.add({ writable: [bytes] }).head)
    driver.publish()
    for (const _ of ids) {
      queue.push(queue.pop()!, 4)
      queue.flush()
    }
    expect([driver.descriptor(0).id, driver.descriptor(1).id]).toEqual(ids)
  })

  it("a chain with room for 2^32 bytes is never left out: its length says less", () => {
    const { driver, queue } = setupPacked({ inOrder: true, memory: new LargeMemory(3 * 2 ** 30) })
    const half = { address: 0, length: 2 ** 31, flags: 2 }
    driver.offer([
      { ...half, flags: 3 },
      { ...half, id: 1 },
      { ...half, id: 2 },
    ])
    driver.publish()
    queue.push(queue.pop()!, 2 ** 32)
    queue.push(queue.pop()!, 2 ** 31)
    queue.flush()
    expect([driver.descriptor(0).id, driver.descriptor(2).id]).toEqual([1, 2])
  })
})

it("features decide what a ring is", () => {
  const none = { packed: false, inOrder: false, eventIdx: false, indirect: false }
  expect(ringFeatures(0x1_0000_0000n)).toEqual(none)
  expect(ringFeatures(1n << 28n)).toEqual({ ...none, indirect: true })
  expect(ringFeatures(1n << 29n)).toEqual({ ...none, eventIdx: true })
  expect(ringFeatures(1n << 34n)).toEqual({ ...none, packed: true })
  expect(ringFeatures(1n << 35n)).toEqual({ ...none, inOrder: true })
})
