import { once } from "node:events"
import { closeSync, mkdtempSync, readdirSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { mmapMemory } from "@virtkit/memory/mmap"
import { EventFd, memfdCreate, UnixSocket, unixConnect } from "@virtkit/native"
import { EchoDevice, SplitRingDriver, TestAllocator } from "@virtkit/testkit"
import { serve } from "@virtkit/vhost-user"
import { Input, Output } from "../input.js"
import { type FuzzTarget, must } from "../target.js"
import { withoutNumbers } from "../words.js"

const MOST_STEPS = 40
const QUEUE_SIZES = [16, 8]
const GUEST = 0x1_0000
const MEMORY = 0x4_0000
/** Addresses of the front end differ from the guest's by this, in their upper half. */
const USER_HIGH = 0x7f00
/** Turns of the event loop in which all requests have been carried out. */
const TURNS = 20

/** One guest's memory and descriptors for all runs: what is in the memory is made anew. */
interface Host {
  readonly directory: string
  readonly memory: ReturnType<typeof mmapMemory>
  readonly events: readonly EventFd[]
  readonly other: number
}

let shared: Host | undefined

function host(): Host {
  if (shared !== undefined) return shared
  const directory = mkdtempSync(join(tmpdir(), "virtkit-fuzz-"))
  process.on("exit", () => rmSync(directory, { recursive: true, force: true }))
  const memory = mmapMemory([{ guestAddress: GUEST, size: MEMORY }], { backing: "memfd" })
  const events = [new EventFd(), new EventFd(), new EventFd()]
  shared = { directory, memory, events, other: memfdCreate("virtkit-fuzz", 0x1_0000) }
  return shared
}

/** The rings of a guest, one chain available in each. */
function makeRings({ memory }: Host): SplitRingDriver[] {
  memory.fill(GUEST, MEMORY, 0)
  const allocator = new TestAllocator(GUEST, MEMORY)
  return QUEUE_SIZES.map((size) => {
    const ring = new SplitRingDriver({ memory, allocator, size })
    ring.add({ readable: [Uint8Array.of(1, 2, 3)], writable: [8] })
    ring.publish()
    return ring
  })
}

/** What goes with a request: nothing, the guest's memory, eventfds, other memory, too many. */
const NO_FD = 0
const MEMORY_FD = 1
const EVENT_FD = 2
const OTHER_FD = 3

function descriptors({ memory, events, other }: Host, which: number): number[] {
  const guest = memory.regions[0]!.file!.fd
  switch (which % 6) {
    case NO_FD:
      return []
    case MEMORY_FD:
      return [guest]
    case EVENT_FD:
      return [events[0]!.fd]
    case OTHER_FD:
      return [other]
    case 4:
      return [guest, guest]
    default:
      return Array.from({ length: 9 }, (_, at) => events[at % events.length]!.fd)
  }
}

interface Known {
  readonly code: number
  readonly fd: number
  /** A payload that is right, for queue `index`. */
  payload(index: number, rings: readonly SplitRingDriver[]): Uint8Array
}

const nothing = () => new Uint8Array(0)
const u64 = (low: number, high = 0) => new Output().u32(low, high).input
const region = () => new Output().u32(GUEST, 0, MEMORY, 0, GUEST, USER_HIGH, 0, 0)
const state = (value: number) => (index: number) => new Output().u32(index, value).input
const VERSION_1_AND_PROTOCOL = [0x4000_0001, 1] as const
const VERSION_1_AND_PROTOCOL_AND_PACKED = [0x4000_0001, 5] as const

/** Requests that a front end sends, those of a start first. */
const REQUESTS: readonly Known[] = [
  { code: 1, fd: NO_FD, payload: nothing },
  { code: 15, fd: NO_FD, payload: nothing },
  { code: 16, fd: NO_FD, payload: () => u64(0x0001_b22b) },
  { code: 3, fd: NO_FD, payload: nothing },
  { code: 2, fd: NO_FD, payload: () => u64(...VERSION_1_AND_PROTOCOL) },
  { code: 5, fd: MEMORY_FD, payload: () => new Output().u32(1, 0).bytes(region().input).input },
  { code: 8, fd: NO_FD, payload: (index) => new Output().u32(index, QUEUE_SIZES[index]!).input },
  { code: 10, fd: NO_FD, payload: state(0) },
  { code: 9, fd: NO_FD, payload: addresses },
  { code: 13, fd: EVENT_FD, payload: (index) => u64(index) },
  { code: 12, fd: EVENT_FD, payload: (index) => u64(index) },
  { code: 18, fd: NO_FD, payload: state(1) },
  { code: 11, fd: NO_FD, payload: state(0) },
  { code: 14, fd: EVENT_FD, payload: (index) => u64(index) },
  { code: 17, fd: NO_FD, payload: nothing },
  { code: 24, fd: NO_FD, payload: () => new Output().u32(0, 7, 0).bytes(new Uint8Array(7)).input },
  { code: 25, fd: NO_FD, payload: () => new Output().u32(1, 3, 0).u8(9, 8, 7).input },
  { code: 31, fd: NO_FD, payload: () => new Output().u32(0, 0, 0, 0).u16(2, 16).u32(0).input },
  { code: 32, fd: OTHER_FD, payload: () => new Output().u32(0x1000, 0, 0, 0).u16(2, 16).u32(0).input },
  { code: 34, fd: NO_FD, payload: nothing },
  { code: 36, fd: NO_FD, payload: nothing },
  { code: 37, fd: MEMORY_FD, payload: () => new Output().u32(0, 0).bytes(region().input).input },
  { code: 38, fd: NO_FD, payload: () => new Output().u32(0, 0).bytes(region().input).input },
  { code: 39, fd: NO_FD, payload: () => u64(4) },
  { code: 40, fd: NO_FD, payload: nothing },
  { code: 6, fd: OTHER_FD, payload: () => new Output().u32(0x1000, 0, 0, 0).input },
  { code: 7, fd: EVENT_FD, payload: nothing },
  { code: 4, fd: NO_FD, payload: nothing },
  { code: 21, fd: EVENT_FD, payload: nothing },
  { code: 99, fd: NO_FD, payload: nothing },
  { code: 2, fd: NO_FD, payload: () => u64(...VERSION_1_AND_PROTOCOL_AND_PACKED) },
]
const KICK = REQUESTS.length

function addresses(index: number, rings: readonly SplitRingDriver[]): Uint8Array {
  const { desc, avail, used } = rings[index]!
  return new Output().u32(index, 0, desc, USER_HIGH, used, USER_HIGH, avail, USER_HIGH, 0, 0).input
}

/** The next request: one of those that are right, changed as the input says. */
function send(input: Input, socket: UnixSocket, all: Host, rings: readonly SplitRingDriver[]): void {
  const which = input.u8() % (KICK + 1)
  const how = input.u8()
  const index = how & 1
  if (which === KICK) {
    all.events[0]!.signal()
    return
  }
  const { code, fd, payload } = REQUESTS[which]!
  let bytes = payload(index, rings)
  for (let changes = (how >> 1) & 3; changes > 0; changes--) {
    const at = input.u8() % 0x40
    const number = input.u8()
    // Sizes are powers of two.
    const value = number < 8 ? 1 << number : number
    if (at < bytes.length) bytes[at] = value
    else if (at < 0x3c) bytes = bytes.slice(0, value % (bytes.length + 1))
    else bytes = new Uint8Array(Buffer.concat([bytes, new Uint8Array(value)]))
  }
  // REPLY_ACK, the version, and perhaps another length than that of the payload.
  const flags = (how & 8 ? 8 : 0) | (how & 0x80 && how & 0x40 ? input.u8() : 1)
  const length = (how & 0x30) === 0x30 ? input.u16() * 16 : bytes.length
  const fds = descriptors(all, (how & 0x30) === 0x10 ? input.u8() : fd)
  const message = new Output().u32(code, flags, length).bytes(bytes).input
  socket.send(message, 0, message.length, fds)
}

/** Looks at the answers that came; what they answer. */
function receive(socket: UnixSocket): string[] {
  const answers: string[] = []
  const bytes = new Uint8Array(0x1_0000)
  let filled = 0
  for (let count = 1; count > 0 && filled < bytes.length; filled += Math.max(count, 0)) {
    count = socket.receive(bytes, filled, bytes.length - filled)
    for (const fd of socket.fds.subarray(0, socket.fdCount)) closeSync(fd)
  }
  const view = new DataView(bytes.buffer)
  for (let at = 0; at < filled; ) {
    must(filled - at >= 12, "half an answer")
    const [code, flags, size] = [0, 4, 8].map((field) => view.getUint32(at + field, true)) as [
      number,
      number,
      number,
    ]
    must(flags === 5, `an answer with flags ${flags}`)
    must(filled - at >= 12 + size, `an answer of ${size} bytes that is shorter`)
    answers.push(`answer ${code} ${size === 8 && view.getUint32(at + 12, true) === 1 ? "no" : "yes"}`)
    at += 12 + size
  }
  return answers
}

async function run(bytes: Uint8Array): Promise<Iterable<string>> {
  const all = host()
  const rings = makeRings(all)
  const open = readdirSync("/proc/self/fd").length
  const device = new EchoDevice({ queueMaxSizes: QUEUE_SIZES, queueReset: true })
  const happened = new Set<string>()
  const wrong: string[] = []
  const server = serve(device, {
    socket: join(all.directory, "socket"),
    rings: { packed: true, inOrder: true },
  })
  const ended = once(server, "disconnected")
  server.on("deviceError", (error) => wrong.push(error.message))
  server.on("needsReset", (reason) => happened.add(withoutNumbers(reason)))
  server.on("queues", (running) => {
    happened.add(`queues ${running.join()}`)
    for (const queue of device.context?.queues ?? []) {
      if (queue !== undefined && queue.size > QUEUE_SIZES[queue.index]!)
        wrong.push(`a queue of ${queue.size}`)
    }
  })
  const socket = new UnixSocket(unixConnect(server.socket))
  try {
    const input = new Input(bytes)
    for (let steps = 0; input.left > 0 && steps < MOST_STEPS; steps++) {
      send(input, socket, all, rings)
      if (steps % 8 === 7) await turn()
    }
    for (let turns = 0; turns < TURNS; turns++) await turn()
    for (const answer of receive(socket)) happened.add(answer)
  } catch (error) {
    // It was turned away before it had said all.
    if ((error as NodeJS.ErrnoException).syscall === undefined) throw error
  } finally {
    socket.close()
  }
  const [reason] = (await ended) as [string | undefined]
  happened.add(withoutNumbers(reason ?? "the end"))
  await server.close()
  for (const call of all.events) call.clear()
  must(wrong.length === 0, wrong[0] ?? "")
  const left = readdirSync("/proc/self/fd").length
  must(left <= open, `${left - open} descriptors are left open`)
  return happened
}

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}

/** A start of both queues with work in them, then each other request; and the same in other orders. */
function seeds(): Uint8Array[] {
  const start = [0, 1, 2, 3, 4, 5].map((which) => [which, 8])
  const queues = [0, 1].flatMap((index) => [
    // Changed to what it is.
    [6, 8 | 2 | index, 4, Math.log2(QUEUE_SIZES[index]!)],
    ...[7, 8, 9, 10, 11].map((which) => [which, 8 | index]),
  ])
  // The same with packed rings, and with memory for what is in flight.
  const packed = [...start, [REQUESTS.length - 1, 8], [18, 8], ...queues, [KICK, 0], [12, 8], ...queues]
  const begun = [...start, ...queues, [KICK, 0]]
  const others = REQUESTS.map((_, which) => Uint8Array.from([...begun, [which, 8], [KICK, 0]].flat()))
  return [
    Uint8Array.from(begun.flat()),
    Uint8Array.from(packed.flat()),
    ...others,
    ...REQUESTS.map((_, which) => Uint8Array.of(which, 8)),
  ]
}

export const target: FuzzTarget = {
  about: "messages of a vhost-user front end, and their descriptors",
  maxBytes: 256,
  seeds,
  run,
}
