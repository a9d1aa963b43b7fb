import { constants } from "node:os"
import type { Tap } from "@virtkit/native"
import { type NetBackend, type NetSession, net } from "@virtkit/virtio-net"
import fc from "fast-check"
import { expect, it } from "vitest"
import { BUFFERS, FRAMES, SEGMENTS } from "../src/backends/tap-open.js"
import { TapReader } from "../src/backends/tap-reader.js"
import { F, GUEST_MAC, HEADER, macBytes, Nic, RX, turn } from "./helpers.js"

const { EAGAIN, ENOBUFS, EINVAL } = constants.errno
const HEAD_STRIDE = 32
const MERGEABLE = 1
const FULL = 2

/** A frame of so many bytes, header included; "bad": one for which the kernel has no header. */
type Frame = number | "bad"

/** A queue of a TAP as the kernel and the addon behave, without the bytes: only frames that find room make an edge. */
class FakeTap {
  readonly receiveAddresses = new Float64Array(SEGMENTS)
  readonly receiveLengths = new Uint32Array(SEGMENTS)
  readonly receiveCounts = new Uint32Array(BUFFERS)
  readonly frameBuffers = new Uint32Array(FRAMES)
  readonly frameBytes = new Uint32Array(FRAMES)
  readonly heads = new Uint8Array(FRAMES * HEAD_STRIDE)
  readonly result = new Int32Array(3)
  readonly waiting: Frame[] = []
  readonly length: number
  edge = (): void => {}
  edges = 0
  #listening = true
  #scheduled = false

  constructor(length: number) {
    this.length = length
  }

  drop(): void {}

  /** A frame for the guest; false when the queue of the kernel is full. */
  arrive(frame: Frame): boolean {
    if (this.waiting.length === this.length) return false
    this.waiting.push(frame)
    this.#report()
    return true
  }

  listen(on: boolean): void {
    this.#listening = on
    if (this.waiting.length > 0) this.#report()
  }

  #report(): void {
    if (this.#scheduled || !this.#listening) return
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      this.edges++
      this.edge()
    })
  }

  #end(frames: number, status: number, needed = 0): number {
    this.result[0] = status
    this.result[1] = needed
    return frames
  }

  read(
    firstBuffer: number,
    firstSegment: number,
    buffers: number,
    most: number,
    _usual: number,
    flags: number,
  ) {
    let [buffer, segment, left, full] = [firstBuffer, firstSegment, buffers, (flags & FULL) !== 0]
    this.result.fill(0)
    let frames = 0
    for (let attempt = 0; attempt < most; attempt++) {
      if (left === 0) return this.#end(frames, ENOBUFS, 1)
      const frame = this.waiting[0]
      if (frame === undefined) return this.#end(frames, EAGAIN)
      if (frame === "bad") {
        this.waiting.shift()
        return this.#end(frames, EINVAL)
      }
      let room = 0
      let used = 0
      for (let at = segment; used < ((flags & MERGEABLE) !== 0 ? left : 1) && room < frame; used++) {
        for (let k = this.receiveCounts[(buffer + used) & (BUFFERS - 1)]!; k > 0; k--, at++) {
          room += this.receiveLengths[at & (SEGMENTS - 1)]!
        }
      }
      if (room < frame && (flags & MERGEABLE) !== 0 && !full) return this.#end(frames, ENOBUFS, frame)
      this.waiting.shift()
      if (room < frame) {
        this.result[2]!++
        continue
      }
      this.heads.fill(0, HEAD_STRIDE * frames, HEAD_STRIDE * (frames + 1))
      this.heads.set(macBytes(GUEST_MAC), HEAD_STRIDE * frames + HEADER)
      this.frameBuffers[frames] = used
      this.frameBytes[frames] = frame
      frames++
      full = false
      left -= used
      for (; used > 0; used--) segment += this.receiveCounts[buffer++ & (BUFFERS - 1)]!
    }
    return this.#end(frames, 0)
  }
}

class FakeBackend implements NetBackend {
  readonly info = {
    description: "fake",
    maxQueuePairs: 1,
    transmitOffloads: 127,
    receiveOffloads: 127,
    linkUp: true,
  }
  readonly tap: FakeTap
  lost = 0
  #reader: TapReader | undefined

  constructor(tap: FakeTap) {
    this.tap = tap
    tap.edge = () => this.#reader?.pump()
  }

  start(session: NetSession): void {
    const events = { lost: () => void this.lost++, listen: (_: number, on: boolean) => this.tap.listen(on) }
    this.#reader = new TapReader(0, this.tap as unknown as Tap, session, events, 1500)
  }

  stop(): void {
    this.#reader = undefined
  }

  transmit(): boolean {
    return true
  }

  receiveReady(): void {
    this.#reader?.pump()
  }

  async close(): Promise<void> {}
}

async function tapped(queueSize: number, mergeable: boolean, length = 1000) {
  const backend = new FakeBackend(new FakeTap(length))
  const device = await net({ backend, mac: GUEST_MAC, queueSize })
  const n = new Nic(device, { queueSize, features: F.VERSION_1 | (mergeable ? F.MRG_RXBUF : 0n) })
  n.harness.start()
  return { n, device, tap: backend.tap, backend }
}

/** Until nothing happens any more by itself. */
async function settle() {
  for (let turns = 0; turns < 12; turns++) await turn()
}

it("goes on behind frames that the kernel could not hand over, though no edge comes for those", async () => {
  const { n, device, tap, backend } = await tapped(64, true)
  n.post(Array.from({ length: 8 }, () => [2000]))
  for (const frame of ["bad", 100, "bad", "bad", 100] as const) tap.arrive(frame)
  await settle()
  expect(tap.waiting).toEqual([])
  expect(device.counters).toMatchObject({ rxFrames: 2, rxErrors: 3 })
  expect(backend.lost).toBe(0)
  await device.close()
})

it("goes on in a later turn when a turn has had its share of frames", async () => {
  const { n, device, tap } = await tapped(64, true)
  n.post(Array.from({ length: 8 }, () => [2000]))
  for (let frame = 0; frame < 600; frame++) tap.arrive("bad")
  tap.arrive(100)
  await turn()
  expect(device.counters.rxErrors).toBeLessThan(600)
  await settle()
  expect(tap.waiting).toEqual([])
  expect(device.counters).toMatchObject({ rxFrames: 1, rxErrors: 600 })
  await device.close()
})

it("is not woken by frames while the guest has no buffers for them", async () => {
  const { n, device, tap } = await tapped(64, true)
  n.post([[2000]])
  tap.arrive(100)
  tap.arrive(100)
  await settle()
  expect(device.counters.rxFrames).toBe(1)
  const { edges } = tap
  for (let frame = 0; frame < 10; frame++) {
    tap.arrive(100)
    await turn()
  }
  expect(tap.edges).toBe(edges)
  n.post(Array.from({ length: 20 }, () => [2000]))
  await settle()
  expect(device.counters.rxFrames).toBe(12)
  tap.arrive(100)
  await settle()
  expect(tap.edges).toBeGreaterThan(edges)
  expect(device.counters.rxFrames).toBe(13)
  await device.close()
})

const frames = fc.oneof(
  { weight: 8, arbitrary: fc.integer({ min: HEADER + 14, max: 1600 }) },
  { weight: 2, arbitrary: fc.integer({ min: 1600, max: 9000 }) },
  { weight: 1, arbitrary: fc.constant("bad" as const) },
)
const steps = fc.array(
  fc.oneof(
    { weight: 4, arbitrary: fc.record({ frames: fc.array(frames, { maxLength: 400 }) }) },
    { weight: 4, arbitrary: fc.record({ buffers: fc.integer({ min: 1, max: 64 }) }) },
    { weight: 2, arbitrary: fc.record({ turns: fc.integer({ min: 1, max: 3 }) }) },
  ),
  { maxLength: 20 },
)

it("never leaves a frame that the guest has buffers for, however both come", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(64, 128),
      fc.boolean(),
      fc.constantFrom(8, 1000),
      steps,
      async (queueSize, mergeable, length, script) => {
        const { n, device, tap, backend } = await tapped(queueSize, mergeable, length)
        const ring = n.harness.ring(RX)
        let arrived = 0
        const post = (count: number) => {
          ring.reap()
          n.post(Array.from({ length: Math.min(count, ring.freeDescriptors) }, () => [1800]))
        }
        for (const step of script) {
          if ("frames" in step) for (const frame of step.frames) arrived += tap.arrive(frame) ? 1 : 0
          else if ("buffers" in step) post(step.buffers)
          else for (let turns = 0; turns < step.turns; turns++) await turn()
        }
        for (let rounds = 0; rounds < 200 && tap.waiting.length > 0; rounds++) {
          post(queueSize)
          await settle()
        }
        expect(tap.waiting).toEqual([])
        const { rxFrames, rxTooLong, rxErrors } = device.counters
        expect(rxFrames + rxTooLong + rxErrors).toBe(arrived)
        expect(backend.lost).toBe(0)
        await device.close()
      },
    ),
    { numRuns: 150 },
  )
})
