import { ConfigError } from "@virtkit/interface"
import { type BlockBackend, block, memoryDisk } from "@virtkit/virtio-blk"
import { beforeEach, describe, expect, it } from "vitest"
import { PollWindow } from "../src/polling.js"
import { type Disk, disk, header, manualBackend } from "./helpers.js"

describe("the window", () => {
  it("grows while looking longer would have found the next work, up to its most", () => {
    const clock = new Float64Array(1)
    const window = new PollWindow(64, clock)
    expect(window.length).toBe(0)
    window.worked()
    clock[0] = 0.01
    const lengths: number[] = []
    for (let i = 0; i < 6; i++) {
      window.woken()
      lengths.push(window.length)
    }
    expect(lengths).toEqual([0.004, 0.008, 0.016, 0.032, 0.064, 0.064])
  })

  it("shrinks to nothing when work comes later than that", () => {
    const clock = new Float64Array(1)
    const window = new PollWindow(64, clock)
    window.worked()
    for (let i = 0; i < 5; i++) window.woken()
    const lengths: number[] = []
    for (let at = 10; at < 60; at += 10) {
      clock[0] = at
      window.woken()
      lengths.push(window.length)
      window.worked()
    }
    expect(lengths).toEqual([0.032, 0.016, 0.008, 0.004, 0])
  })
})

describe("a device that polls", () => {
  let clock: Float64Array
  /** Called when the device looks for completions. */
  let whenPolled = () => {}
  let polling: boolean[] = []
  let backend: ReturnType<typeof manualBackend>
  let d: Disk

  /** `features`: those that are negotiated. Default: all. */
  async function start(features?: bigint): Promise<void> {
    whenPolled = () => {}
    polling = []
    clock = new Float64Array(1)
    backend = manualBackend(65536)
    const polled: BlockBackend = Object.assign(backend, {
      clock,
      // Each look is 10 us later.
      poll: () => {
        clock[0]! += 0.01
        whenPolled()
      },
      setPolling: (on: boolean) => polling.push(on),
    })
    d = await disk({ backend: polled, poll: 100 }, { queueSize: 16, ...(features && { features }) })
  }
  beforeEach(() => start())

  const offer = () => d.harness.ring(0).add({ readable: [header(0, 0)], writable: [512, 1] })
  const turn = () => new Promise((resolve) => setImmediate(resolve))
  /** Answers so many requests one after the other, which makes the window long. */
  function busy(): void {
    for (let i = 0; i < 10; i++) {
      offer()
      d.harness.kick(0)
      backend.finish()
      d.harness.ring(0).reap()
    }
    polling = []
  }

  it.each([
    ["with EVENT_IDX", undefined],
    // VERSION_1, indirect descriptors, flush.
    ["without", (1n << 32n) | (1n << 28n) | (1n << 9n)],
  ])(
    "takes what comes while it looks, without a doorbell, and then waits for doorbells again, %s",
    async (_, features) => {
      await start(features)
      busy()
      const { reads } = d.device.counters
      let offered = 0
      let polls = 0
      whenPolled = () => {
        // The first time is for the clock.
        if (polls++ === 0) return
        if (backend.pending.length > 0) backend.finish()
        d.harness.ring(0).reap()
        if (offered === 3) return
        offered++
        offer()
        expect(d.harness.ring(0).publish()).toBe(false)
      }
      offer()
      d.harness.kick(0)
      expect(d.device.counters.reads - reads).toBe(4)
      expect(polling).toEqual([true, false])
      offer()
      expect(d.harness.ring(0).publish()).toBe(true)
    },
  )

  it("does nothing at all when there is nothing to do", async () => {
    busy()
    let polls = 0
    whenPolled = () => polls++
    d.device.notify(0)
    expect(polls).toBeGreaterThan(1)
    polls = 0
    for (let i = 0; i < 10; i++) await turn()
    expect(polls).toBe(0)
    // Late work makes the window short, until it looks no longer than it must.
    for (let i = 0; i < 10; i++) {
      clock[0]! += 100
      d.device.notify(0)
    }
    polls = 0
    clock[0]! += 100
    polling = []
    d.device.notify(0)
    // Once for the time, once for completions.
    expect(polls).toBe(2)
    expect(polling).toEqual([])
  })

  it("leaves the processor to the kernel while that makes changes", () => {
    busy()
    let polls = 0
    whenPolled = () => polls++
    d.harness.ring(0).add({ readable: [header(1, 0), new Uint8Array(512)], writable: [1] })
    d.harness.kick(0)
    expect(d.device.inFlight).toBe(1)
    // For the time, after the request was taken, and once more in vain.
    expect(polls).toBe(3)
    expect(polling).toEqual([true, false])
    polls = 0
    backend.finish()
    expect(polls).toBeGreaterThan(5)
  })

  it("leaves several reads to the event loop", () => {
    busy()
    let polls = 0
    whenPolled = () => polls++
    offer()
    offer()
    d.harness.kick(0)
    expect(d.device.inFlight).toBe(2)
    expect(polls).toBe(3)
    backend.finish()
    expect(d.harness.ring(0).reap()).toHaveLength(2)
  })

  it("looks for the completion of a single read, and no longer than for anything else", () => {
    busy()
    let polls = 0
    whenPolled = () => {
      if (++polls === 5) backend.finish()
    }
    offer()
    d.harness.kick(0)
    expect(d.device.inFlight).toBe(0)
    expect(d.harness.ring(0).reap()).toHaveLength(1)
    expect(polling).toEqual([true, false])
    // One that does not come in that time is left to the event loop.
    polling = []
    polls = 100
    offer()
    d.harness.kick(0)
    expect(d.device.inFlight).toBe(1)
    expect(polls).toBeLessThan(120)
    expect(polling).toEqual([true, false])
    backend.finish()
    expect(d.harness.ring(0).reap()).toHaveLength(1)
  })

  it("bad-input #34: lets others have their turn, however much a driver asks for", async () => {
    busy()
    let offered = 0
    whenPolled = () => {
      backend.finish()
      d.harness.ring(0).reap()
      if (offered++ > 1000) return
      offer()
      d.harness.ring(0).publish()
    }
    offer()
    d.harness.kick(0)
    expect(offered).toBeGreaterThan(10)
    expect(offered).toBeLessThan(200)
    // Doorbells meanwhile add nothing.
    for (let i = 0; i < 100; i++) d.device.notify(0)
    const before = offered
    await turn()
    expect(offered).toBeGreaterThan(before)
    expect(offered - before).toBeLessThan(200)
    while (offered <= 1000) await turn()
    await turn()
    expect(polling).toEqual([true, false])
  })

  it("asks the backend for its next turn, if that has a way, and only once", async () => {
    let wakes = 0
    backend.wake = () => wakes++
    busy()
    let offered = 0
    whenPolled = () => {
      backend.finish()
      d.harness.ring(0).reap()
      if (offered++ > 1000) return
      offer()
      d.harness.ring(0).publish()
    }
    offer()
    d.harness.kick(0)
    for (let i = 0; i < 100; i++) d.device.notify(0)
    expect(wakes).toBe(1)
    const before = offered
    await turn()
    expect(offered).toBe(before)
    backend.session!.woken()
    expect(offered).toBeGreaterThan(before)
    expect(wakes).toBe(2)
    while (offered <= 1000) backend.session!.woken()
    backend.session!.woken()
    expect(polling).toEqual([true, false])
    // One that comes late, or for nothing, changes nothing.
    const { reads } = d.device.counters
    backend.session!.woken()
    await d.harness.reset()
    backend.session!.woken()
    expect(d.device.counters.reads).toBe(reads)
  })

  it("bad-input #27: stops looking at a reset, so that what is in flight completes by the event loop", async () => {
    busy()
    let reset: Promise<void> | undefined
    offer()
    whenPolled = () => {
      if (backend.pending.length > 0) reset ??= d.harness.reset()
    }
    d.harness.kick(0)
    expect(backend.pending.length).toBe(1)
    expect(polling.at(-1)).toBe(false)
    const answered = d.device.counters.reads
    backend.finish()
    await reset
    expect(d.device.counters.reads).toBe(answered)
  })
})

describe("the option", () => {
  it("is for backends that can be looked at, and has limits", async () => {
    const d = await disk({ backend: memoryDisk(65536), poll: 100 })
    expect((await d.read(0, 512)).status).toBe(0)
    for (const poll of [-1, 1001, Number.NaN]) {
      await expect(block({ backend: memoryDisk(65536), poll })).rejects.toThrow(ConfigError)
    }
  })
})
