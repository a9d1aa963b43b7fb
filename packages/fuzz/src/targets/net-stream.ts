import { Duplex } from "node:stream"
import type { NetSession } from "@virtkit/virtio-net"
import { duplexBackend } from "@virtkit/virtio-net/socket"
import { Input, Output } from "../input.js"
import { type FuzzTarget, must } from "../target.js"

/** The longest frame, with its VLAN tag. */
const MOST_FRAME = 65_553
const LENGTH = 4
const STEP = { bytes: 0, frame: 1, length: 2, refuse: 3, ready: 4, turn: 5, end: 6, stop: 7 } as const
const STEPS = 8
const MOST_STEPS = 64

/** What the specification of the framing makes of a stream: the frames in it, and whether it goes on after them. */
function decode(bytes: Uint8Array): { frames: Uint8Array[]; broken: boolean } {
  const frames: Uint8Array[] = []
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  for (let at = 0; at + LENGTH <= bytes.length; ) {
    const length = view.getUint32(at)
    if (length > MOST_FRAME) return { frames, broken: true }
    if (at + LENGTH + length > bytes.length) break
    frames.push(bytes.subarray(at + LENGTH, at + LENGTH + length))
    at += LENGTH + length
  }
  return { frames, broken: false }
}

async function run(bytes: Uint8Array): Promise<Iterable<string>> {
  const input = new Input(bytes)
  const events = new Set<string>()
  const got: Uint8Array[] = []
  const pushed: Uint8Array[] = []
  let refusals = 0
  let link = true
  let running = true
  const session: NetSession = {
    memory: nobody.memory,
    queuePairs: 1,
    receive: (_pair, frame) => {
      must(running, "a frame after the end of the session")
      must(frame.length <= MOST_FRAME, `a frame of ${frame.length} bytes`)
      if (refusals > 0) {
        refusals--
        events.add("refused")
        return false
      }
      got.push(frame.slice())
      return true
    },
    defer: (task) => void setImmediate(task),
    received: () => {},
    dropped: () => {},
    buffers: () => undefined,
    transmitReady: () => {},
    linkChanged: (up, reason) => {
      must(link && !up, "the link changes twice")
      link = up
      events.add(reason.replaceAll(/\d+/g, "#"))
    },
    transmitFailed: () => {},
  }
  const wire = new Duplex({ read: () => {}, write: (_chunk, _encoding, done) => done() })
  const backend = duplexBackend(wire)
  backend.start(session, 0)
  const turn = () => new Promise((resolve) => setImmediate(resolve))
  const push = (chunk: Uint8Array) => {
    if (chunk.length === 0 || wire.destroyed || wire.readableEnded || ended) return
    pushed.push(chunk)
    wire.push(chunk)
  }
  let ended = false
  for (let steps = 0; input.left > 0 && steps < MOST_STEPS && running; steps++) {
    const kind = input.u8() % STEPS
    if (kind === STEP.bytes) {
      push(input.bytes(input.u8()))
    } else if (kind === STEP.frame) {
      const length = input.u16() % 3000
      const frame = new Output()
        .u8(0, 0, length >> 8, length)
        .bytes(new Uint8Array(length).fill(input.u8())).input
      const cut = input.u16() % (frame.length + 1)
      push(frame.subarray(0, cut))
      if (input.u8() & 1) await turn()
      push(frame.subarray(cut))
    } else if (kind === STEP.length) {
      push(new Output().u8(...input.bytes(LENGTH)).input)
    } else if (kind === STEP.refuse) {
      refusals = input.u8() % 4
    } else if (kind === STEP.ready) {
      backend.receiveReady!(0)
    } else if (kind === STEP.end) {
      ended = true
      wire.push(null)
    } else if (kind === STEP.stop && (input.u8() & 7) === 0) {
      running = false
      backend.stop()
    } else {
      await turn()
    }
  }
  refusals = 0
  for (let turns = 0; turns < 6 && running; turns++) {
    backend.receiveReady!(0)
    await turn()
  }
  const { frames, broken } = decode(Buffer.concat(pushed))
  events.add(`${Math.min(4, frames.length)} frames${broken ? ", then rubbish" : ""}`)
  const same = got.every((frame, index) => Buffer.compare(frame, frames[index] ?? nobody.bytes) === 0)
  must(same && got.length <= frames.length, "frames that were not sent")
  // After the end of the stream what the guest had no room for may be lost.
  if (running && !ended)
    must(got.length === frames.length, `${got.length} of ${frames.length} frames arrived`)
  if (broken && running && !ended) must(!link, "the link is up after rubbish")
  await backend.close()
  return events
}

const nobody = { memory: undefined as never, bytes: Uint8Array.of(1) }

function seeds(): Uint8Array[] {
  const frame = (length: number, cut: number, wait = 0) =>
    new Output().u8(STEP.frame).u16(length).u8(7).u16(cut).u8(wait).input
  const list = [
    [frame(60, 64), frame(1500, 100), Uint8Array.of(STEP.turn), frame(14, 2, 1), Uint8Array.of(STEP.turn)],
    [
      Uint8Array.of(STEP.refuse, 1),
      frame(60, 3, 1),
      frame(70, 74),
      Uint8Array.of(STEP.turn, STEP.ready, STEP.turn),
    ],
    [frame(60, 10), Uint8Array.of(STEP.length, 0, 1, 0, 17, STEP.turn, STEP.bytes, 3, 1, 2, 3, STEP.turn)],
    [frame(60, 10), Uint8Array.of(STEP.length, 0, 1, 0, 18, STEP.turn), frame(60, 10)],
    [frame(2000, 50), Uint8Array.of(STEP.end, STEP.turn)],
    [frame(2000, 50), Uint8Array.of(STEP.stop, 0)],
  ]
  return list.map((parts) => new Uint8Array(Buffer.concat(parts)))
}

export const target: FuzzTarget = {
  about: "frames that come over a stream: sockets, passt",
  maxBytes: 1024,
  seeds,
  run,
}
