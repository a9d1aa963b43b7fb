import { until } from "@virtkit/testkit"
import { nullBackend } from "@virtkit/virtio-net"
import { describe, expect, it } from "vitest"
import { TokenBuckets } from "../src/rate.js"
import { F, frame, header, nic, RX, recorder, TX } from "./helpers.js"

describe("token buckets", () => {
  /** Frames of `bytes` sent as fast as they may be in `ms`, asked every `step` ms. */
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

  it.each([0.1, 1, 7, 40])("hold 1,000 packets and 100 Mbit/s over 10 s, asked every %d ms", (step) => {
    const packets = passed(new TokenBuckets({ packetsPerSecond: 1000 }, 0), 60, 10_000, step)
    expect(packets).toBeGreaterThan(9_500)
    expect(packets).toBeLessThan(10_500)
    for (const bytes of [60, 1514, 65_553]) {
      const sent = bytes * passed(new TokenBuckets({ bytesPerSecond: 12_500_000 }, 0), bytes, 10_000, step)
      expect(sent / 125_000_000).toBeGreaterThan(0.95)
      expect(sent / 125_000_000).toBeLessThan(1.05)
    }
  })

  it("say how long to wait, and let pass then", () => {
    const buckets = new TokenBuckets({ packetsPerSecond: 10, bytesPerSecond: 1000, burstMs: 100 }, 0)
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

  it("allow everything without a limit", () => {
    const buckets = new TokenBuckets({}, 5)
    buckets.take(1e9, 1e6)
    expect(buckets.allowance(5)).toBe(Number.POSITIVE_INFINITY)
  })
})

describe("a limited device", () => {
  it("lets transmitted frames wait in the ring", async () => {
    const backend = recorder()
    const n = await nic({ backend, limits: { transmit: { packetsPerSecond: 100, burstMs: 20 } } })
    const sending = n.send(Array.from({ length: 5 }, () => [header(), frame()]))
    expect(backend.frames).toHaveLength(2)
    expect(n.device.counters.txLimited).toBe(1)
    await sending
    expect(backend.frames).toHaveLength(5)
  })

  it("makes received frames wait at the backend; segments count", async () => {
    const backend = recorder()
    const n = await nic({ backend, limits: { receive: { packetsPerSecond: 20, burstMs: 200 } } })
    n.post(Array.from({ length: 8 }, () => [4000]))
    const tso = { flags: 1, gsoType: 1, hdrLen: 54, gsoSize: 1000, csumStart: 34, csumOffset: 16 }
    expect(backend.session!.receive(0, frame(3054), tso)).toBe(true)
    expect(backend.session!.receive(0, frame())).toBe(true)
    expect(backend.session!.receive(0, frame())).toBe(false)
    expect(backend.session!.buffers(0)!.allowance()).toBe(0)
    await until(() => backend.ready.length > 0, "the next packet")
    expect(backend.session!.receive(0, frame())).toBe(true)
  })

  it("can be changed and freed while it runs, and leaves no timer behind", async () => {
    const backend = recorder()
    const n = await nic({ backend, limits: { transmit: { bytesPerSecond: 1, burstMs: 1 } } })
    const sending = n.send([
      [header(), frame()],
      [header(), frame()],
    ])
    expect(backend.frames).toHaveLength(1)
    n.device.setLimits({ transmit: undefined })
    await sending
    expect(backend.frames).toHaveLength(2)
    n.device.setLimits({ transmit: { bytesPerSecond: 1, burstMs: 1 }, receive: { packetsPerSecond: 1 } })
    n.harness.ring(TX).add({ readable: [header(), frame()] })
    n.harness.ring(TX).add({ readable: [header(), frame()] })
    n.harness.kick(TX)
    n.post([[100]], RX)
    await n.harness.reset()
    expect(backend.frames).toHaveLength(3)
  })

  it("works without any limit", async () => {
    const n = await nic({ backend: nullBackend() }, { features: F.VERSION_1 })
    await n.send([[header(), frame()]], TX, "direct")
    expect(n.device.counters.txFrames).toBe(1)
  })
})
