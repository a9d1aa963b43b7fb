import { constants } from "node:os"
import type { Tap } from "@virtkit/native"
import { TestMemory } from "@virtkit/testkit"
import { type NetBackend, type NetSession, net } from "@virtkit/virtio-net"
import fc from "fast-check"
import { expect, it } from "vitest"
import { BUFFERS, FRAMES, SEGMENTS } from "../src/backends/tap-open.js"
import { TapReader } from "../src/backends/tap-reader.js"
import { F, frame, GUEST_MAC, HEADER, header, macBytes, Nic, RX, TX, turn } from "./helpers.js"

const { EAGAIN, ENOBUFS, EINVAL } = constants.errno
const HEAD_STRIDE = 32
const BUFFER_BYTES = 1800
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
  readonly arrived: Frame[] = []
  #listening = true
  #scheduled = false
  /** A frame that was read and fits no buffer yet: the addon has it, the kernel has not. */
  #held: Frame | undefined

  constructor(length: number) {
    this.length = length
  }

  drop(): void {}

  /** Frames that nobody has yet. */
  get left(): number {
    return this.waiting.length + (this.#held === undefined ? 0 : 1)
  }

  /** A frame for the guest; false when the queue of the kernel is full. */
  arrive(frame: Frame): boolean {
    if (this.waiting.length === this.length) return false
    this.waiting.push(frame)
    this.arrived.push(frame)
    this.#report()
    return true
  }

  listen(on: boolean): void {
    this.#listening = on
    if (this.waiting.length > 0) this.#report()
  }

  /** The reader must give it another buffer before that slot's turn comes again. */
  #use(segment: number): void {
    const slot = segment & (SEGMENTS - 1)
    if (Number.isNaN(this.receiveAddresses[slot])) throw new Error("a buffer is used twice")
    this.receiveAddresses[slot] = Number.NaN
  }

  #report(): void {
    if (this.#scheduled || !this.#listening) return
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      // epoll_wait looks again: what was read meanwhile is not reported.
      if (this.waiting.length === 0 || !this.#listening) return
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
      const frame = this.#held ?? this.waiting.shift()
      this.#held = undefined
      if (frame === undefined) return this.#end(frames, EAGAIN)
      if (frame === "bad") return this.#end(frames, EINVAL)
      let room = 0
      let used = 0
      for (let at = segment; used < ((flags & MERGEABLE) !== 0 ? left : 1) && room < frame; used++) {
        for (let k = this.receiveCounts[(buffer + used) & (BUFFERS - 1)]!; k > 0; k--, at++) {
          room += this.receiveLengths[at & (SEGMENTS - 1)]!
        }
      }
      if (room < frame && (flags & MERGEABLE) !== 0 && !full) {
        this.#held = frame
        return this.#end(frames, ENOBUFS, frame)
      }
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
      for (; used > 0; used--) {
        for (let k = this.receiveCounts[buffer++ & (BUFFERS - 1)]!; k > 0; k--, segment++) this.#use(segment)
      }
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
  /** What comes back for each frame that is sent. */
  answer: Frame | undefined
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
    if (this.answer !== undefined) this.tap.arrive(this.answer)
    return true
  }

  committed(_pair: number, frames: number): void {
    this.#reader?.glance(frames)
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

/** The guest sends so many frames at once. */
function send(n: Nic, frames: number) {
  const ring = n.harness.ring(TX)
  ring.reap()
  for (let sent = Math.min(frames, ring.freeDescriptors); sent > 0; sent--) {
    ring.add({ readable: [Uint8Array.from([...header(), ...frame()])] })
  }
  n.harness.kick(TX)
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
  expect(tap.left).toBe(0)
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
  expect(tap.left).toBe(0)
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

it("reads what answers a batch before there is an event", async () => {
  const { n, device, tap, backend } = await tapped(64, true)
  n.post(Array.from({ length: 20 }, () => [2000]))
  await settle()
  backend.answer = 100
  send(n, 3)
  expect(device.counters).toMatchObject({ txFrames: 3, rxFrames: 3 })
  await settle()
  expect(tap.edges).toBe(0)
  // No more than were sent: others have an event of their own.
  backend.answer = undefined
  for (let arrived = 0; arrived < 5; arrived++) tap.arrive(100)
  send(n, 2)
  expect(device.counters.rxFrames).toBe(5)
  await settle()
  expect(tap.edges).toBe(1)
  expect(device.counters.rxFrames).toBe(8)
  await device.close()
})

it("goes on by itself with an answer that was read and had no room", async () => {
  const { n, device, tap, backend } = await tapped(256, true)
  // So many that no more are looked for before one is needed.
  n.post(Array.from({ length: FRAMES + 1 }, () => [100]))
  tap.arrive(50)
  await settle()
  n.post(Array.from({ length: 20 }, () => [100]))
  backend.answer = 100 * FRAMES + 500
  send(n, 1)
  await settle()
  expect(tap.left).toBe(0)
  expect(device.counters).toMatchObject({ rxFrames: 2, rxTooLong: 0 })
  await device.close()
})

it("takes more buffers, one after the other, than it has room for at once", async () => {
  const { n, device, tap, backend } = await tapped(64, true)
  const ring = n.harness.ring(RX)
  backend.answer = 400
  for (let sent = 0; sent < 2 * SEGMENTS; sent += 16) {
    ring.reap()
    n.post(Array.from({ length: Math.min(32, ring.freeDescriptors >> 1) }, () => [100, 300]))
    send(n, 16)
    await turn()
  }
  expect(tap.left).toBe(0)
  expect(device.counters).toMatchObject({ rxFrames: 2 * SEGMENTS, rxTooLong: 0 })
  await device.close()
})

it("does not look for answers while no event would come", async () => {
  let asked = 0
  const none = {
    ...{ count: 0, limit: 64, mergeable: true, inOrder: false, checksums: true },
    at: () => undefined,
    refill: () => false,
    allowance: () => ++asked,
    filled: () => true,
    dropped: () => {},
  }
  const session = { memory: new TestMemory({ regions: [] }), buffers: () => none } as unknown as NetSession
  const events = { lost: () => {}, listen: () => {} }
  const reader = new TapReader(0, new FakeTap(8) as unknown as Tap, session, events, 1500)
  reader.glance(3)
  expect(asked).toBe(1)
  reader.glance(3)
  expect(asked).toBe(1)
})

it("does not look for answers while a later turn goes on", async () => {
  const { n, device, tap, backend } = await tapped(64, true)
  tap.arrive(100)
  await settle()
  backend.answer = 100
  send(n, 3)
  expect(tap.left).toBe(4)
  n.post(Array.from({ length: 8 }, () => [2000]))
  expect(device.counters.rxFrames).toBe(4)
  backend.answer = undefined
  for (let arrived = 0; arrived < 300; arrived++) tap.arrive("bad")
  tap.edge()
  const { rxErrors } = device.counters
  expect(rxErrors).toBeLessThan(300)
  send(n, 10)
  expect(device.counters.rxErrors).toBe(rxErrors)
  await settle()
  expect(device.counters.rxErrors).toBe(300)
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
    { weight: 3, arbitrary: fc.record({ sent: fc.integer({ min: 1, max: 64 }), answer: frames }) },
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
        const post = (count: number) => {
          ring.reap()
          n.post(Array.from({ length: Math.min(count, ring.freeDescriptors) }, () => [BUFFER_BYTES]))
        }
        for (const step of script) {
          if ("frames" in step) for (const frame of step.frames) tap.arrive(frame)
          else if ("buffers" in step) post(step.buffers)
          else if ("sent" in step) {
            backend.answer = step.answer
            send(n, step.sent)
          } else for (let turns = 0; turns < step.turns; turns++) await turn()
        }
        for (let rounds = 0; rounds < 200 && tap.left > 0; rounds++) {
          post(queueSize)
          await settle()
        }
        expect(tap.left).toBe(0)
        const bad = tap.arrived.filter((frame) => frame === "bad").length
        const long = mergeable
          ? 0
          : tap.arrived.filter((frame) => frame !== "bad" && frame > BUFFER_BYTES).length
        expect(device.counters).toMatchObject({
          rxFrames: tap.arrived.length - bad - long,
          rxTooLong: long,
          rxErrors: bad,
        })
        expect(backend.lost).toBe(0)
        await device.close()
      },
    ),
    { numRuns: 150 },
  )
})
