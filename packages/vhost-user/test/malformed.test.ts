import { openSync } from "node:fs"
import { EventFd, memfdCreate, unixPair } from "@virtkit/native"
import { EchoDevice } from "@virtkit/testkit"
import fc from "fast-check"
import { afterAll, describe, expect, it } from "vitest"
import { connect, serving, text, until } from "./fixture.js"
import {
  ALL_PROTOCOL_FEATURES,
  concat,
  F_PROTOCOL,
  F_VERSION_1,
  type FrontEnd,
  inflight,
  REQ,
  USER_OFFSET,
  u32,
  u64,
} from "./front-end.js"

const event = new EventFd()
const file = memfdCreate("file", 1 << 20)
const folder = openSync("/", "r")
const socket = unixPair()[0]
afterAll(() => event.close())

const MiB = 1 << 20
const region = (guest: number, size: number, user: number, offset = 0) => u64(guest, size, user, offset)
const table = (...regions: Uint8Array[]) => concat(u32(regions.length, 0), ...regions)
const config = (offset: number, size: number, have = size) =>
  concat(u32(offset, size, 0), new Uint8Array(have))
const addresses = (index: number, flags: number, ...where: (number | bigint)[]) =>
  concat(u32(index, flags), u64(...where))

/** Sizes and descriptors that each request has when it is right. */
const RIGHT: Record<keyof typeof REQ, { sizes: number[]; fds: [number, number] }> = {
  GET_FEATURES: { sizes: [0], fds: [0, 0] },
  SET_FEATURES: { sizes: [8], fds: [0, 0] },
  SET_OWNER: { sizes: [0], fds: [0, 0] },
  RESET_OWNER: { sizes: [0], fds: [0, 0] },
  SET_MEM_TABLE: { sizes: [40, 72, 104, 136, 168, 200, 232, 264], fds: [1, 8] },
  SET_LOG_BASE: { sizes: [16], fds: [1, 1] },
  SET_LOG_FD: { sizes: [0, 8], fds: [1, 1] },
  SET_VRING_NUM: { sizes: [8], fds: [0, 0] },
  SET_VRING_ADDR: { sizes: [40], fds: [0, 0] },
  SET_VRING_BASE: { sizes: [8], fds: [0, 0] },
  GET_VRING_BASE: { sizes: [8], fds: [0, 0] },
  SET_VRING_KICK: { sizes: [8], fds: [0, 1] },
  SET_VRING_CALL: { sizes: [8], fds: [0, 1] },
  SET_VRING_ERR: { sizes: [8], fds: [0, 1] },
  GET_PROTOCOL_FEATURES: { sizes: [0], fds: [0, 0] },
  SET_PROTOCOL_FEATURES: { sizes: [8], fds: [0, 0] },
  GET_QUEUE_NUM: { sizes: [0], fds: [0, 0] },
  SET_VRING_ENABLE: { sizes: [8], fds: [0, 0] },
  SET_BACKEND_REQ_FD: { sizes: [0, 8], fds: [1, 1] },
  GET_CONFIG: { sizes: [], fds: [0, 0] },
  SET_CONFIG: { sizes: [], fds: [0, 0] },
  GET_INFLIGHT_FD: { sizes: [20, 24], fds: [0, 0] },
  SET_INFLIGHT_FD: { sizes: [20, 24], fds: [1, 1] },
  RESET_DEVICE: { sizes: [0], fds: [0, 0] },
  GET_MAX_MEM_SLOTS: { sizes: [0], fds: [0, 0] },
  ADD_MEM_REG: { sizes: [40], fds: [1, 1] },
  REM_MEM_REG: { sizes: [40], fds: [0, 1] },
  SET_STATUS: { sizes: [8], fds: [0, 0] },
  GET_STATUS: { sizes: [0], fds: [0, 0] },
}

type Send = (front: FrontEnd) => void

/** Every request with a payload that is too short or too long, and with descriptors missing or extra. */
function wrongFrames(): [name: string, send: Send, reason: RegExp][] {
  const cases: [string, Send, RegExp][] = []
  for (const [name, { sizes, fds }] of Object.entries(RIGHT)) {
    const code = REQ[name as keyof typeof REQ]
    const candidates = [0, 1, 4, 7, 9, 11, 12, 39, 41, 300, 512].filter((size) => !sizes.includes(size))
    const right = new Array<number>(fds[0]).fill(event.fd)
    for (const size of candidates) {
      // A zeroed configuration request of 12 bytes is one about 0 bytes.
      if (name.endsWith("_CONFIG") && size === 12) continue
      cases.push([
        `${name} of ${size} bytes`,
        (front) => front.send(code, new Uint8Array(size), right, 8),
        new RegExp(`^${name}: a payload of ${size} bytes|^SET_MEM_TABLE: 0 regions`),
      ])
    }
    const size = sizes[0] ?? 12
    for (const count of [fds[0] - 1, fds[1] + 1, 30]) {
      if (count < 0) continue
      cases.push([
        `${name} with ${count} descriptors`,
        (front) => front.send(code, new Uint8Array(size), new Array<number>(count).fill(event.fd), 8),
        new RegExp(`^${name}: came with ${count} descriptors`),
      ])
    }
  }
  return cases
}

const addRegion =
  (fd: number, ...numbers: [number, number, number, number?]): Send =>
  (front) =>
    front.send(REQ.ADD_MEM_REG, concat(u64(0), region(...numbers)), [fd], 8)
const setTable =
  (fds: number[], ...regions: Uint8Array[]): Send =>
  (front) =>
    front.send(REQ.SET_MEM_TABLE, table(...regions), fds, 8)

/** Payloads that say what cannot be; the front end has begun, and ring 0 runs. */
const WRONG: [name: string, send: Send, reason: RegExp][] = [
  [
    "a header of another version",
    (front) => front.send(REQ.SET_OWNER, undefined, undefined, 0, 2),
    /version 2/,
  ],
  ["a reply", (front) => front.send(REQ.SET_OWNER, undefined, undefined, 4), /^SET_OWNER: a reply/],
  [
    "a payload that is never sent",
    (front) => front.sendRaw(u32(REQ.SET_FEATURES, 1, 0xffff_ffff)),
    /payload of 4294967295/,
  ],
  ["request 0", (front) => front.send(0), /request 0 is not/],
  ["POSTCOPY_ADVISE", (front) => front.send(28), /request 28 is not/],
  [
    "HOST_NOTIFIER's neighbour, an IOTLB message",
    (front) => front.send(22, new Uint8Array(32)),
    /request 22 is not/,
  ],
  [
    "features that were not offered",
    (front) => front.send(REQ.SET_FEATURES, u64(1n << 34n)),
    /0x400000000 were not offered/,
  ],
  [
    "other features while queues run",
    (front) => front.send(REQ.SET_FEATURES, u64(F_VERSION_1 | F_PROTOCOL)),
    /while queues run/,
  ],
  [
    "protocol features that were not offered",
    (front) => front.send(REQ.SET_PROTOCOL_FEATURES, u64(1n << 11n)),
    /0x800 were not offered/,
  ],

  [
    "a table of no region",
    (front) => front.send(REQ.SET_MEM_TABLE, concat(table(), new Uint8Array(32)), [file]),
    /0 regions/,
  ],
  [
    "a table of 9 regions",
    (front) =>
      front.send(REQ.SET_MEM_TABLE, table(...new Array<Uint8Array>(9).fill(region(0, MiB, 0))), [file]),
    /9 regions/,
  ],
  [
    "a table with more regions than descriptors",
    setTable([file], region(0, MiB, 0), region(MiB, MiB, MiB)),
    /2 regions came with 1 descriptors/,
  ],
  [
    "a table with fewer regions than descriptors",
    setTable([file, file], region(0, MiB, 0)),
    /1 regions came with 2 descriptors/,
  ],
  [
    "a table that says less than it has",
    (front) => front.send(REQ.SET_MEM_TABLE, concat(u32(1, 0), new Uint8Array(64)), [file]),
    /72 bytes with 1 regions/,
  ],
  [
    "regions that overlap in the guest",
    setTable([file, file], region(0, MiB, 0), region(MiB / 2, MiB, 2 * MiB)),
    /guest address 0x80000 overlaps/,
  ],
  [
    "regions that overlap in the front end",
    setTable([file, file], region(0, MiB, 0), region(MiB, MiB, MiB - 1)),
    /user address 0xfffff overlaps/,
  ],
  ["a region that wraps in the guest", setTable([file], region(2 ** 53 - 4096, MiB, 0)), /wraps/],
  ["a region that wraps in the front end", setTable([file], region(0, MiB, 2 ** 53 - 4096)), /wraps/],
  ["a region whose offset wraps", setTable([file], region(0, MiB, 0, 2 ** 53 - 4096)), /wraps/],
  [
    "a region above 2^53 (bad-input #35)",
    (front) => front.send(REQ.SET_MEM_TABLE, table(u64(1n << 63n, MiB, 0, 0)), [file]),
    /above 2\^53/,
  ],
  ["a region of 0 bytes", setTable([file], region(0, 0, 0)), /0 bytes/],
  ["a region at an odd address", setTable([file], region(123, MiB, 0)), /multiple of 4096/],
  ["a region of an odd size", setTable([file], region(0, 5000, 0)), /multiple of 4096/],
  ["a region longer than its file", setTable([file], region(0, 2 * MiB, 0)), /file of 1048576 bytes/],
  ["a region behind the end of its file", setTable([file], region(0, MiB, 0, MiB)), /file of 1048576 bytes/],
  ["a region of what is no file", setTable([event.fd], region(0, MiB, 0)), /no file or memfd/],
  ["a region of a directory", setTable([folder], region(0, MiB, 0)), /no file or memfd/],
  ["a huge region", setTable([file], region(0, 2 ** 52, 0)), /file of 1048576 bytes/],
  ["an added region that overlaps in the guest", addRegion(file, 0x10000, MiB, 0), /overlaps/],
  [
    "an added region that overlaps in the front end",
    addRegion(file, 0x1000_0000, MiB, USER_OFFSET + 0x11000),
    /overlaps/,
  ],
  ["an added region of what is no file", addRegion(socket, 0x1000_0000, MiB, 0), /no file or memfd/],
  [
    "a removed region that is not there",
    (front) => front.send(REQ.REM_MEM_REG, concat(u64(0), region(0, MiB, 0))),
    /no such region/,
  ],
  [
    "the region under a running ring removed",
    (front) => {
      const { guestAddress, size } = front.memory.regions[0]!
      front.send(REQ.REM_MEM_REG, concat(u64(0), region(guestAddress, size, guestAddress + USER_OFFSET)))
    },
    /not in the memory table/,
  ],

  [
    "a queue that is not there, SET_VRING_NUM (bad-input #3)",
    (front) => front.send(REQ.SET_VRING_NUM, u32(2, 8)),
    /queue 2, the device has 2/,
  ],
  [
    "a queue that is not there, SET_VRING_ADDR",
    (front) => front.send(REQ.SET_VRING_ADDR, addresses(9, 0, 0, 0, 0, 0)),
    /queue 9/,
  ],
  [
    "a queue that is not there, SET_VRING_BASE",
    (front) => front.send(REQ.SET_VRING_BASE, u32(0xffff_ffff, 0)),
    /queue 4294967295/,
  ],
  [
    "a queue that is not there, GET_VRING_BASE",
    (front) => front.send(REQ.GET_VRING_BASE, u32(2, 0)),
    /queue 2/,
  ],
  [
    "a queue that is not there, SET_VRING_KICK (bad-input #4)",
    (front) => front.send(REQ.SET_VRING_KICK, u64(2), [event.fd]),
    /queue 2/,
  ],
  [
    "a queue that is not there, SET_VRING_ENABLE",
    (front) => front.send(REQ.SET_VRING_ENABLE, u32(2, 1)),
    /queue 2/,
  ],
  ["a queue of 0 descriptors", (front) => front.send(REQ.SET_VRING_NUM, u32(1, 0)), /cannot have 0/],
  ["a queue of 3 descriptors", (front) => front.send(REQ.SET_VRING_NUM, u32(1, 3)), /cannot have 3/],
  [
    "a queue above its maximum",
    (front) => front.send(REQ.SET_VRING_NUM, u32(1, 16)),
    /cannot have 16 descriptors/,
  ],
  [
    "another size of a running ring (bad-input #1)",
    (front) => front.send(REQ.SET_VRING_NUM, u32(0, 8)),
    /queue 0 runs/,
  ],
  [
    "other addresses of a running ring (bad-input #1)",
    (front) => front.send(REQ.SET_VRING_ADDR, addresses(0, 0, 0, 0, 0, 0)),
    /queue 0 runs/,
  ],
  [
    "another base of a running ring (bad-input #1)",
    (front) => front.send(REQ.SET_VRING_BASE, u32(0, 1)),
    /queue 0 runs/,
  ],
  [
    "unknown flags of a ring",
    (front) => front.send(REQ.SET_VRING_ADDR, addresses(1, 2, 0, 0, 0, 0)),
    /unknown flags 0x2/,
  ],
  [
    "a ring above 2^53",
    (front) => front.send(REQ.SET_VRING_ADDR, addresses(1, 0, 1n << 60n, 0, 0, 0)),
    /above 2\^53/,
  ],
  ["a base above 65535", (front) => front.send(REQ.SET_VRING_BASE, u32(1, 0x1_0000)), /above 65535/],
  [
    "a queue that is enabled twice over",
    (front) => front.send(REQ.SET_VRING_ENABLE, u32(1, 2)),
    /2 is neither/,
  ],
  ["a ring to be polled", (front) => front.send(REQ.SET_VRING_KICK, u64(0x101)), /polling is not supported/],
  [
    "a kick without its descriptor",
    (front) => front.send(REQ.SET_VRING_KICK, u64(1)),
    /without its descriptor/,
  ],
  [
    "a call without its descriptor",
    (front) => front.send(REQ.SET_VRING_CALL, u64(1)),
    /without its descriptor/,
  ],
  [
    "a descriptor that the payload denies",
    (front) => front.send(REQ.SET_VRING_CALL, u64(0x101), [event.fd]),
    /denies/,
  ],
  [
    "unknown bits beside a queue's index",
    (front) => front.send(REQ.SET_VRING_ERR, u64(0x201), [event.fd]),
    /unknown bits/,
  ],
  ["a kick that is no eventfd", (front) => front.send(REQ.SET_VRING_KICK, u64(1), [file]), /no eventfd/],
  ["a call that is a socket", (front) => front.send(REQ.SET_VRING_CALL, u64(1), [socket]), /no eventfd/],
  ["an err that is a directory", (front) => front.send(REQ.SET_VRING_ERR, u64(1), [folder]), /no eventfd/],
  [
    "a ring started without a size",
    (front) => {
      front.send(REQ.SET_VRING_KICK, u64(1), [event.fd])
      front.send(REQ.SET_VRING_ENABLE, u32(1, 1))
    },
    /without SET_VRING_NUM/,
  ],
  [
    "a ring started without addresses",
    (front) => {
      front.send(REQ.SET_VRING_NUM, u32(1, 8))
      front.send(REQ.SET_VRING_ENABLE, u32(1, 1))
      front.send(REQ.SET_VRING_KICK, u64(1), [event.fd])
    },
    /without SET_VRING_ADDR/,
  ],
  [
    "a ring outside of memory (bad-input #11)",
    (front) => {
      front.send(REQ.SET_VRING_NUM, u32(1, 8))
      front.send(REQ.SET_VRING_ADDR, addresses(1, 0, 4096, 8192, 12288, 0))
      front.send(REQ.SET_VRING_KICK, u64(1), [event.fd])
      front.send(REQ.SET_VRING_ENABLE, u32(1, 1))
    },
    /descriptor table of queue 1 at user address 0x1000 is not in the memory table/,
  ],
  [
    "a ring across the end of memory (bad-input #11)",
    (front) => {
      const { guestAddress, size } = front.memory.regions[0]!
      const end = guestAddress + size + USER_OFFSET
      front.send(REQ.SET_VRING_NUM, u32(1, 8))
      front.send(REQ.SET_VRING_ADDR, addresses(1, 0, end - 16, end - 8192, end - 4096, 0))
      front.send(REQ.SET_VRING_KICK, u64(1), [event.fd])
      front.send(REQ.SET_VRING_ENABLE, u32(1, 1))
    },
    /not in guest memory/,
  ],

  ["a log of 0 bytes", (front) => front.send(REQ.SET_LOG_BASE, u64(0, 0), [file]), /0 bytes/],
  [
    "a log longer than its file",
    (front) => front.send(REQ.SET_LOG_BASE, u64(2 * MiB, 0), [file]),
    /file of 1048576/,
  ],
  ["a log above 2^53", (front) => front.send(REQ.SET_LOG_BASE, u64(1n << 60n, 0), [file]), /above 2\^53/],
  [
    "a log that is an eventfd",
    (front) => front.send(REQ.SET_LOG_BASE, u64(4096, 0), [event.fd]),
    /no file or memfd/,
  ],
  [
    "configuration past 256 bytes (bad-input #5)",
    (front) => front.send(REQ.GET_CONFIG, config(250, 7)),
    /past 256/,
  ],
  [
    "configuration at 2^32 - 1 (bad-input #5)",
    (front) => front.send(REQ.SET_CONFIG, config(0xffff_ffff, 7)),
    /past 256/,
  ],
  [
    "configuration with less than it says",
    (front) => front.send(REQ.SET_CONFIG, config(0, 8, 4)),
    /16 bytes for 8/,
  ],
  [
    "configuration with more than it says",
    (front) => front.send(REQ.GET_CONFIG, config(0, 4, 8)),
    /20 bytes for 4/,
  ],
  [
    "in-flight memory of no queue",
    (front) => front.send(REQ.GET_INFLIGHT_FD, inflight(0, 0, 0, 8)),
    /0 queues/,
  ],
  [
    "in-flight memory of too many queues",
    (front) => front.send(REQ.GET_INFLIGHT_FD, inflight(0, 0, 3, 8)),
    /3 queues/,
  ],
  [
    "in-flight memory of huge queues",
    (front) => front.send(REQ.GET_INFLIGHT_FD, inflight(0, 0, 2, 32769)),
    /queue size 32769/,
  ],
  [
    "in-flight memory while queues run",
    (front) => front.send(REQ.SET_INFLIGHT_FD, inflight(4096, 0, 1, 8), [file]),
    /run already/,
  ],
  [
    "a back-end channel that is no socket",
    (front) => front.send(REQ.SET_BACKEND_REQ_FD, undefined, [event.fd]),
    /SET_BACKEND_REQ_FD: .*ENOTSOCK/,
  ],
  ["a status of 9 bits", (front) => front.send(REQ.SET_STATUS, u64(0x100)), /no status/],
]

const device = () => new EchoDevice({ queueReset: true })

/** The next front end is served, which works whole. */
async function works(path: string): Promise<void> {
  const front = connect(path)
  await front.begin(1n)
  const ring = front.startRing(0)
  ring.add({ readable: [text("alive")], writable: [5] })
  front.kick(0)
  await until(() => ring.reap().length > 0)
  front.close()
}

describe("malformed messages: turned away with a reason, and the next one is served", () => {
  it.each([
    ["of wrong sizes and descriptors", wrongFrames()],
    ["of payloads that cannot be", WRONG],
  ])("requests %s", async (_, cases) => {
    const { path, reasons } = serving(device())
    for (const [name, send, reason] of cases) {
      const before = reasons.length
      const front = connect(path)
      await front.begin(1n)
      front.startRing(0)
      send(front)
      await until(() => reasons.length > before, `${name} is turned away`)
      expect(reasons.at(-1) ?? "no reason", name).toMatch(reason)
      front.close()
    }
    await works(path)
  })

  it("requests whose protocol feature was not negotiated", async () => {
    const { path, reasons } = serving(device())
    const needy = [
      "GET_QUEUE_NUM",
      "GET_CONFIG",
      "SET_CONFIG",
      "GET_INFLIGHT_FD",
      "SET_INFLIGHT_FD",
      "RESET_DEVICE",
    ] as const
    const more = [
      "GET_MAX_MEM_SLOTS",
      "ADD_MEM_REG",
      "REM_MEM_REG",
      "SET_STATUS",
      "GET_STATUS",
      "SET_LOG_BASE",
      "SET_BACKEND_REQ_FD",
    ] as const
    for (const name of [...needy, ...more]) {
      const before = reasons.length
      const front = connect(path)
      const { sizes, fds } = RIGHT[name]
      front.send(REQ[name], new Uint8Array(sizes[0] ?? 12), new Array<number>(fds[0]).fill(file))
      await until(() => reasons.length > before)
      expect(reasons.at(-1)).toBe(`${name}: its protocol feature was not negotiated`)
      front.close()
    }
    await works(path)
  })

  it("a ring of a driver that is not of virtio 1", async () => {
    const { path, reasons } = serving(device())
    const front = connect(path)
    await front.begin(1n)
    front.send(REQ.SET_FEATURES, u64(F_PROTOCOL | 1n))
    front.startRing(0)
    await until(() => reasons.length > 0)
    expect(reasons[0]).toContain("without VIRTIO_F_VERSION_1")
    await works(path)
  })

  it("tells the front end, if that asked", async () => {
    const { path } = serving(device())
    const front = connect(path)
    await front.begin(1n)
    expect(await front.acknowledged(REQ.SET_VRING_NUM, u32(7, 8))).toBe(1n)
    expect(await front.receive()).toBeUndefined()
  })

  it("a connection that ends within a message, or at once", async () => {
    const { path, reasons } = serving(device())
    connect(path).close()
    await until(() => reasons.length === 1)
    const header = connect(path)
    header.sendRaw(u32(REQ.SET_FEATURES))
    header.close()
    await until(() => reasons.length === 2)
    const payload = connect(path)
    payload.sendRaw(u32(REQ.SET_FEATURES, 1, 8, 0))
    payload.close()
    await until(() => reasons.length === 3)
    expect(reasons).toEqual([undefined, "it ended within a message", "it ended within a message"])
    await works(path)
  })

  it("a front end that asks and never reads", async () => {
    const { path, reasons } = serving(device())
    const front = connect(path)
    const request = u32(REQ.GET_FEATURES, 1, 0)
    await until(() => {
      try {
        for (let i = 0; i < 1000; i++) front.sendRaw(request)
      } catch {
        // The other end is closed.
      }
      return reasons.length > 0
    })
    expect(reasons[0]).toContain("does not read")
    await works(path)
  })

  it("a message that comes byte by byte is none of them", async () => {
    const front = connect(serving(device()).path)
    const request = concat(u32(REQ.GET_FEATURES, 1, 0), u32(REQ.GET_PROTOCOL_FEATURES, 1, 0))
    for (const byte of request) {
      front.sendRaw(Uint8Array.of(byte))
      await new Promise((resolve) => setImmediate(resolve))
    }
    expect((await front.receive())!.request).toBe(REQ.GET_FEATURES)
    expect((await front.receive())!.payload.getBigUint64(0, true)).toBe(ALL_PROTOCOL_FEATURES)
  })

  it("random requests do no harm", async () => {
    const { path, reasons } = serving(device())
    const number = fc.oneof(
      fc.integer({ min: 0, max: 20 }),
      fc.constantFrom(0x10000, 4 << 20, USER_OFFSET + 0x10000, 2 ** 31, 2 ** 32 - 1, 2 ** 52),
    )
    const request = fc.record({
      code: fc.constantFrom(...Object.values(REQ)),
      words: fc.array(number, { maxLength: 5 }),
      halves: fc.boolean(),
      fds: fc.array(fc.constantFrom(event.fd, file, socket), { maxLength: 2 }),
      flags: fc.constantFrom(0, 8),
    })
    await fc.assert(
      fc.asyncProperty(fc.array(request, { minLength: 1, maxLength: 12 }), async (requests) => {
        const before = reasons.length
        const front = connect(path)
        await front.begin(1n)
        front.startRing(0)
        try {
          for (const { code, words, halves, fds, flags } of requests) {
            const payload = halves ? concat(u32(...words.slice(0, 2)), u64(...words.slice(2))) : u64(...words)
            front.send(code, payload, fds, flags)
          }
        } catch {
          // It was turned away already.
        }
        front.close()
        await until(() => reasons.length > before)
      }),
      { numRuns: 60 },
    )
    await works(path)
  })
})
