import { setImmediate as turn } from "node:timers/promises"
import { ConfigError, RestoreError } from "@virtkit/interface"
import { DeviceHarness } from "@virtkit/testkit"
import { type RngOptions, rng } from "@virtkit/virtio-rng"
import { createQueue } from "@virtkit/virtqueue"
import { afterEach, describe, expect, it, vi } from "vitest"

function start(options: RngOptions = {}, queueSize = 16) {
  const device = rng(options)
  const harness = new DeviceHarness({ device, createQueue, queueSize })
  harness.start()
  const ring = harness.ring(0)
  return {
    device,
    harness,
    ring,
    /** Adds requests of these sizes, kicks, and returns what came back at once. */
    request: (...sizes: number[]) => {
      for (const size of sizes) ring.add({ writable: [size] })
      harness.kick(0)
      return ring.reap().map((chain) => chain.written)
    },
  }
}

const fakeTime = () => vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "performance"] })

afterEach(() => {
  vi.useRealTimers()
})

it("is an entropy device of one queue, without features or configuration", () => {
  const device = rng()
  expect([device.deviceType, device.features, device.queueMaxSizes]).toEqual([4, 0n, [64]])
  expect(device.config.length).toBe(0)
  expect(device.writeConfig).toBe(undefined)
})

describe("requests", () => {
  it("fills the buffers with random bytes", async () => {
    const { harness } = start()
    const one = await harness.request(0, { writable: [10_000] })
    const two = await harness.request(0, { writable: [10_000] })
    expect([one.written, two.written]).toEqual([10_000, 10_000])
    // 256 values, 39 times each on average: no value is missing in a lifetime of tests, and no two fills are the same.
    expect(new Set(one.data).size).toBe(256)
    expect(Buffer.from(one.data!).equals(two.data!)).toBe(false)
  })

  it("bad-input #21: fills buffers of any framing, from the source, in order", async () => {
    let next = 0
    const { harness } = start({ source: (buffer) => buffer.set(buffer.map(() => next++ & 0xff)) })
    const chain = await harness.request(0, {
      readable: [new Uint8Array(5)],
      writable: [1, 5000, 7, 1000],
      layout: "indirect",
    })
    expect(chain.written).toBe(6008)
    expect(Buffer.from(chain.data!).equals(Uint8Array.from({ length: 6008 }, (_, i) => i & 0xff))).toBe(true)
    expect(chain.buffers[0]!.length).toBe(5)
  })

  it("bad-input #12: a huge request gets 64 KiB, from pieces of 4 KiB", async () => {
    let largest = 0
    let calls = 0
    const { harness } = start({
      source: (buffer) => {
        largest = Math.max(largest, buffer.length)
        calls++
        buffer.fill(0x11)
      },
    })
    const chain = await harness.request(0, { writable: [1 << 20] })
    expect(chain.written).toBe(65_536)
    expect(chain.data!.subarray(0, 65_536).every((byte) => byte === 0x11)).toBe(true)
    expect(chain.data!.subarray(65_536).every((byte) => byte === 0xee)).toBe(true)
    expect([largest, calls]).toEqual([4096, 16])
  })

  it("bad-input #12: a large burst does not lift that limit", () => {
    expect(start({ rate: 1e9, burst: 1e9 }).request(1 << 20)).toEqual([65_536])
  })

  it("wipes the bytes that it handed out", () => {
    const seen: Uint8Array[] = []
    const { request } = start({ source: (buffer) => seen.push(buffer.fill(0x77)) })
    expect(request(5000)).toEqual([5000])
    expect(seen.map((buffer) => buffer.length)).toEqual([4096, 904])
    for (const buffer of seen) expect(buffer.every((byte) => byte === 0)).toBe(true)
  })

  it("bad-input #14 and #20: nothing to fill and malformed chains are given back, and the queue goes on", () => {
    const { harness, ring } = start()
    ring.add({ readable: [new Uint8Array(8)] })
    const looped = ring.add({ writable: [8] })
    ring.writeDescriptor(looped.head, { address: 4096, length: 8, flags: 3, next: looped.head })
    ring.add({ writable: [8] })
    harness.kick(0)
    expect(ring.reap().map((chain) => chain.written)).toEqual([0, 0, 8])
    expect(harness.needsReset).toEqual([])
  })

  it("bad-input #16: a turn of the event loop has a limit in bytes", async () => {
    const { request, ring } = start()
    expect(request(...Array<number>(10).fill(65_536))).toHaveLength(4)
    await turn()
    expect(ring.reap()).toHaveLength(4)
    await turn()
    expect(ring.reap()).toHaveLength(2)
  })

  it("bad-input #16 and #17: a drain ends at the queue's size, whatever the driver adds", async () => {
    const { device, harness, ring } = start({}, 4)
    const queue = harness.queues[0]!
    let popped = 0
    const pop = queue.pop.bind(queue)
    queue.pop = () => {
      queue.flush()
      ring.reap()
      ring.add({ writable: [16] })
      ring.publish()
      popped++
      return pop()
    }
    device.notify(0)
    device.notify(0)
    expect(popped).toBe(4)
    await turn()
    expect(popped).toBe(8)
    await harness.reset()
  })

  it("asks for a reset, and hands out nothing, when the source fails", async () => {
    let broken = true
    const { device, harness, ring, request } = start({
      source: (buffer) => {
        if (broken) throw new Error("no entropy")
        buffer.fill(1)
      },
    })
    expect(request(16, 16)).toEqual([])
    expect(harness.needsReset).toEqual(["rng0: the entropy source failed: Error: no entropy"])
    device.notify(0)
    expect(harness.needsReset).toHaveLength(1)
    expect(ring.reap()).toEqual([])
    await harness.reset()
    broken = false
    harness.start()
    expect((await harness.request(0, { writable: [16] })).written).toBe(16)
  })
})

describe("rate limit", () => {
  it("gives the burst at once and then no more than the rate", () => {
    fakeTime()
    const { request, ring } = start({ rate: 100, burst: 50 })
    expect(request(30, 20, 10, 40)).toEqual([30, 20])
    vi.advanceTimersByTime(99)
    expect(ring.reap()).toEqual([])
    vi.advanceTimersByTime(1)
    expect(ring.reap().map((chain) => chain.written)).toEqual([10])
    vi.advanceTimersByTime(400)
    expect(ring.reap().map((chain) => chain.written)).toEqual([40])
    expect(vi.getTimerCount()).toBe(0)
  })

  it("gives a request the burst at most, a second's worth unless told", () => {
    fakeTime()
    expect(start({ rate: 100, burst: 50 }).request(1000)).toEqual([50])
    expect(start({ rate: 100 }).request(1000)).toEqual([100])
    expect(start({ rate: 0.5 }).request(1000)).toEqual([1])
  })

  it("bad-input #34: notifications while a request waits do nothing, and there is one timer", () => {
    fakeTime()
    const { device, request, ring } = start({ rate: 100 })
    expect(request(100, 100)).toEqual([100])
    for (let i = 0; i < 1000; i++) device.notify(0)
    expect(ring.reap()).toEqual([])
    expect(vi.getTimerCount()).toBe(1)
    vi.advanceTimersByTime(1000)
    expect(ring.reap()).toHaveLength(1)
  })

  it("bad-input #27: a reset stops the timer, and the requests of before are not touched", async () => {
    fakeTime()
    const { device, harness, request, ring } = start({ rate: 100 })
    expect(request(100, 100)).toEqual([100])
    await harness.reset()
    expect(vi.getTimerCount()).toBe(0)
    device.notify(0)
    vi.advanceTimersByTime(10_000)
    expect(ring.reap()).toEqual([])
    harness.start()
    harness.ring(0).add({ writable: [10] })
    harness.kick(0)
    expect(harness.ring(0).reap()).toHaveLength(1)
    harness.ring(0).add({ writable: [100] })
    harness.kick(0)
    expect(vi.getTimerCount()).toBe(1)
    await device.close()
    await device.close()
    expect(vi.getTimerCount()).toBe(0)
  })

  it("refuses a rate or burst that cannot be", () => {
    for (const options of [
      { rate: 0 },
      { rate: -1 },
      { rate: Number.NaN },
      { rate: Number.POSITIVE_INFINITY },
      { rate: 1, burst: 0 },
      { rate: 1, burst: 1.5 },
      { burst: 1 },
    ]) {
      expect(() => rng(options)).toThrow(ConfigError)
    }
  })
})

it("has a state that only says its version", () => {
  const device = rng()
  device.restore(structuredClone(device.state()))
  expect(device.state()).toEqual({ version: 1 })
  for (const bad of [undefined, null, 1, {}, { version: 2 }])
    expect(() => device.restore(bad)).toThrow(RestoreError)
})
