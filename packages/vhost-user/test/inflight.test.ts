import { closeSync } from "node:fs"
import { memfdCreate } from "@virtkit/native"
import { EchoDevice } from "@virtkit/testkit"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { inflightBytes, inflightQueue } from "../src/inflight.js"
import { connect, serving, text, until } from "./fixture.js"
import { type FrontEnd, inflight, REQ, u64 } from "./front-end.js"

const layout = { numQueues: 2, queueSize: 8 }
const fresh = () => new Uint8Array(inflightBytes(layout))

describe("what is in flight", () => {
  it("lies where the document says", () => {
    expect(inflightBytes(layout)).toBe(2 * 192)
    const memory = fresh()
    const queue = inflightQueue(memory, layout, 1)!
    expect(queue.begin(77)).toEqual([])
    queue.took(3)
    queue.took(5)
    const view = new DataView(memory.buffer, 192)
    expect(view.getUint16(8, true)).toBe(1)
    expect(view.getUint16(10, true)).toBe(8)
    expect(view.getUint16(14, true)).toBe(77)
    expect([view.getUint8(16 + 16 * 3), view.getUint8(16 + 16 * 5), view.getUint8(16)]).toEqual([1, 1, 0])
    expect(view.getBigUint64(16 + 16 * 3 + 8, true)).toBeLessThan(view.getBigUint64(16 + 16 * 5 + 8, true))
    queue.gives(5)
    expect(view.getUint16(12, true)).toBe(5)
    expect(view.getUint8(16 + 16 * 5)).toBe(1)
    queue.gave(78)
    expect(view.getUint8(16 + 16 * 5)).toBe(0)
    expect(view.getUint16(14, true)).toBe(78)
    expect(memory.subarray(0, 192).every((byte) => byte === 0)).toBe(true)
    expect(inflightQueue(memory, layout, 2)).toBeUndefined()
  })

  it("is found again, in order, wherever the process was killed", () => {
    const step = fc.oneof(
      { weight: 4, arbitrary: fc.constant("take" as const) },
      { weight: 3, arbitrary: fc.record({ give: fc.nat(7) }) },
      { weight: 2, arbitrary: fc.constant("show" as const) },
      { weight: 1, arbitrary: fc.constant("kill" as const) },
      { weight: 1, arbitrary: fc.constant("kill after showing" as const) },
    )
    fc.assert(
      fc.property(fc.nat(0xffff), fc.array(step, { maxLength: 60 }), (start, steps) => {
        const memory = fresh()
        let usedIndex = start
        let queue = inflightQueue(memory, layout, 0)!
        queue.begin(usedIndex)
        const taken: number[] = []
        let given: number[] = []
        const free = [0, 1, 2, 3, 4, 5, 6, 7]
        const show = () => {
          usedIndex = (usedIndex + given.length) & 0xffff
          free.push(...given)
          given = []
        }
        const kill = () => {
          queue = inflightQueue(memory, layout, 0)!
          // What was given and not shown is to be done again.
          const expected = order.filter((head) => taken.includes(head) || given.includes(head))
          expect(queue.begin(usedIndex)).toEqual(expected)
          taken.splice(0, taken.length, ...expected)
          given = []
        }
        let order: number[] = []
        for (const what of steps) {
          if (what === "take") {
            const head = free.shift()
            if (head === undefined) continue
            queue.took(head)
            order = [...order.filter((other) => other !== head), head]
            taken.push(head)
          } else if (what === "show") {
            show()
            queue.gave(usedIndex)
          } else if (what === "kill") kill()
          else if (what === "kill after showing") {
            show()
            kill()
          } else {
            const [head] = taken.splice(what.give % Math.max(1, taken.length), 1)
            if (head === undefined) continue
            queue.gives(head)
            given.push(head)
          }
        }
        kill()
      }),
      { numRuns: 300 },
    )
  })

  it("is bounded whatever the memory says", () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 192, maxLength: 192 }), fc.nat(0xffff), (bytes, usedIndex) => {
        bytes[8] = 1
        bytes[9] = 0
        const queue = inflightQueue(bytes, { numQueues: 1, queueSize: 8 }, 0)!
        const heads = queue.begin(usedIndex)
        expect(heads.length).toBeLessThanOrEqual(8)
        expect(new Set(heads).size).toBe(heads.length)
        expect(heads.every((head) => head < 8)).toBe(true)
        queue.took(65535)
        queue.gives(65535)
        for (let i = 0; i < 20; i++) queue.gives(7)
        queue.gave(0)
      }),
    )
  })
})

/** Gets in-flight memory, as a front end does the first time, and gives it to the device. */
async function getInflight(
  front: FrontEnd,
  numQueues = 2,
  queueSize = 16,
): Promise<{ fd: number; size: number }> {
  const { payload, fds } = await front.ask(REQ.GET_INFLIGHT_FD, inflight(0, 0, numQueues, queueSize))
  const size = Number(payload.getBigUint64(0, true))
  expect([payload.getUint16(16, true), payload.getUint16(18, true), fds.length]).toEqual([
    numQueues,
    queueSize,
    1,
  ])
  return { fd: fds[0]!, size }
}

const holding = () => {
  const device = new EchoDevice({ queueReset: true })
  device.holds = true
  return device
}

describe("reconnection", () => {
  it("takes up what was in flight, in order and once, then what came meanwhile", async () => {
    const first = holding()
    const one = serving(first)
    const before = connect(one.path)
    await before.begin(1n)
    const { fd, size } = await getInflight(before)
    before.send(REQ.SET_INFLIGHT_FD, inflight(size, 0, 2, 16), [fd])
    const ring = before.startRing(0)
    const names = ["a", "b", "c", "d", "e"]
    const chains = names.map((name) => ring.add({ readable: [text(name)], writable: [1] }))
    before.kick(0)
    await until(() => first.held.length === 5)
    // The second and the fourth are done, the fourth only in part: it was not shown to the driver any more.
    const { queue } = first.held[0]!
    queue.push(first.held[1]!.chain, 1)
    queue.flush()
    queue.push(first.held[3]!.chain, 1)
    expect(ring.reap()).toHaveLength(1)
    await one.server.close()

    const second = holding()
    const two = serving(second)
    const resumed: number[][] = []
    two.server.on("resumed", (...what) => resumed.push(what))
    const after = connect(two.path, before)
    await after.begin(1n)
    after.send(REQ.SET_INFLIGHT_FD, inflight(size, 0, 2, 16), [fd])
    const late = ring.add({ readable: [text("f")], writable: [1] })
    ring.publish()
    after.startRing(0, 16, ring.publishedUsedIndex)
    await until(() => second.held.length === 5)
    const order = second.held.map(({ chain }) => chain.head)
    expect(order).toEqual([chains[0]!, chains[2]!, chains[3]!, chains[4]!, late].map(({ head }) => head))
    expect(resumed).toEqual([[0, 4]])
    // A lost interrupt is made up for.
    expect(before.calls[0]!.clear()).toBe(true)
    second.release()
    await until(() => ring.reap().length === 0 && ring.inFlight === 0)
    expect([...chains, late].map(({ written }) => written)).toEqual([1, 1, 1, 1, 1, 1])
    expect(ring.publishedUsedIndex).toBe(6)
    closeSync(fd)
  })

  it("leaves nothing in flight at an orderly stop", async () => {
    const device = holding()
    const front = connect(serving(device).path)
    await front.begin(1n)
    const { fd, size } = await getInflight(front)
    front.send(REQ.SET_INFLIGHT_FD, inflight(size, 0, 2, 16), [fd])
    const ring = front.startRing(0)
    for (const name of ["a", "b"]) ring.add({ readable: [text(name)], writable: [1] })
    front.kick(0)
    await until(() => device.held.length === 2)
    expect(await front.stopRing(0)).toBe(0)
    device.held.length = 0
    front.startRing(0)
    await until(() => device.held.length === 2)
    device.release()
    expect(ring.reap()).toHaveLength(2)
    closeSync(fd)
  })

  it("gives a chain back with length 0 whose descriptors changed for the worse meanwhile", async () => {
    const first = holding()
    const one = serving(first)
    const before = connect(one.path)
    await before.begin(1n)
    const { fd, size } = await getInflight(before)
    before.send(REQ.SET_INFLIGHT_FD, inflight(size, 0, 2, 16), [fd])
    const ring = before.startRing(0)
    const chain = ring.add({ readable: [text("x")], writable: [1] })
    before.kick(0)
    await until(() => first.held.length === 1)
    await one.server.close()
    ring.writeDescriptor(chain.head, { address: 0x7000_0000_0000, length: 8, flags: 0 })

    const after = connect(serving(new EchoDevice({ queueReset: true })).path, before)
    await after.begin(1n)
    after.send(REQ.SET_INFLIGHT_FD, inflight(size, 0, 2, 16), [fd])
    after.startRing(0, 16, 0)
    await until(() => ring.publishedUsedIndex === 1)
    expect(ring.usedElement(0)).toEqual({ id: chain.head, length: 0 })
    closeSync(fd)
  })

  it("turns away memory that is too small or says what cannot be", async () => {
    const { path, reasons } = serving(holding())
    const small = connect(path)
    await small.begin(1n)
    const fd = memfdCreate("inflight", 4096)
    small.send(REQ.SET_INFLIGHT_FD, inflight(100, 0, 2, 16), [fd])
    await until(() => reasons.length === 1)
    expect(reasons[0]).toMatch(/SET_INFLIGHT_FD: 100 bytes, 640 are needed/)
    small.close()

    // Sixteen in flight on a ring of eight.
    const other = connect(path)
    await other.begin(1n)
    const wide = await getInflight(other, 1, 16)
    const { MemoryMapping } = await import("@virtkit/native")
    const mapping = new MemoryMapping({ size: 4096, fd: wide.fd })
    const bytes = new Uint8Array(mapping.buffer, mapping.byteOffset, 4096)
    bytes[8] = 1
    for (let head = 0; head < 16; head++) bytes[16 + 16 * head] = 1
    other.send(REQ.SET_INFLIGHT_FD, inflight(wide.size, 0, 1, 16), [wide.fd])
    const ring = other.startRing(0, 8)
    await other.acknowledged(REQ.SET_OWNER)
    other.send(REQ.SET_VRING_CALL, u64(0x100))
    // Eight heads of the ring, none of which the driver offered: given back, and no more than the ring has.
    expect(await other.stopRing(0)).toBe(0)
    expect(ring.publishedUsedIndex).toBe(0)
    mapping.release()
    for (const one of [fd, wide.fd]) closeSync(one)
  })
})
