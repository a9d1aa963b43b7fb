import type { DriverChain } from "@virtkit/testkit"
import { loopbackBackend, type NetBackend, net, type TransmitFrame } from "@virtkit/virtio-net"
import { framed, harnessOf, QUEUE_SIZE } from "../chains.js"
import { Input, Output } from "../input.js"
import { type FuzzTarget, must } from "../target.js"

const [RX, TX] = [0, 1]
const HEADER = 12
/** Feature bits of 5.1.3. */
const MRG_RXBUF = 1n << 15n
const CSUM = (1n << 0n) | (1n << 1n)
const SEGMENTATION = (0x78n << 4n) | (0xfn << 11n) | (0xffn << 52n)
/** Commands of 5.1.6.5 as [class, command, bytes of data]. */
const COMMANDS: readonly (readonly [kind: number, command: number, bytes: number])[] = [
  [0, 0, 1],
  [0, 1, 1],
  [0, 5, 1],
  [1, 0, 8],
  [1, 0, 20],
  [1, 1, 6],
  [2, 0, 2],
  [2, 1, 2],
  [3, 0, 0],
  [4, 0, 2],
  [5, 0, 8],
  [0, 9, 1],
  [9, 0, 0],
]
const STEP = { receive: 0, transmit: 1, command: 2, turn: 3 } as const
const STEPS = 4
const MOST_STEPS = 48
const MOST_FRAME = 4096

interface Wire {
  readonly backend: NetBackend
  /** Frames that the guest sent. */
  readonly sent: string[]
}

/** Gives back what the guest sends, and looks at it: a TAP would get the same. */
function wire(): Wire {
  const backend = loopbackBackend()
  const transmit = backend.transmit.bind(backend)
  const sent: string[] = []
  backend.transmit = (pair, frame) => {
    checkTransmitted(frame)
    const bytes = Buffer.alloc(frame.byteLength)
    frame.copyTo(bytes)
    sent.push(bytes.toString("latin1"))
    return transmit(pair, frame)
  }
  return { backend, sent }
}

/** 5.1.6.2: what a host may rely on, since its kernel will. */
function checkTransmitted({ header, byteLength }: TransmitFrame): void {
  must(byteLength >= 14 && byteLength <= 65_550 + 4, `a frame of ${byteLength} bytes`)
  must((header.flags & ~1) === 0, `flags ${header.flags}`)
  if (header.flags !== 0)
    must(header.csumStart + header.csumOffset + 2 <= byteLength, "a checksum beyond the frame")
  if (header.gsoType !== 0) must(header.flags !== 0 && header.gsoSize > 0, "segments without end")
  must(header.hdrLen <= byteLength, "headers longer than the frame")
}

async function run(bytes: Uint8Array): Promise<Iterable<string>> {
  const input = new Input(bytes)
  const flags = input.u8()
  const { backend, sent } = wire()
  const device = await net({ backend, mac: "52:54:00:00:00:01" })
  let features = device.features | (1n << 32n) | (1n << 28n)
  if ((flags & 1) !== 0) features &= ~MRG_RXBUF
  if ((flags & 2) !== 0) features &= ~(CSUM | SEGMENTATION)
  const harness = harnessOf(device, features)
  const control = harness.queues.length - 1
  const waiting: DriverChain[] = []
  const events = new Set<string>()
  const reap = () => {
    for (const queue of [RX, TX, control]) harness.ring(queue).reap()
  }
  for (let steps = 0; input.left > 0 && steps < MOST_STEPS; steps++) {
    const kind = input.u8() % STEPS
    const queue = kind === STEP.receive ? RX : kind === STEP.transmit ? TX : control
    const request =
      kind === STEP.turn
        ? undefined
        : kind === STEP.receive
          ? framed(input, new Uint8Array(0), input.pick([2000, 0, 10, 12, 26, 40, 64, 600]))
          : kind === STEP.transmit
            ? framed(input, frameOf(input), input.pick([0, 0, 0, 0, 9]))
            : framed(input, commandOf(input), input.pick([1, 1, 1, 1, 0, 3]))
    if (request === undefined || harness.ring(queue).freeDescriptors < QUEUE_SIZE / 2) {
      await new Promise((resolve) => setImmediate(resolve))
    } else {
      const chain = harness.ring(queue).add(request)
      harness.kick(queue)
      if (queue !== RX) waiting.push(chain)
      else events.add(`buffers ${request.writable?.length}`)
    }
    for (const chain of harness.ring(RX).reap()) events.add(received(chain, sent, features))
    if (kind === STEP.command) events.add(`command ${waiting.at(-1)?.data?.[0]}`)
  }
  for (let turns = 0; waiting.some(({ written }) => written === undefined); turns++) {
    must(turns < 100, "a chain does not come back")
    reap()
    await new Promise((resolve) => setImmediate(resolve))
  }
  for (const { written, data } of waiting)
    must(written! <= data!.length, "more written than there was room for")
  const counters = device.counters
  const arrived =
    counters.rxFrames + counters.rxDropped + counters.rxErrors + counters.rxTooLong + counters.rxFiltered
  must(arrived === counters.txFrames, `${counters.txFrames} frames left, ${arrived} arrived`)
  for (const [name, count] of Object.entries(counters)) if (count) events.add(`${flags & 3} ${name}`)
  must(harness.needsReset.length === 0, `needs a reset: ${harness.needsReset[0]}`)
  await device.close()
  return events
}

/** 5.1.6.4: the header says how many buffers the frame has; in one, all of it is there. */
function received({ written, data }: DriverChain, sent: readonly string[], features: bigint): string {
  must(written! <= data!.length, "more written than there was room for")
  // No buffer for a header (bad-input #20).
  if (written === 0) return "given back"
  // Of a merged frame only the first buffer has a header.
  if ((features & MRG_RXBUF) !== 0n) return "received"
  must(written! >= HEADER, "a frame without a header")
  must(data![10]! === 1 && data![11]! === 0, "a frame in one buffer is in another number of them")
  const text = Buffer.from(data!.subarray(HEADER, written)).toString("latin1")
  must(sent.includes(text), "a frame arrived that nobody sent")
  return "received whole"
}

function frameOf(input: Input): Uint8Array {
  const header = input.u8()
  const out = new Output()
  if ((header & 1) !== 0) out.bytes(input.bytes(HEADER))
  else out.bytes(new Uint8Array(HEADER))
  const length = input.pick([60, 14, 1500, 13, 0, 64, 200, 4000])
  const frame = new Uint8Array(length).fill(input.u8())
  // To all, so that it comes back whatever the filter says.
  if ((header & 2) === 0) frame.fill(0xff, 0, 6)
  const whole = out.bytes(frame).input.subarray(0, MOST_FRAME)
  return (header & 4) === 0 ? whole : whole.subarray(0, input.u8() % 28)
}

function commandOf(input: Input): Uint8Array {
  const [kind, command, bytes] = input.pick(COMMANDS)
  const more = input.u8()
  const data = input.bytes(more < 0x80 ? bytes : more % 40)
  return new Output().u8(kind, command).bytes(data).input
}

function seeds(): Uint8Array[] {
  const receive = [STEP.receive, 0, 0, 0]
  const send = (header: number[], length = 0) => [STEP.transmit, ...header, length, 7, 0, 0, 0]
  const plain = [...receive, ...receive, ...send([0]), STEP.turn, ...send([0], 2), STEP.turn]
  const checksum = [...receive, ...send([1, 1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0]), STEP.turn]
  // The last two bytes of the frame are the last that may be.
  const end = [...receive, ...send([1, 1, 0, 0, 0, 0, 0, 34, 0, 24, 0, 0, 0]), STEP.turn]
  const segments = [...receive, ...send([1, 1, 1, 54, 0, 200, 0, 34, 0, 16, 0, 0, 0], 2), STEP.turn]
  const small = [
    STEP.receive,
    5,
    1,
    0,
    STEP.receive,
    6,
    1,
    0,
    STEP.receive,
    7,
    1,
    0,
    ...send([0], 6),
    STEP.turn,
  ]
  const commands = COMMANDS.map(([, , bytes], index) => {
    return [STEP.command, index, 0, ...new Array<number>(bytes).fill(index === 3 ? 0 : 1), 0, 1, 0]
  })
  const all = [plain, checksum, end, segments, small, ...commands, commands.flat()]
  return all.flatMap((steps) => [0, 1, 2].map((flags) => Uint8Array.from([flags, ...steps])))
}

export const target: FuzzTarget = {
  about: "frames, headers and control commands of virtio-net",
  maxBytes: 1024,
  seeds,
  run,
}
