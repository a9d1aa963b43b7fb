import { spawn } from "node:child_process"
import { existsSync, mkdtempSync, rmSync } from "node:fs"
import { createConnection, createServer, type Socket } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Duplex } from "node:stream"
import { ConfigError } from "@virtkit/interface"
import { type DriverChain, until } from "@virtkit/testkit"
import { net } from "@virtkit/virtio-net"
import { dgramBackend, duplexBackend } from "@virtkit/virtio-net/socket"
import fc from "fast-check"
import { afterAll, afterEach, describe, expect, it } from "vitest"
import { FrameStream } from "../src/backends/frame-stream.js"
import { F, frame, GUEST_MAC, HOST_MAC, header, Nic, RX, received, TX } from "./helpers.js"

const folder = mkdtempSync(join(tmpdir(), "virtkit-net-"))
afterAll(() => rmSync(folder, { recursive: true }))
let wires = 0
const wirePath = () => join(folder, `wire${wires++}`)

const closers: { close(): unknown }[] = []
afterEach(async () => {
  for (const closer of closers.splice(0)) await closer.close()
})

async function started(options: Parameters<typeof net>[0]): Promise<Nic> {
  const device = await net(options)
  closers.push(device)
  const n = new Nic(device, { queueSize: 64 })
  n.harness.start()
  return n
}

async function receivedFrames(n: Nic, chains: DriverChain[], count: number) {
  await until(() => {
    n.harness.ring(RX).reap()
    return chains.filter((chain) => chain.written !== undefined).length >= count
  }, `${count} frames`)
  return chains.slice(0, count).map((chain) => received(chain).bytes)
}

/** QEMU's framing. */
function framed(...frames: Uint8Array[]): Buffer {
  return Buffer.concat(
    frames.flatMap((bytes) => {
      const length = Buffer.alloc(4)
      length.writeUInt32BE(bytes.length)
      return [length, bytes]
    }),
  )
}

describe("stream", () => {
  it("joins two devices, whoever comes first, and again after one went", async () => {
    const path = wirePath()
    const client = await started({ socket: { connect: { path } }, mac: GUEST_MAC })
    expect(client.device.linkUp).toBe(false)
    await client.send([[header(), frame()]])
    expect(client.device.counters.txDropped).toBe(1)
    const server = await started({ socket: { listen: { path } }, mac: HOST_MAC })
    await until(() => client.device.linkUp && server.device.linkUp, "the link")
    const there = client.post(Array.from({ length: 10 }, () => [2000]))
    const frames = Array.from({ length: 10 }, (_, i) => frame(60 + 150 * i, i))
    await server.send(frames.map((bytes) => [header(), bytes]))
    expect(await receivedFrames(client, there, 10)).toEqual(frames)
    const back = server.post([[70_000]])
    await client.send([[header(), frame(65_000)]])
    expect(await receivedFrames(server, back, 1)).toEqual([frame(65_000)])

    const events: boolean[] = []
    client.device.on("link", (up) => events.push(up))
    await server.device.close()
    await until(() => !client.device.linkUp, "the link to go")
    const again = await started({ socket: { listen: { path } } })
    await until(() => again.device.linkUp && client.device.linkUp, "the link to come back")
    const more = again.post([[2000]])
    await client.send([[header(), frame(100, 9)]])
    expect(await receivedFrames(again, more, 1)).toEqual([frame(100, 9)])
    expect(events).toEqual([false, true])
  })

  it("holds back a sender when the guest has no buffers, and loses nothing", async () => {
    const path = wirePath()
    const n = await started({ socket: { listen: { path } } })
    const socket = createConnection(path)
    closers.push({ close: () => socket.destroy() })
    const frames = Array.from({ length: 400 }, (_, i) => frame(60 + ((i * 131) % 1400), i))
    socket.write(framed(...frames))
    await until(() => n.device.linkUp, "the link")
    const seen: Buffer[] = []
    const ring = n.harness.ring(RX)
    await until(() => {
      for (const chain of ring.reap()) seen.push(Buffer.from(received(chain).bytes))
      if (ring.inFlight === 0 && seen.length < frames.length) n.post(Array.from({ length: 7 }, () => [2000]))
      return seen.length >= frames.length
    }, "all frames")
    expect(Buffer.concat(seen).equals(Buffer.concat(frames))).toBe(true)
    expect(n.device.counters.rxDropped).toBe(0)
  })

  it("runs over a stream that is there already, until that ends", async () => {
    const sent: Buffer[] = []
    const stream = new Duplex({
      read: () => {},
      write(chunk: Buffer, _encoding, done) {
        sent.push(Buffer.from(chunk))
        done()
      },
    })
    const n = await started({ backend: duplexBackend(stream) })
    expect(n.device.linkUp).toBe(true)
    const chains = n.post([[2000], [2000]])
    stream.push(framed(frame(100, 1), frame(200, 2)))
    expect(await receivedFrames(n, chains, 2)).toEqual([frame(100, 1), frame(200, 2)])
    await n.send([[header(), frame(300, 3)]])
    expect(Buffer.concat(sent)).toEqual(framed(frame(300, 3)))
    stream.push(null)
    await until(() => !n.device.linkUp, "the end of the link")
    expect(stream.destroyed).toBe(true)
  })

  it("holds back the guest when the other end does not read", async () => {
    const path = wirePath()
    let peer: Socket | undefined
    const server = createServer((socket) => {
      peer = socket.pause()
    })
    closers.push({ close: () => server.close() })
    await new Promise<void>((resolve) => server.listen(path, resolve))
    const n = await started({ socket: { connect: { path } } })
    await until(() => n.device.linkUp, "the link")
    const big = frame(60_000, 3)
    let sent = 0
    const ring = n.harness.ring(1)
    const pump = () => {
      sent += ring.reap().length
      while (ring.inFlight < 8) ring.add({ readable: [header(), big], layout: "indirect" })
      n.harness.kick(1)
    }
    // What the kernel and the four chunks take, and then no more.
    for (let still = 0, before = -1; still < 20; still = sent === before ? still + 1 : 0) {
      before = sent
      pump()
      await new Promise((resolve) => setImmediate(resolve))
    }
    let bytes = 0
    peer!.on("data", (data) => {
      bytes += data.length
    })
    peer!.resume()
    const wanted = (sent + 20) * (60_000 + 4)
    await until(() => {
      pump()
      return bytes >= wanted
    }, "the rest")
    expect(n.device.counters.txDropped).toBe(0)
    peer!.destroy()
  })

  it("ends with a peer that says nonsense, and drops short frames", async () => {
    const path = wirePath()
    const n = await started({ socket: { listen: { path } } })
    const chains = n.post([[2000]])
    const reasons: string[] = []
    n.device.on("link", (up, reason) => {
      if (!up) reasons.push(reason)
    })
    const socket = createConnection(path)
    closers.push({ close: () => socket.destroy() })
    socket.write(framed(new Uint8Array(0), new Uint8Array(13), frame()))
    expect(await receivedFrames(n, chains, 1)).toEqual([frame()])
    expect(n.device.counters.rxErrors).toBe(2)
    socket.write(Buffer.from([0xff, 0xff, 0xff, 0xff]))
    await until(() => !n.device.linkUp, "the end")
    expect(reasons).toEqual(["the other end sent a frame of 4294967295 bytes"])
  })

  it("has one other end at a time", async () => {
    const path = wirePath()
    const n = await started({ socket: { listen: { path } } })
    const first = createConnection(path)
    await until(() => n.device.linkUp, "the link")
    const second = createConnection(path)
    await new Promise((resolve) => second.once("close", resolve))
    expect(n.device.linkUp).toBe(true)
    first.destroy()
    await until(() => !n.device.linkUp, "the end")
  })

  it("drops frames for the driver of before when a device is reset", async () => {
    const path = wirePath()
    const n = await started({ socket: { listen: { path } } })
    const socket = createConnection(path)
    closers.push({ close: () => socket.destroy() })
    socket.write(framed(frame(60, 1), frame(60, 2)))
    await until(() => n.device.linkUp, "the link")
    for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve))
    await n.harness.reset()
    n.harness.start()
    const chains = n.post([[2000]])
    socket.write(framed(frame(60, 3)))
    expect(await receivedFrames(n, chains, 1)).toEqual([frame(60, 3)])
  })

  it("refuses an address that cannot be had", async () => {
    const path = wirePath()
    await started({ socket: { listen: { path } } })
    await expect(net({ socket: { listen: { path } } })).rejects.toThrow(ConfigError)
    await expect(net({ socket: { listen: { path: join(folder, "no", "such") } } })).rejects.toThrow(
      ConfigError,
    )
  })

  it("cuts frames out of a stream, however that is cut, with refusals in between", () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 0, max: 3000 }), { minLength: 1, maxLength: 20 }),
        fc.array(fc.integer({ min: 1, max: 4000 }), { maxLength: 40 }),
        fc.array(fc.boolean(), { maxLength: 60 }),
        (lengths, cuts, refusals) => {
          const frames = lengths.map((length, i) => new Uint8Array(length).fill(i))
          let bytes: Buffer = framed(...frames)
          const seen: Uint8Array[] = []
          const duplex = new Duplex({ read() {}, write: (_chunk, _encoding, done) => done() })
          const stream = new FrameStream(duplex, {
            frame: (part) => {
              if (refusals.pop() === true) return false
              seen.push(part.slice())
              return true
            },
            batch: () => {},
            room: () => {},
            ended: () => {},
          })
          const drain = () => {
            while (duplex.isPaused()) stream.resume()
          }
          for (const cut of [...cuts, bytes.length]) {
            if (bytes.length === 0) break
            duplex.emit("data", bytes.subarray(0, cut))
            bytes = bytes.subarray(cut)
            drain()
          }
          expect(Buffer.concat(seen).equals(Buffer.concat(frames))).toBe(true)
          expect(seen).toHaveLength(frames.length)
          stream.close("done")
        },
      ),
      { numRuns: 60 },
    )
  })
})

describe("dgram", () => {
  it("joins two devices, and hears nobody else", async () => {
    const [one, two] = [await freePort(), await freePort()]
    const a = await started({ socket: { local: { port: one }, remote: { port: two } } })
    const b = await started({ socket: { local: { port: two }, remote: { port: one } } })
    const stranger = await freeSocket()
    stranger.send(frame(60, 66), two, "127.0.0.1")
    const chains = b.post([[2000], [2000]])
    await a.send([
      [header(), frame(60, 1)],
      [header(), frame(1514, 2)],
    ])
    expect(await receivedFrames(b, chains, 2)).toEqual([frame(60, 1), frame(1514, 2)])
    stranger.close()
    expect(a.device.features & (F.CSUM | F.GUEST_CSUM)).toBe(0n)
  })

  it.each([
    { local: { port: 0 }, remote: { port: 1 } },
    { local: { port: 1 }, remote: { port: 65_536 } },
    { local: { host: "localhost", port: 1 }, remote: { port: 1 } },
    { local: { host: "192.0.2.77", port: 9 }, remote: { port: 1 } },
  ])("refuses %j", async (options) => {
    await expect(dgramBackend(options)).rejects.toThrow(ConfigError)
  })
})

const hasQemu = (process.env.PATH ?? "")
  .split(":")
  .some((path) => existsSync(join(path, "qemu-system-x86_64")))

describe.skipIf(!hasQemu)(`QEMU${hasQemu ? "" : " (skipped: qemu-system-x86_64 is not installed)"}`, () => {
  it("understands both framings: a hub in it joins a stream and a dgram wire", async () => {
    const path = wirePath()
    const [ours, theirs] = [await freePort(), await freePort()]
    const a = await started({ socket: { local: { port: ours }, remote: { port: theirs } } })
    const b = await started({ socket: { listen: { path } } })
    const wires = [
      // First, so that it is there when the other one calls.
      `dgram,id=b,local.type=inet,local.host=127.0.0.1,local.port=${theirs},remote.type=inet,remote.host=127.0.0.1,remote.port=${ours}`,
      `stream,id=a,addr.type=unix,addr.path=${path}`,
      "hubport,id=c,hubid=0,netdev=a",
      "hubport,id=d,hubid=0,netdev=b",
    ]
    const args = [
      "-M",
      "none",
      "-nodefaults",
      "-display",
      "none",
      ...wires.flatMap((wire) => ["-netdev", wire]),
    ]
    const qemu = spawn("qemu-system-x86_64", args, { stdio: ["ignore", "ignore", "inherit"] })
    const ended = new Promise((resolve) => qemu.once("exit", resolve))
    closers.push({ close: () => qemu.kill() && ended })
    await until(() => b.device.linkUp, "QEMU to call")
    // Connected, it may still be at starting, and lose what comes.
    const probe = frame(99)
    const seen: Uint8Array[] = []
    const collect = () => {
      const ring = b.harness.ring(RX)
      seen.push(...ring.reap().map((chain) => received(chain).bytes))
      b.post(Array.from({ length: 40 - ring.inFlight }, () => [2000]))
    }
    await until(() => {
      a.harness.ring(TX).reap()
      a.harness.ring(TX).add({ readable: [header(), probe], layout: "indirect" })
      a.harness.kick(TX)
      collect()
      return seen.length > 0
    }, "QEMU to pass a frame on")
    const frames = [60, 61, 1000, 1514].map((length) => frame(length, length))
    await a.send(frames.map((bytes) => [header(), bytes]))
    const arrived = () => seen.filter((bytes) => bytes.length !== probe.length)
    await until(() => {
      collect()
      return arrived().length >= frames.length
    }, "the frames")
    expect(arrived()).toEqual(frames)
    const atA = a.post(Array.from({ length: 4 }, () => [2000]))
    await b.send(frames.map((bytes) => [header(), bytes]))
    expect(await receivedFrames(a, atA, 4)).toEqual(frames)
    qemu.kill()
    await until(() => !b.device.linkUp, "QEMU to go")
  })
})

async function freeSocket() {
  const { createSocket } = await import("node:dgram")
  const socket = createSocket("udp4")
  await new Promise<void>((resolve) => socket.bind(0, "127.0.0.1", resolve))
  return socket
}

async function freePort(): Promise<number> {
  const socket = await freeSocket()
  const { port } = socket.address()
  await new Promise<void>((resolve) => socket.close(() => resolve()))
  return port
}
