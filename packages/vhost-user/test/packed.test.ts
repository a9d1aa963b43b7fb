import { closeSync } from "node:fs"
import type { Chain } from "@virtkit/interface"
import { EventFd } from "@virtkit/native"
import { EchoDevice, PackedRingDriver } from "@virtkit/testkit"
import type { ServeOptions } from "@virtkit/vhost-user"
import { describe, expect, it } from "vitest"
import type { RunningQueue } from "../src/ring-queue.js"
import { connect, keep, serving, text, until } from "./fixture.js"
import { concat, type FrontEnd, inflight, REQ, USER_OFFSET, u32, u64 } from "./front-end.js"

const PACKED = 1n << 34n
const IN_ORDER = 1n << 35n
const rings: ServeOptions["rings"] = { packed: true, inOrder: true }

function holding() {
  const device = new EchoDevice({ queueReset: true })
  device.holds = true
  return device
}

/** The readable bytes of a chain. */
function read(chain: Chain): string {
  const bytes = new Uint8Array(chain.readableBytes)
  chain.copyOut(0, bytes)
  return new TextDecoder().decode(bytes)
}

/** A packed ring in the memory of a front end. */
class PackedRing {
  readonly driver: PackedRingDriver
  readonly #front: FrontEnd
  readonly #kick = keep(new EventFd())
  readonly #call = keep(new EventFd())

  /** `driver`: of the same ring, over another connection. */
  constructor(front: FrontEnd, size: number, driver?: PackedRingDriver, inOrder = false) {
    this.#front = front
    const { memory, allocator } = front
    this.driver = driver ?? new PackedRingDriver({ memory, allocator, size, inOrder })
  }

  start(base: number): void {
    const { desc, avail, used, size } = this.driver
    const front = this.#front
    front.send(REQ.SET_VRING_NUM, u32(0, size))
    front.send(REQ.SET_VRING_BASE, u32(0, base))
    const addresses = u64(desc + USER_OFFSET, used + USER_OFFSET, avail + USER_OFFSET, 0)
    front.send(REQ.SET_VRING_ADDR, concat(u32(0, 0), addresses))
    front.send(REQ.SET_VRING_CALL, u64(0), [this.#call.fd])
    front.send(REQ.SET_VRING_KICK, u64(0), [this.#kick.fd])
    front.send(REQ.SET_VRING_ENABLE, u32(0, 1))
  }

  kick(): void {
    this.driver.publish()
    this.#kick.signal()
  }
}

describe("packed rings over vhost-user", () => {
  it("are offered when they are asked for", async () => {
    const features = async (options: ServeOptions["rings"]) => {
      const { path } = serving(new EchoDevice(), undefined, options)
      return (await connect(path).askU64(REQ.GET_FEATURES)) & (PACKED | IN_ORDER)
    }
    expect([await features(undefined), await features(rings)]).toEqual([0n, PACKED | IN_ORDER])
  })

  it("go on where they were stopped, for laps, with any size", async () => {
    const front = connect(serving(new EchoDevice({ queueReset: true }), undefined, rings).path)
    await front.begin(1n | PACKED)
    const ring = new PackedRing(front, 5)
    // DPDK's driver says only where chains are taken at the start.
    let base = 0x8000
    for (let lap = 0; lap < 6; lap++) {
      ring.start(base)
      const chains = ["one", "two"].map((word) => ring.driver.add({ readable: [text(word)], writable: [8] }))
      ring.kick()
      await until(() => ring.driver.reap().length === 0 && ring.driver.inFlight === 0)
      expect(chains.map(({ written }) => written)).toEqual([3, 3])
      base = await front.stopRing(0)
      expect([base & 0xffff, base >>> 16]).toEqual([ring.driver.usedPosition, ring.driver.usedPosition])
    }
  })

  it("stop when what the device has is what would be taken again, and take that again", async () => {
    const device = holding()
    const front = connect(serving(device, undefined, rings).path)
    await front.begin(1n | PACKED)
    const ring = new PackedRing(front, 8)
    ring.start(0x8000_8000)
    const chains = ["a", "b", "c"].map((word) => ring.driver.add({ readable: [text(word)], writable: [1] }))
    ring.kick()
    await until(() => device.held.length === 3)
    const [a, b] = device.held.splice(0)
    const { queue } = a!
    queue.push(b!.chain, 1)
    queue.flush()
    // What was written for the second lies over the first.
    const stopped = front.stopRing(0)
    await new Promise((resolve) => setImmediate(resolve))
    queue.push(a!.chain, 1)
    queue.flush()
    const base = await stopped
    expect(ring.driver.reap()).toHaveLength(2)
    expect(base & 0xffff).toBe(ring.driver.usedPosition)
    ring.start(base)
    await until(() => device.held.length === 1)
    expect(device.held[0]!.chain.head).toBe(chains[2]!.head)
    device.release()
    await until(() => ring.driver.reap().length === 1)
  })

  it("turns away a base outside of the ring, and memory that was made for split rings", async () => {
    const { path, reasons } = serving(new EchoDevice(), undefined, rings)
    const front = connect(path)
    await front.begin(1n | PACKED)
    new PackedRing(front, 8).start(0x0008_0008)
    await until(() => reasons.length === 1)
    expect(reasons[0]).toMatch(/queue 0: .* not those of a ring/)

    const other = connect(path)
    await other.begin(1n | PACKED)
    const { fds } = await other.ask(REQ.GET_INFLIGHT_FD, inflight(0, 0, 1, 8))
    other.send(REQ.SET_INFLIGHT_FD, inflight(192, 0, 1, 8), fds)
    new PackedRing(other, 8).start(0x8000)
    await until(() => reasons.length === 2)
    expect(reasons[1]).toMatch(/192 bytes, packed rings need 320/)
    for (const fd of fds) closeSync(fd)
  })

  it.each([0n, IN_ORDER])(
    "take up what was in flight when the process was killed, features 0x%x",
    async (order) => {
      const first = holding()
      const one = serving(first, undefined, rings)
      const before = connect(one.path)
      await before.begin(1n | PACKED | order)
      const { payload, fds } = await before.ask(REQ.GET_INFLIGHT_FD, inflight(0, 0, 1, 8))
      const size = Number(payload.getBigUint64(0, true))
      before.send(REQ.SET_INFLIGHT_FD, inflight(size, 0, 1, 8), fds)
      const ring = new PackedRing(before, 8, undefined, order !== 0n)
      const { driver } = ring
      // Most of a lap is over, so that what is in flight goes on over the end.
      first.holds = false
      ring.start(0x8000)
      for (const word of ["x", "y", "z"]) driver.add({ readable: [text(word)], writable: [1] })
      ring.kick()
      await until(() => driver.reap().length === 0 && driver.inFlight === 0)
      first.holds = true
      const chains = ["a", "b", "c"].map((word) => driver.add({ readable: [text(word)], writable: [1] }))
      ring.kick()
      await until(() => first.held.length === 3)
      // The second is given back, over the descriptors of the first; the third is, too, but not shown any more.
      const { queue } = first.held[0]!
      queue.push(first.held[order === 0n ? 1 : 0]!.chain, 1)
      queue.flush()
      queue.push(first.held[2]!.chain, 1)
      expect(driver.reap()).toEqual([chains[order === 0n ? 1 : 0]])
      await one.server.close()

      const second = holding()
      const two = serving(second, undefined, rings)
      const resumed: number[][] = []
      two.server.on("resumed", (...what) => resumed.push(what))
      const after = connect(two.path, before)
      await after.begin(1n | PACKED | order)
      after.send(REQ.SET_INFLIGHT_FD, inflight(size, 0, 1, 8), fds)
      const late = driver.add({ readable: [text("d")], writable: [1] })
      driver.publish()
      // A base of long ago: what was written down counts.
      new PackedRing(after, 8, driver).start(0x8000)
      await until(() => second.held.length === 3)
      const left = [chains[order === 0n ? 0 : 1]!, chains[2]!, late]
      expect(second.held.map(({ chain }) => chain.head)).toEqual(left.map(({ head }) => head))
      expect(second.held.map(({ chain }) => read(chain))).toEqual([order === 0n ? "a" : "b", "c", "d"])
      expect(resumed).toEqual([[0, 2]])
      second.release()
      await until(() => driver.reap().length === 0 && driver.inFlight === 0)
      expect([...chains, late].map(({ written }) => written)).toEqual([1, 1, 1, 1])
      for (const fd of fds) closeSync(fd)
    },
  )

  it("are done with what the driver saw, though the process was killed before it wrote that down", async () => {
    const first = holding()
    const one = serving(first, undefined, rings)
    const before = connect(one.path)
    await before.begin(1n | PACKED)
    const { payload, fds } = await before.ask(REQ.GET_INFLIGHT_FD, inflight(0, 0, 1, 8))
    const size = Number(payload.getBigUint64(0, true))
    before.send(REQ.SET_INFLIGHT_FD, inflight(size, 0, 1, 8), fds)
    const ring = new PackedRing(before, 8)
    const { driver } = ring
    ring.start(0x8000)
    const chains = ["a", "b"].map((word) => driver.add({ readable: [text(word)], writable: [1] }))
    ring.kick()
    await until(() => first.held.length === 2)
    const { queue, chain } = first.held[0]!
    queue.push(chain, 1)
    ;(queue as RunningQueue).inner.flush()
    expect(driver.reap()).toEqual([chains[0]])
    await one.server.close()

    const second = holding()
    const after = connect(serving(second, undefined, rings).path, before)
    await after.begin(1n | PACKED)
    after.send(REQ.SET_INFLIGHT_FD, inflight(size, 0, 1, 8), fds)
    new PackedRing(after, 8, driver).start(0x8000)
    await until(() => second.held.length === 1)
    expect(read(second.held[0]!.chain)).toBe("b")
    second.release()
    await until(() => driver.reap().length === 0 && driver.inFlight === 0)
    for (const fd of fds) closeSync(fd)
  })

  it("leave nothing in flight at an orderly stop", async () => {
    const device = holding()
    const front = connect(serving(device, undefined, rings).path)
    await front.begin(1n | PACKED)
    const { payload, fds } = await front.ask(REQ.GET_INFLIGHT_FD, inflight(0, 0, 1, 8))
    const size = Number(payload.getBigUint64(0, true))
    front.send(REQ.SET_INFLIGHT_FD, inflight(size, 0, 1, 8), fds)
    const ring = new PackedRing(front, 8)
    ring.start(0x8000)
    for (const word of ["a", "b"]) ring.driver.add({ readable: [text(word)], writable: [1] })
    ring.kick()
    await until(() => device.held.length === 2)
    const base = await front.stopRing(0)
    expect(base).toBe(0x8000_8000)
    device.held.length = 0
    ring.start(base)
    await until(() => device.held.length === 2)
    device.release()
    await until(() => ring.driver.reap().length === 2)
    for (const fd of fds) closeSync(fd)
  })
})

describe("chains that go back in order over vhost-user", () => {
  it("are in flight until the driver has got them, though the device is done with them", async () => {
    const first = holding()
    const one = serving(first, undefined, rings)
    const before = connect(one.path)
    await before.begin(1n | IN_ORDER)
    const { payload, fds } = await before.ask(REQ.GET_INFLIGHT_FD, inflight(0, 0, 1, 16))
    const size = Number(payload.getBigUint64(0, true))
    before.send(REQ.SET_INFLIGHT_FD, inflight(size, 0, 1, 16), fds)
    const ring = before.startRing(0)
    const chains = ["a", "b", "c"].map((word) => ring.add({ readable: [text(word)], writable: [2] }))
    before.kick(0)
    await until(() => first.held.length === 3)
    const { queue } = first.held[0]!
    queue.push(first.held[0]!.chain, 1)
    queue.push(first.held[2]!.chain, 1)
    queue.flush()
    expect(ring.reap()).toEqual([chains[0]])
    await one.server.close()

    const second = holding()
    const two = serving(second, undefined, rings)
    const after = connect(two.path, before)
    await after.begin(1n | IN_ORDER)
    after.send(REQ.SET_INFLIGHT_FD, inflight(size, 0, 1, 16), fds)
    after.startRing(0)
    await until(() => second.held.length === 2)
    expect(second.held.map(({ chain }) => chain.head)).toEqual([chains[1]!.head, chains[2]!.head])
    second.release()
    await until(() => ring.reap().length === 2)
    for (const fd of fds) closeSync(fd)
  })

  it("are not carried out again after a stop when the device was done with them", async () => {
    const device = holding()
    const front = connect(serving(device, undefined, rings).path)
    await front.begin(1n | IN_ORDER)
    const ring = front.startRing(0)
    for (const word of ["a", "b"]) ring.add({ readable: [text(word)], writable: [2] })
    front.kick(0)
    await until(() => device.held.length === 2)
    const [a, b] = device.held.splice(0)
    a!.queue.push(b!.chain, 1)
    a!.queue.flush()
    const stopped = front.stopRing(0)
    await new Promise((resolve) => setImmediate(resolve))
    a!.queue.push(a!.chain, 1)
    a!.queue.flush()
    expect(await stopped).toBe(2)
    expect(ring.reap()).toHaveLength(2)
  })
})
