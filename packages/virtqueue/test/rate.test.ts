import { TokenBuckets } from "@virtkit/virtqueue"
import { describe, expect, it } from "vitest"

describe("token buckets", () => {
  /** Units of `bytes` sent as fast as they may be in `ms`, asked every `step` ms. */
  function passed(buckets: TokenBuckets, bytes: number, ms: number, step: number): number {
    let count = 0
    for (let now = 0; now <= ms; now += step) {
      let allowed = buckets.allowance(now)
      while (allowed > 0) {
        buckets.take(bytes, 1)
        count++
        allowed = buckets.allowance(now)
      }
    }
    return count
  }

  it.each([0.1, 1, 7, 40])("hold 1,000 units and 100 Mbit/s over 10 s, asked every %d ms", (step) => {
    const units = passed(new TokenBuckets({ unitsPerSecond: 1000 }, 0), 60, 10_000, step)
    expect(units).toBeGreaterThan(9_500)
    expect(units).toBeLessThan(10_500)
    for (const bytes of [60, 1514, 65_553]) {
      const sent = bytes * passed(new TokenBuckets({ bytesPerSecond: 12_500_000 }, 0), bytes, 10_000, step)
      expect(sent / 125_000_000).toBeGreaterThan(0.95)
      expect(sent / 125_000_000).toBeLessThan(1.05)
    }
  })

  it("say how long to wait, and let pass then", () => {
    const buckets = new TokenBuckets({ unitsPerSecond: 10, bytesPerSecond: 1000, burstMs: 100 }, 0)
    expect(buckets.allowance(0)).toBe(1)
    buckets.take(500, 1)
    expect(buckets.allowance(0)).toBe(0)
    const wait = buckets.wait()
    expect(wait).toBe(400)
    expect(buckets.allowance(wait)).toBe(0)
    expect(buckets.wait()).toBe(1)
    expect(buckets.allowance(wait + 1)).toBe(1)
    // Time that goes back gives nothing.
    expect(buckets.allowance(0)).toBe(1)
  })

  it("wait for units alone when there are bytes left", () => {
    const buckets = new TokenBuckets({ unitsPerSecond: 10, bytesPerSecond: 1000, burstMs: 100 }, 0)
    buckets.take(1, 1)
    expect(buckets.wait()).toBe(100)
  })

  it("allow everything without a limit", () => {
    const buckets = new TokenBuckets({}, 5)
    buckets.take(1e9, 1e6)
    expect(buckets.allowance(5)).toBe(Number.POSITIVE_INFINITY)
  })
})
