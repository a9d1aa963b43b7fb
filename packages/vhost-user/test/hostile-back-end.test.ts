import { readdirSync } from "node:fs"
import { join } from "node:path"
import { memfdCreate } from "@virtkit/native"
import { VhostUserError, vhostUser } from "@virtkit/vhost-user"
import { describe, expect, it } from "vitest"
import { driven, ECHO } from "./driven.js"
import { type FakeAnswer, FakeBackEnd, type FakeRequest, honest, message } from "./fake-back-end.js"
import { folder, keep, until } from "./fixture.js"
import { concat, REQ, u32, u64 } from "./front-end.js"

let sockets = 0

function fake(answering = honest as (request: FakeRequest) => FakeAnswer | "close" | undefined) {
  const socket = join(folder, `fake${sockets++}.sock`)
  return { socket, backEnd: keep(new FakeBackEnd(socket, answering)) }
}

/** Ways to spoil an honest answer, which has 8 bytes of payload or more; undefined: never answer. */
const DAMAGES: { readonly [how: string]: (request: FakeRequest, good: FakeAnswer) => FakeAnswer | "close" } =
  {
    "is another request's": ({ request }) => ({ bytes: message(request + 1, u64(0)) }),
    "is no reply": ({ request }, { bytes }) => ({ bytes: message(request, bytes.slice(12), 1) }),
    "has another version": ({ request }, { bytes }) => ({ bytes: message(request, bytes.slice(12), 6) }),
    "is too short": ({ request }, { bytes }) => ({ bytes: message(request, bytes.slice(13)) }),
    "is too long": ({ request }, { bytes }) => ({ bytes: message(request, concat(bytes.slice(12), u64(0))) }),
    "says 4 GiB": ({ request }) => ({ bytes: concat(u32(request, 5, 0xffff_ffff), u64(0)) }),
    "ends in its middle": ({ request }, { bytes }) => ({ bytes: concat(u32(request, 5, bytes.length)) }),
    "comes with many descriptors": (_, { bytes }) => ({
      bytes,
      fds: Array.from({ length: 40 }, () => memfdCreate("extra", 4096)),
    }),
    "is the end": () => "close",
  }

/** Short only where there will be no answer. */
const patience = (how: string) => (how === "ends in its middle" ? { timeoutMs: 200 } : {})
const openFds = () => readdirSync("/proc/self/fd").length

describe("a back end that starts", () => {
  it("is told where the rings are, and kicked for what became available before; the driver is interrupted", async () => {
    const { socket, backEnd } = fake()
    const { driver, memory, interrupt, device } = await driven({ socket, reconnect: true })
    await driver.start()
    const started = () => backEnd.requests.at(-1)?.request === REQ.SET_STATUS
    await until(started, "the start")
    const told = (code: number) => {
      const { payload } = backEnd.requests.findLast(({ request }) => request === code)!
      return [payload.getUint32(0, true), payload.getUint32(4, true)]
    }
    expect(told(REQ.SET_VRING_BASE)).toEqual([1, 0])
    expect(told(REQ.SET_VRING_NUM)).toEqual([1, 8])
    await until(() => backEnd.kicks.every((kick) => kick.clear()), "the kicks")
    // What this one has done, and was about to tell of.
    memory.writeUint16(driver.ring(1).used + 2, 77)
    const before = interrupt.count
    backEnd.requests.length = 0
    backEnd.drop()
    await until(() => !device.connected, "the end")
    await until(started, "the next start")
    expect(told(REQ.SET_VRING_BASE)).toEqual([1, 77])
    await until(() => backEnd.kicks.every((kick) => kick.clear()), "the kicks")
    await until(() => interrupt.count > before, "the interrupt")
    // The same memory for what is in flight: it is not asked for again.
    const codes = backEnd.requests.map(({ request }) => request)
    expect([codes.includes(REQ.SET_INFLIGHT_FD), codes.includes(REQ.GET_INFLIGHT_FD)]).toEqual([true, false])
  })
})

describe("a card with several pairs of queues", () => {
  /** Features of the back end, beside its own bits: whether it knows of several pairs. */
  const card = (features: bigint) => (request: FakeRequest) => {
    const says = new Map([
      [REQ.GET_FEATURES, (1n << 32n) | (1n << 30n) | features],
      [REQ.GET_QUEUE_NUM, 3n],
    ]).get(request.request as never)
    return says === undefined ? honest(request) : { bytes: message(request.request, u64(says)) }
  }
  const enables = ({ requests }: FakeBackEnd) =>
    requests.flatMap(({ request, payload }) =>
      request === REQ.SET_VRING_ENABLE ? [[payload.getUint32(0, true), payload.getUint32(4, true)]] : [],
    )

  it("has its control queue here: the back end looks at the pairs that the driver uses", async () => {
    const { socket, backEnd } = fake(card(1n << 22n))
    const options = { type: "net", socket, queues: 3, reconnect: true } as const
    const { driver, device, reasons } = await driven(options)
    expect(device.queueMaxSizes).toEqual([8, 8, 8, 8, 8, 8, 64])
    expect(device.external.kicks[6]).toBeUndefined()
    // max_virtqueue_pairs.
    expect(device.config.slice(8, 10)).toEqual(Uint8Array.of(3, 0))
    await driver.start()
    // CTRL_VQ and MQ; of the back end's own it has the latter.
    expect(driver.features & 0xff_ffffn).toBe((1n << 17n) | (1n << 22n))
    const started = () => backEnd.requests.at(-1)?.request === REQ.SET_STATUS
    await until(started, "the start")
    expect(enables(backEnd)).toEqual([
      [0, 1],
      [1, 1],
    ])
    const ask = async (...bytes: number[]) =>
      (await driver.request(6, { readable: [Uint8Array.from(bytes)], writable: [1] })).data![0]
    backEnd.requests.length = 0
    expect(await ask(4, 0, 3, 0)).toBe(0)
    await until(() => enables(backEnd).length === 4, "the pairs")
    expect(enables(backEnd).map(([queue, on]) => 10 * queue! + on!)).toEqual([21, 31, 41, 51])
    backEnd.requests.length = 0
    expect(await ask(4, 0, 2, 0)).toBe(0)
    await until(() => enables(backEnd).length === 2, "the pairs")
    expect(enables(backEnd).map(([queue, on]) => 10 * queue! + on!)).toEqual([40, 50])
    for (const wrong of [
      [4, 0, 4, 0],
      [4, 0, 0, 0],
      [4, 0, 2],
      [4, 0, 2, 0, 0],
      [4, 1, 2, 0],
      [0, 0, 1],
      [],
      [4],
    ])
      expect([wrong, await ask(...wrong)]).toEqual([wrong, 1])
    // The next back end is told the same.
    backEnd.requests.length = 0
    backEnd.drop()
    await until(started, "the next start")
    expect(enables(backEnd).map(([queue, on]) => 10 * queue! + on!)).toEqual([1, 11, 21, 31])
    // Another driver begins with one pair.
    backEnd.requests.length = 0
    await driver.start()
    await until(() => started() && enables(backEnd).length > 0, "the start")
    expect(enables(backEnd).map(([queue, on]) => 10 * queue! + on!)).toEqual([1, 11])
    expect(reasons).toEqual([])
  })

  it("needs a driver that knows where the control queue is", async () => {
    const { socket } = fake(card(0n))
    const { driver, reasons } = await driven({ type: "net", socket, queues: 3 })
    await driver.start({ features: (1n << 32n) | (1n << 17n) }).catch(() => {})
    expect(reasons).toEqual(["far: a driver that takes CTRL_VQ has to take MQ, too"])
  })
})

describe("a back end that breaks the protocol", () => {
  const first = ["GET_FEATURES", "GET_PROTOCOL_FEATURES", "GET_QUEUE_NUM", "GET_CONFIG", "SET_OWNER"] as const
  it.each(first.flatMap((name) => Object.keys(DAMAGES).map((how) => [name, how] as const)))(
    "is refused at once: the answer to %s %s",
    async (name, how) => {
      const { socket } = fake((request) => {
        const good = honest(request)
        return request.request === REQ[name] && good ? DAMAGES[how]!(request, good) : good
      })
      const before = openFds()
      const refused = vhostUser({ type: ECHO, socket, ...patience(how) })
      await expect(refused).rejects.toThrow(VhostUserError)
      await until(() => openFds() <= before, "descriptors to be closed")
    },
  )

  const later = ["SET_FEATURES", "SET_MEM_TABLE", "GET_INFLIGHT_FD", "SET_VRING_ADDR", "SET_STATUS"] as const
  it.each(later.flatMap((name) => Object.keys(DAMAGES).map((how) => [name, how] as const)))(
    "ends the device, not the process: the answer to %s %s",
    async (name, how) => {
      const { socket, backEnd } = fake((request) => {
        const good = honest(request)
        return request.request === REQ[name] && good ? DAMAGES[how]!(request, good) : good
      })
      const { driver, reasons, device } = await driven({
        socket,
        ...patience(how),
        reconnect: how !== "is the end",
      })
      // Without INFLIGHT_SHMFD, which only who reconnects asks for, that request is never made.
      const made = name !== "GET_INFLIGHT_FD" || how !== "is the end"
      await driver.start()
      if (made) await until(() => reasons.length > 0, "DEVICE_NEEDS_RESET")
      expect(device.connected).toBe(!made)
      backEnd.answering = honest
      await driver.start()
      await until(() => backEnd.requests.at(-1)?.request === REQ.SET_STATUS, "the next start")
      expect(reasons).toHaveLength(made ? 1 : 0)
    },
  )

  it.each(["GET_VRING_BASE", "SET_STATUS"] as const)("holds up no reset: silence after %s", async (name) => {
    let silent = false
    const { socket } = fake((request) =>
      silent && request.request === REQ[name] ? undefined : honest(request),
    )
    const { driver, reasons, device } = await driven({ socket, timeoutMs: 50 })
    await driver.start()
    await until(() => device.connected, "the start")
    silent = true
    await driver.reset()
    expect([device.connected, reasons]).toEqual([false, []])
    silent = false
    await driver.start()
    expect(device.connected || reasons.length === 0).toBe(true)
  })

  it.each<[string, Uint8Array, readonly number[]]>([
    ["no memory", concat(u64(0, 0), u32(0, 0)), []],
    ["no size", concat(u64(0, 0), u32(0, 0)), [1]],
    ["a size beyond 2^53", concat(u64(2n ** 60n, 0), u32(0, 0)), [1]],
    ["two descriptors", concat(u64(4096, 0), u32(0, 0)), [1, 1]],
  ])("does not give %s for what is in flight", async (_, payload, fds) => {
    const { socket } = fake((request) =>
      request.request === REQ.GET_INFLIGHT_FD
        ? { bytes: message(request.request, payload), fds: fds.map(() => memfdCreate("fake", 4096)) }
        : honest(request),
    )
    const { driver, reasons } = await driven({ socket, reconnect: true })
    await driver.start()
    await until(() => reasons.length > 0, "DEVICE_NEEDS_RESET")
    expect(reasons).toEqual(["far: GET_INFLIGHT_FD: an answer without memory"])
  })

  it("may refuse a request, and is heard", async () => {
    const { socket } = fake((request) =>
      request.request === REQ.SET_VRING_NUM ? { bytes: message(request.request, u64(22)) } : honest(request),
    )
    const { driver, reasons } = await driven({ socket })
    await driver.start()
    await until(() => reasons.length > 0, "DEVICE_NEEDS_RESET")
    expect(reasons).toEqual(["far: SET_VRING_NUM: the back end refuses (22)"])
  })

  it("says by itself what nobody asked for", async () => {
    const { socket, backEnd } = fake()
    const { driver, reasons } = await driven({ socket })
    await driver.start()
    await until(() => backEnd.requests.at(-1)?.request === REQ.SET_STATUS, "the start")
    await new Promise((resolve) => setImmediate(resolve))
    backEnd.send(message(REQ.GET_FEATURES, u64(0)))
    await until(() => reasons.length > 0, "DEVICE_NEEDS_RESET")
    expect(reasons).toEqual(["far: message 1 where nothing was asked"])
  })

  it("floods its channel with messages, known and unknown ones: others get their turn", async () => {
    const { socket, backEnd } = fake()
    const { driver, reasons } = await driven({ socket })
    await driver.start()
    await until(() => backEnd.requests.at(-1)?.request === REQ.SET_STATUS, "the start")
    const { channel } = backEnd
    for (let round = 0; round < 200; round++) {
      const bytes = message(2 + (round & 1), new Uint8Array(0), 1)
      channel!.send(bytes, 0, bytes.length)
    }
    let turns = 0
    const asked = () => backEnd.requests.filter(({ request }) => request === REQ.GET_STATUS).length
    await until(() => ++turns > 0 && asked() >= 100, "what it says to be looked at")
    expect(turns).toBeGreaterThan(3)
    // One that wants to hear is told that a request is unknown.
    const bytes = message(3, new Uint8Array(0), 1 | 8)
    channel!.send(bytes, 0, bytes.length)
    const answer = new Uint8Array(20)
    await until(() => channel!.receive(answer, 0, 20) === 20, "the answer")
    expect([...answer]).toEqual([...message(3, u64(1))])
    expect(reasons).toEqual([])
    const garbage = u64(0xdead_beef, 7)
    channel!.send(garbage, 0, garbage.length)
    await until(() => reasons.length > 0, "DEVICE_NEEDS_RESET")
    expect(reasons[0]).toContain("not vhost-user?")
  })

  it("has features that are no device's", async () => {
    const { socket } = fake((request) =>
      request.request === REQ.GET_FEATURES
        ? { bytes: message(request.request, u64(~0n & 0xffff_ffff_ffff_ffffn)) }
        : honest(request),
    )
    const { driver } = await driven({ socket })
    await driver.begin()
    const offered = driver.offeredFeatures()
    // Bits 0 to 23 and 50 to 63 are the device's; of the others those that the transport can do.
    const bits = (from: number, to: number) => (1n << BigInt(to + 1)) - (1n << BigInt(from))
    expect(offered).toBe(bits(0, 23) | bits(50, 63) | bits(28, 29) | bits(32, 32))
  })

  it("is too old", async () => {
    const { socket } = fake((request) =>
      request.request === REQ.GET_FEATURES
        ? { bytes: message(request.request, u64(1n << 30n)) }
        : honest(request),
    )
    await expect(vhostUser({ type: ECHO, socket })).rejects.toThrow("it has no VIRTIO_F_VERSION_1")
  })
})
