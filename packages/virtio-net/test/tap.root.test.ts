import { execFileSync } from "node:child_process"
import { closeSync, existsSync, openSync, readFileSync } from "node:fs"
import { ConfigError } from "@virtkit/interface"
import { Tap } from "@virtkit/native"
import { type DriverChain, TestMemory, until } from "@virtkit/testkit"
import { net } from "@virtkit/virtio-net"
import { createQueue } from "@virtkit/virtqueue"
import fc from "fast-check"
import { afterEach, describe, expect, it } from "vitest"
import {
  F,
  frame,
  GUEST_MAC,
  HEADER,
  HOST_MAC,
  header,
  MappedTestMemory,
  Nic,
  RX,
  received,
  TX,
  turn,
} from "./helpers.js"
import { NEEDS_CSUM, parseTcp, TSO4, tcpFrame } from "./packets.js"
import { MEMORY, misbehave, randomSteps, runsOrSeconds, STORM_TIMEOUT } from "./random-chains.js"

const reason = cannot()
const suite = reason === undefined ? describe : describe.skip
const base = `vkt${process.pid % 100_000}`
const A = `${base}a`
const B = `${base}b`
const bridge = `${base}br`

const ip = (...args: string[]) => execFileSync("ip", args, { stdio: ["ignore", "ignore", "pipe"] })

function cannot(): string | undefined {
  try {
    closeSync(openSync("/dev/net/tun", "r+"))
    const name = `vkp${process.pid % 100_000}`
    execFileSync("ip", ["tuntap", "add", "dev", name, "mode", "tap"], { stdio: "pipe" })
    execFileSync("ip", ["link", "del", name])
    return undefined
  } catch {
    return "needs CAP_NET_ADMIN, /dev/net/tun and ip"
  }
}

function addTap(name: string, ...more: string[]) {
  ip("tuntap", "add", "dev", name, "mode", "tap", ...more)
  up(name)
}

function up(name: string) {
  // The host has nothing to say on it.
  execFileSync("sysctl", ["-q", `net.ipv6.conf.${name}.disable_ipv6=1`], { stdio: "ignore" })
  ip("link", "set", name, "up")
}

/** Two TAPs on a bridge: what goes into one comes out of the other. */
function wire(...more: string[]) {
  ip("link", "add", bridge, "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
  up(bridge)
  for (const name of [A, B]) {
    addTap(name, ...more)
    ip("link", "set", name, "master", bridge)
  }
}

const IN_ORDER = 1n << 35n

const opened: Nic[] = []

interface Given {
  features?: bigint
  queues?: number
  queueSize?: number
  buffers?: readonly (readonly number[])[]
  inOrder?: boolean
}

async function tapNic(name: string, mac: string, given: Given = {}) {
  const device = await net({ tap: name, mac, queues: given.queues ?? 1, queueSize: given.queueSize ?? 64 })
  const n = new Nic(device, {
    memory: new MappedTestMemory(8 << 20),
    queueSize: given.queueSize ?? 64,
    createQueue: (options) => createQueue({ ...options, inOrder: given.inOrder ?? false }),
    ...(given.features === undefined ? {} : { features: given.features }),
  })
  opened.push(n)
  n.harness.start()
  // The kernel notices later that the interface has somebody at its other end, and lets the bridge use it.
  const port = `/sys/class/net/${name}/brport/state`
  await until(() => !existsSync(port) || readFileSync(port, "utf8") === "3\n", `${name} to forward`)
  const chains = n.post(given.buffers ?? Array.from({ length: 16 }, () => [2000]))
  return { n, device, chains }
}

const used = (n: Nic, chains: DriverChain[], count: number, queue = RX) =>
  until(() => {
    n.harness.ring(queue).reap()
    return chains.filter((chain) => chain.written !== undefined).length >= count
  }, `${count} frames`)

afterEach(async () => {
  for (const n of opened.splice(0)) await n.device.close()
  for (const name of [A, B, bridge]) {
    try {
      ip("link", "del", name)
    } catch {
      // It was not made, or is gone.
    }
  }
})

suite(`TAP${reason === undefined ? "" : ` (${reason})`}`, () => {
  it("carries frames both ways, straight from and to guest memory", async () => {
    wire()
    const a = await tapNic(A, GUEST_MAC)
    const b = await tapNic(B, HOST_MAC)
    const reads: number[] = []
    const { memory } = a.n.harness
    const read = memory.read.bind(memory)
    memory.read = (address, target) => {
      reads.push(target.length)
      read(address, target)
    }
    const there = [60, 500, 1514].map((length) => frame(length, length, { to: HOST_MAC, from: GUEST_MAC }))
    await a.n.send(there.map((bytes) => [header(), bytes.subarray(0, 20), bytes.subarray(20)]))
    await used(b.n, b.chains, 3)
    expect(b.chains.slice(0, 3).map((chain) => received(chain).bytes)).toEqual(there)
    // Headers only.
    expect(reads.every((length) => length <= HEADER)).toBe(true)
    expect(received(b.chains[0]!).head.getUint16(10, true)).toBe(1)
    await b.n.send([[header(), frame(100, 1)]])
    await used(a.n, a.chains, 1)
    expect(received(a.chains[0]!).bytes).toEqual(frame(100, 1))
    expect(a.device.counters).toMatchObject({ txFrames: 3, rxFrames: 1, txErrors: 0 })
    const dirty = a.n.harness.memory.written.some(
      ({ address }) => address === a.chains[0]!.buffers[0]!.address,
    )
    expect(dirty).toBe(true)
  })

  it("offers what the kernel can, and its MTU", async () => {
    addTap(A)
    ip("link", "set", A, "mtu", "9000")
    const { device } = await tapNic(A, GUEST_MAC)
    const wanted = F.CSUM | F.GUEST_CSUM | F.HOST_TSO4 | F.GUEST_TSO4 | F.GUEST_TSO6 | F.MTU
    expect(device.features & wanted).toBe(wanted)
    expect(new DataView(device.config.buffer).getUint16(10, true)).toBe(9000)
  })

  const payload = Uint8Array.from({ length: 5000 }, (_, i) => (i * 31) & 0xff)
  const segment = tcpFrame({ from: GUEST_MAC, to: HOST_MAC, payload })

  it("leaves segmentation to a guest that takes it: mergeable, scattered and big buffers", async () => {
    wire()
    const a = await tapNic(A, GUEST_MAC)
    for (const given of [
      { buffers: Array.from({ length: 8 }, () => [700, 300]) },
      { buffers: Array.from({ length: 2 }, () => [65_562]) },
      { features: F.VERSION_1 | F.GUEST_CSUM | F.GUEST_TSO4, buffers: [[HEADER, 65_550]] },
      // More descriptors than a system call takes.
      {
        queueSize: 1024,
        features: F.VERSION_1 | F.GUEST_CSUM | F.GUEST_TSO4,
        buffers: [new Array<number>(1024).fill(5)],
      },
    ]) {
      const b = await tapNic(B, HOST_MAC, given)
      await a.n.send([[header({ ...TSO4, gsoSize: 1000 }), segment]])
      await used(b.n, b.chains, 1)
      const [first] = b.chains
      const { head } = received(first!)
      expect(head.getUint8(1)).toBe(1)
      expect(head.getUint16(4, true)).toBe(1000)
      const count = head.getUint16(10, true)
      expect(b.chains.map((chain) => chain.written !== undefined)).toEqual(b.chains.map((_, i) => i < count))
      const whole = Buffer.concat(
        b.chains.slice(0, count).map((chain) => chain.data!.subarray(0, chain.written)),
      )
      expect(new Uint8Array(whole.subarray(HEADER))).toEqual(segment)
      await b.device.close()
      opened.pop()
    }
  })

  it("receives whole what comes large after many small frames, and the reverse", async () => {
    wire()
    const a = await tapNic(A, GUEST_MAC)
    const b = await tapNic(B, HOST_MAC, { queueSize: 256, buffers: Array.from({ length: 100 }, () => [700]) })
    const small = Array.from({ length: 40 }, (_, i) =>
      frame(60 + (i % 20), i, { to: HOST_MAC, from: GUEST_MAC }),
    )
    let next = 0
    const expectFrame = async (bytes: Uint8Array) => {
      await used(b.n, b.chains, next + 1)
      const count = received(b.chains[next]!).head.getUint16(10, true)
      await used(b.n, b.chains, next + count)
      const parts = b.chains.slice(next, next + count).map((chain) => chain.data!.subarray(0, chain.written))
      expect(new Uint8Array(Buffer.concat(parts).subarray(HEADER))).toEqual(bytes)
      next += count
    }
    for (const bytes of [...small, segment, segment, ...small]) {
      const offloads = bytes === segment ? header({ ...TSO4, gsoSize: 1000 }) : header()
      await a.n.send([[offloads, bytes]])
      await expectFrame(bytes)
    }
    expect(b.device.counters.rxFrames).toBe(82)
  })

  it("segments for a guest that does not, with right checksums", async () => {
    wire()
    const a = await tapNic(A, GUEST_MAC)
    const b = await tapNic(B, HOST_MAC, { features: F.VERSION_1 | F.MRG_RXBUF })
    await a.n.send([[header({ ...TSO4, gsoSize: 1000 }), segment]])
    await used(b.n, b.chains, 5)
    const frames = b.chains.slice(0, 5).map(received)
    expect(frames.map(({ head }) => [head.getUint8(0), head.getUint8(1)])).toEqual(new Array(5).fill([0, 0]))
    const parsed = frames.map(({ bytes }) => parseTcp(bytes))
    expect(parsed.every((tcp) => tcp.ipChecksumRight && tcp.tcpChecksumRight)).toBe(true)
    expect(parsed.map((tcp) => tcp.sequence)).toEqual([17, 1017, 2017, 3017, 4017])
    expect(Buffer.concat(parsed.map((tcp) => tcp.payload))).toEqual(Buffer.from(payload))
  })

  it("changes offloads while it runs (GUEST_OFFLOADS_SET)", async () => {
    wire()
    const a = await tapNic(A, GUEST_MAC)
    const b = await tapNic(B, HOST_MAC)
    const small = tcpFrame({ from: GUEST_MAC, to: HOST_MAC, payload: payload.subarray(0, 100) })
    await a.n.send([[header(NEEDS_CSUM), small]])
    await used(b.n, b.chains, 1)
    expect(received(b.chains[0]!).head.getUint8(0)).toBe(1)
    expect(await b.n.command(5, 0, new Uint8Array(8))).toBe(0)
    await a.n.send([[header(NEEDS_CSUM), small]])
    await used(b.n, b.chains, 2)
    expect(received(b.chains[1]!).head.getUint8(0)).toBe(0)
    expect(parseTcp(received(b.chains[1]!).bytes).tcpChecksumRight).toBe(true)
  })

  it("keeps a frame until there are buffers enough, and reads nothing without any", async () => {
    wire()
    const a = await tapNic(A, GUEST_MAC)
    const b = await tapNic(B, HOST_MAC, { buffers: [[1000], [1000]] })
    await a.n.send([
      [header({ ...TSO4, gsoSize: 1000 }), segment],
      [header(), frame(60, 7, { to: HOST_MAC, from: GUEST_MAC })],
    ])
    for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve))
    expect(b.n.harness.ring(RX).reap()).toEqual([])
    const more = [...b.chains, ...b.n.post([[1000], [1000]]), ...b.n.post([[1000], [1000], [1000]])]
    await used(b.n, more, 7)
    const whole = Buffer.concat(more.slice(0, 6).map((chain) => chain.data!.subarray(0, chain.written)))
    expect(new Uint8Array(whole.subarray(HEADER))).toEqual(segment)
    expect(received(more[6]!).bytes).toEqual(frame(60, 7, { to: HOST_MAC, from: GUEST_MAC }))
  })

  it("drops frames that no buffer can hold", async () => {
    wire()
    const a = await tapNic(A, GUEST_MAC)
    const b = await tapNic(B, HOST_MAC, { features: F.VERSION_1 | F.GUEST_CSUM | F.GUEST_TSO4 })
    await a.n.send([
      [header({ ...TSO4, gsoSize: 1000 }), segment],
      [header(), frame(60, 7, { to: HOST_MAC, from: GUEST_MAC })],
    ])
    await used(b.n, b.chains, 1)
    expect(received(b.chains[0]!).bytes).toEqual(frame(60, 7, { to: HOST_MAC, from: GUEST_MAC }))
    expect(b.device.counters).toMatchObject({ rxTooLong: 1, rxFrames: 1 })
  })

  it("gives buffers of unwanted frames to others, and goes around its rings many times", async () => {
    wire()
    const a = await tapNic(A, GUEST_MAC)
    const b = await tapNic(B, HOST_MAC, { buffers: [] })
    await b.n.command(0, 0, [0])
    const ring = b.n.harness.ring(RX)
    let got = 0
    for (let round = 0; round < 30; round++) {
      while (ring.freeDescriptors > 3) ring.add({ writable: [500, 500, 600] })
      b.n.harness.kick(RX)
      const frames = Array.from({ length: 15 }, (_, i) =>
        frame(60 + ((round * 97 + i * 131) % 1400), i, {
          to: i % 3 === 0 ? "52:54:00:00:00:77" : HOST_MAC,
          from: GUEST_MAC,
        }),
      )
      await a.n.send(frames.map((bytes) => [header(), bytes]))
      const wanted = frames.filter((_, i) => i % 3 !== 0)
      const seen: Uint8Array[] = []
      await until(() => {
        seen.push(...ring.reap().map((chain) => received(chain).bytes))
        return seen.length >= wanted.length
      }, "frames")
      expect(Buffer.concat(seen).equals(Buffer.concat(wanted))).toBe(true)
      got += seen.length
    }
    expect(b.device.counters).toMatchObject({ rxFrames: got, rxFiltered: 150, rxTooLong: 0, malformed: 0 })
  })

  it("gives buffers back in their order, unwanted frames in between or not (IN_ORDER)", async () => {
    wire()
    const a = await tapNic(A, GUEST_MAC)
    const features = F.VERSION_1 | F.INDIRECT | F.MRG_RXBUF | F.CTRL_VQ | F.CTRL_RX | IN_ORDER
    const b = await tapNic(B, HOST_MAC, {
      inOrder: true,
      features,
      buffers: Array.from({ length: 12 }, () => [200]),
    })
    await b.n.command(0, 0, [0])
    const frames = [60, 150, 70, 61].flatMap((length) => [
      frame(length + 1, 1, { to: "52:54:00:00:00:77", from: GUEST_MAC }),
      frame(length, length, { to: HOST_MAC, from: GUEST_MAC }),
    ])
    await a.n.send(frames.map((bytes) => [header(), bytes]))
    await used(b.n, b.chains, 4)
    expect(b.chains.slice(0, 4).map((chain) => received(chain).bytes)).toEqual(
      frames.filter((_, i) => i % 2 === 1),
    )
    expect(b.device.counters.rxFiltered).toBe(4)
  })

  it("has several queues, and answers on the one that a flow came from", async () => {
    wire("multi_queue")
    const a = await tapNic(A, GUEST_MAC, { queues: 2 })
    const b = await tapNic(B, HOST_MAC, { queues: 2 })
    const second = b.n.post(
      Array.from({ length: 4 }, () => [2000]),
      2,
    )
    expect(await b.n.command(4, 0, [2, 0])).toBe(0)
    const syn = tcpFrame({ from: HOST_MAC, to: GUEST_MAC, payload: payload.subarray(0, 10) })
    const answer = tcpFrame({ from: GUEST_MAC, to: HOST_MAC, payload: payload.subarray(0, 10) })
    // The flow as seen from the other side: addresses and ports swapped.
    answer.set(syn.subarray(30, 34), 26)
    answer.set(syn.subarray(26, 30), 30)
    answer.set(syn.subarray(36, 38), 34)
    answer.set(syn.subarray(34, 36), 36)
    await b.n.send([[header(NEEDS_CSUM), syn]], 3)
    await used(a.n, a.chains, 1)
    await a.n.send([[header(NEEDS_CSUM), answer]], TX)
    await used(b.n, second, 1, 2)
    expect(b.device.counters.queues[1]).toMatchObject({ rxFrames: 1, txFrames: 1 })
  })

  it("bad-input #28: what the kernel refuses is counted, and the rest of the batch sent", async () => {
    wire()
    const a = await tapNic(A, GUEST_MAC)
    const b = await tapNic(B, HOST_MAC)
    const ring = a.n.harness.ring(TX)
    // TCP segmentation of what is no TCP, a huge gso_size, and chains of 1,000 bytes in as many descriptors.
    ring.add({
      readable: [
        header({ ...TSO4, gsoType: 4, gsoSize: 1 }),
        frame(3000, 1, { to: HOST_MAC, from: GUEST_MAC }),
      ],
      layout: "indirect",
    })
    ring.add({ readable: [header({ ...TSO4, gsoSize: 0xffff }), segment], layout: "indirect" })
    ring.add({
      readable: [
        header({ ...TSO4, gsoType: 3, gsoSize: 9 }),
        frame(3000, 1, { to: HOST_MAC, from: GUEST_MAC }),
      ],
      layout: "indirect",
    })
    ring.add({ readable: [header(), frame(60, 7, { to: HOST_MAC, from: GUEST_MAC })], layout: "indirect" })
    a.n.harness.kick(TX)
    await until(() => {
      b.n.harness.ring(RX).reap()
      return b.chains.some((chain) => chain.written === 72)
    }, "the good frame")
    expect(a.device.linkUp).toBe(true)
    expect(a.device.counters.txFrames).toBe(4)
    await a.n.send([[header(), frame()]])
  })

  it("bad-input #21: a frame of 1,000 descriptors goes out whole", async () => {
    wire()
    const a = await tapNic(A, GUEST_MAC, { queueSize: 1024 })
    const b = await tapNic(B, HOST_MAC)
    const bytes = frame(1400, 3, { to: HOST_MAC, from: GUEST_MAC })
    const pieces = Array.from({ length: 1000 }, (_, i) => bytes.subarray(i, i < 999 ? i + 1 : undefined))
    await a.n.send([[header(), ...pieces]], TX, "direct")
    await used(b.n, b.chains, 1)
    expect(received(b.chains[0]!).bytes).toEqual(bytes)
  })

  it(
    "random chains and headers: the device lives, and serves again after a reset",
    async () => {
      wire()
      const a = await tapNic(A, GUEST_MAC)
      const device = await net({ tap: B, mac: HOST_MAC })
      const memory = new MappedTestMemory(MEMORY)
      const features = F.VERSION_1 | F.INDIRECT | F.CSUM | F.GUEST_CSUM | F.HOST_TSO4 | F.GUEST_TSO4
      await fc.assert(
        fc.asyncProperty(
          randomSteps,
          fc.uint8Array({ minLength: 4096, maxLength: 4096 }),
          fc.boolean(),
          async (steps, bytes, mergeable) => {
            for (let at = 0; at < MEMORY; at += bytes.length) memory.write(at, bytes)
            const n = new Nic(device, { memory, features: mergeable ? features | F.MRG_RXBUF : features })
            opened.splice(1, 1, n)
            n.harness.start()
            await misbehave(n, steps, async () => {
              a.n.harness.ring(TX).reap()
              a.n.harness
                .ring(TX)
                .add({ readable: [header({ ...TSO4, gsoSize: 1000 }), segment], layout: "indirect" })
              a.n.harness.kick(TX)
              await turn()
            })
            await n.harness.reset()
          },
        ),
        runsOrSeconds(40),
      )
      const n = new Nic(device, { memory: new MappedTestMemory(4 << 20) })
      n.harness.start()
      const chains = n.post([[2000], [2000], [2000], [2000]])
      const last = frame(60, 9, { to: HOST_MAC, from: GUEST_MAC })
      // Its address may have been learnt on the other port, from a random frame.
      await n.send([[header(), frame(60, 1, { to: GUEST_MAC, from: HOST_MAC })]])
      await until(() => {
        a.n.harness.ring(TX).reap()
        a.n.harness.ring(TX).add({ readable: [header(), last], layout: "indirect" })
        a.n.harness.kick(TX)
        n.harness.ring(RX).reap()
        return chains.some((chain) => chain.written === 72)
      }, "a frame")
      expect(device.linkUp).toBe(true)
    },
    STORM_TIMEOUT,
  )

  it("loses the link with the TAP, and has it back with it", async () => {
    addTap(A)
    const { n, device } = await tapNic(A, GUEST_MAC)
    const events: [boolean, string][] = []
    device.on("link", (linkUp, why) => events.push([linkUp, why]))
    ip("link", "del", A)
    await until(() => !device.linkUp, "the link to go")
    expect(n.harness.configChanges).toBe(1)
    await n.send([[header(), frame()]])
    addTap(A)
    await until(() => device.linkUp, "the link to come back")
    await n.send([[header(), frame()]])
    expect(device.counters).toMatchObject({ txDropped: 1, txFrames: 1, linkDowns: 1 })
    expect(events).toMatchObject([
      [false, `tap ${A} went away (EBADFD)`],
      [true, `tap ${A} is back`],
    ])
  })

  it("notices that the TAP went away while nobody used it", async () => {
    addTap(A)
    const device = await net({ tap: A })
    ip("link", "del", A)
    const n = new Nic(device, { memory: new MappedTestMemory(4 << 20) })
    opened.push(n)
    n.harness.start()
    expect(device.linkUp).toBe(false)
    addTap(A)
    await until(() => device.linkUp, "the link")
  })

  it("receives nothing after a reset, and no old frames after the next start (bad-input #27)", async () => {
    wire()
    const a = await tapNic(A, GUEST_MAC)
    const b = await tapNic(B, HOST_MAC)
    await b.n.harness.reset()
    b.n.harness.memory.clearWritten()
    await a.n.send([[header(), frame(60, 1, { to: HOST_MAC, from: GUEST_MAC })]])
    for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve))
    expect(b.n.harness.memory.written).toEqual([])
    b.n.harness.start()
    const chains = b.n.post([[2000], [2000]])
    await a.n.send([[header(), frame(60, 2, { to: HOST_MAC, from: GUEST_MAC })]])
    await used(b.n, chains, 1)
    expect(received(chains[0]!).bytes).toEqual(frame(60, 2, { to: HOST_MAC, from: GUEST_MAC }))
  })

  it("takes over descriptors, and makes an interface when asked to", async () => {
    const made = await net({ tap: { name: A, create: true } })
    up(A)
    await expect(net({ tap: A })).rejects.toThrow(/in use by another/)
    await made.close()
    await expect(net({ tap: A })).rejects.toThrow(
      `there is no interface ${A}; as root, make it with: ip tuntap add`,
    )
    addTap(A)
    const sizes = { segments: 1, buffers: 1, frames: 1 }
    // As a parent process would have opened it.
    const inherited = new Tap({ name: A, ...sizes })
    const device = await net({ tap: { fds: [inherited.fd] } })
    expect(device.linkUp).toBe(true)
    await device.close()
    // It was a duplicate that went.
    inherited.attach(false)
    inherited.close()
  })

  it.each([
    [{ tap: "no-such-tap" }, /there is no interface/],
    [{ tap: "lo" }, /is no TAP/],
    [{ tap: "a-name-that-is-too-long" }, /cannot be the name/],
    [{ tap: "" }, /cannot be the name/],
    [{ tap: { fds: [0] } }, /none with IFF_VNET_HDR/],
  ])("refuses %j", async (options, message) => {
    await expect(net(options)).rejects.toThrow(ConfigError)
    await expect(net(options)).rejects.toThrow(message)
  })

  it("tells a mistake of the program as it is, and not as a wrong name", async () => {
    await expect(net({ tap: { name: 5 as unknown as string } })).rejects.toThrow(/name must be a string/)
  })

  it("refuses several queues of an interface for one", async () => {
    addTap(A)
    await expect(net({ tap: A, queues: 2 })).rejects.toThrow(/made for one queue.*multi_queue/)
  })

  it("has no link with guest memory that system calls cannot use", async () => {
    addTap(A)
    const n = new Nic(await net({ tap: A }), { memory: new TestMemory() })
    opened.push(n)
    n.harness.start()
    expect(n.device.linkUp).toBe(false)
    await n.send([[header(), frame()]])
    expect(n.device.counters.txDropped).toBe(1)
  })
})
