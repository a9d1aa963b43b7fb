import { once } from "node:events"
import { Worker } from "node:worker_threads"
import { Limiter, SharedLimit } from "@virtkit/virtqueue"
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest"

const RATE = { unitsPerSecond: 1000, burstMs: 100 }

describe("a rate limit of several threads", () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "performance"] })
  })
  afterEach(() => {
    vi.useRealTimers()
  })

  it("takes what passes anywhere from the same buckets, and lets each go on", () => {
    const shared = new SharedLimit()
    shared.fill(RATE)
    const resumed: string[] = []
    const one = new Limiter(RATE, () => resumed.push("one"), shared)
    const two = new Limiter(RATE, () => resumed.push("two"), new SharedLimit(shared.buffer))
    expect([one.allowance(), two.allowance()]).toEqual([100, 100])
    one.take(0, 60)
    two.take(0, 50)
    expect([one.allowance(), two.allowance(), resumed]).toEqual([0, 0, []])
    vi.advanceTimersByTime(10)
    expect(resumed).toEqual([])
    vi.advanceTimersByTime(10)
    expect(resumed.toSorted()).toEqual(["one", "two"])
  })

  it("is full only when it is filled, not with each who joins", () => {
    const shared = new SharedLimit()
    shared.fill(RATE)
    const one = new Limiter(RATE, () => {}, shared)
    one.take(0, 90)
    const late = new Limiter(RATE, () => {}, new SharedLimit(shared.buffer))
    expect(late.allowance()).toBe(10)
    shared.fill({ unitsPerSecond: 10_000, burstMs: 100 })
    late.set({ unitsPerSecond: 10_000, burstMs: 100 })
    expect(late.allowance()).toBe(1000)
    late.set(undefined)
    expect(late.limited).toBe(false)
  })
})

describe("threads that take at the same time", () => {
  it("wait for each other", async () => {
    const shared = new SharedLimit()
    shared.fill(RATE)
    const lock = new Int32Array(shared.buffer, 0, 1)
    const url = new URL("./lock-holder-worker.js", import.meta.url)
    const worker = new Worker(url, { workerData: shared.buffer })
    // The other thread has it.
    lock[0] = 1
    await once(worker, "message")
    shared.bucketsOf(RATE).take(0, 1)
    expect([lock[0], shared.bucketsOf(RATE).allowance(shared.now())]).toEqual([0, expect.any(Number)])
    await once(worker, "exit")
  })

  it("lose nothing", async () => {
    const shared = new SharedLimit()
    const rate = { unitsPerSecond: 1000 }
    shared.fill(rate)
    const times = 3_000_000
    const barrier = new Int32Array(new SharedArrayBuffer(4))
    const workerData = { buffer: shared.buffer, rate, times, barrier }
    const workers = [1, 2].map(
      () => new Worker(new URL("./shared-limit-worker.js", import.meta.url), { workerData }),
    )
    await Promise.all(workers.map((worker) => once(worker, "message")))
    for (const worker of workers) worker.postMessage("go")
    await Promise.all(workers.map((worker) => once(worker, "exit")))
    // 50 could pass at once.
    expect(shared.bucketsOf(rate).wait()).toBe(2 * times - 50 + 1)
  })
})
