import { until } from "@virtkit/testkit"
import { nullBackend } from "@virtkit/virtio-net"
import { describe, expect, it } from "vitest"
import { F, frame, header, nic, RX, recorder, TX } from "./helpers.js"

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
