import { type BlockBackendOptions, memoryDisk } from "@virtkit/virtio-blk"
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest"
import { type Disk, disk, FLUSH, GET_ID, header, OK } from "./helpers.js"

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["performance", "setTimeout", "clearTimeout"] })
})
afterEach(() => {
  vi.useRealTimers()
})

/** Offers `count` reads of one sector at once. */
function burst(d: Disk, count: number, queue = 0): void {
  for (let i = 0; i < count; i++) d.harness.ring(queue).add({ readable: [header(0, i)], writable: [512, 1] })
  d.harness.kick(queue)
}

const limited = (options: Partial<BlockBackendOptions>) =>
  disk({ backend: memoryDisk(65536), ...options }, { queueSize: 64 })

const reads = (d: Disk) => d.device.counters.reads

describe("a limited disk", () => {
  it("lets what is too much wait in the queue, and takes it when its time has come", async () => {
    const d = await limited({ limits: { operationsPerSecond: 200, burstMs: 20 } })
    burst(d, 8)
    expect(reads(d)).toBe(4)
    expect(d.device.counters.limited).toBe(1)
    // bad-input #34: notifications meanwhile change nothing.
    for (let i = 0; i < 100; i++) d.harness.kick(0)
    expect(reads(d)).toBe(4)
    vi.advanceTimersByTime(4)
    expect(reads(d)).toBe(4)
    vi.advanceTimersByTime(1)
    expect(reads(d)).toBe(5)
    vi.advanceTimersByTime(100)
    expect(reads(d)).toBe(8)
  })

  it("counts bytes too, in one budget for all queues", async () => {
    const d = await limited({ queues: 2, limits: { bytesPerSecond: 50_000, burstMs: 20 } })
    // 1000 bytes are a burst; what is begun goes through, and is waited for.
    burst(d, 4, 0)
    burst(d, 4, 1)
    expect(reads(d)).toBe(2)
    vi.advanceTimersByTime(1)
    expect(reads(d)).toBe(3)
    vi.advanceTimersByTime(200)
    expect(reads(d)).toBe(8)
    expect(d.device.counters.readBytes).toBe(8 * 512)
  })

  it("answers whatever moves no data alike, and the serial number always", async () => {
    const d = await limited({ limits: { operationsPerSecond: 1, burstMs: 1 } })
    expect((await d.request(FLUSH)).status).toBe(OK)
    d.harness.ring(0).add({ readable: [header(FLUSH)], writable: [1] })
    d.harness.kick(0)
    expect(d.device.counters.flushes).toBe(1)
    d.device.setLimits(undefined)
    expect(d.device.counters.flushes).toBe(2)
    expect((await d.request(GET_ID, { in: [20] })).status).toBe(OK)
  })

  it("can be changed while it runs, and leaves no timer behind", async () => {
    const d = await limited({ limits: { operationsPerSecond: 1, burstMs: 1 } })
    burst(d, 5)
    expect(reads(d)).toBe(1)
    d.device.setLimits({ bytesPerSecond: 2 ** 40 })
    expect(reads(d)).toBe(5)
    d.device.setLimits({ operationsPerSecond: 1, burstMs: 1 })
    burst(d, 5)
    expect(reads(d)).toBe(6)
    await d.harness.reset()
    d.device.setLimits(undefined)
    expect(reads(d)).toBe(6)
    expect(() => d.device.setLimits({ burstMs: -1 })).toThrow("burstMs must be a positive number")
    await d.device.close()
  })
})
