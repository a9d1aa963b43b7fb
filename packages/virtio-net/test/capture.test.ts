import { execFileSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { ConfigError } from "@virtkit/interface"
import { captureFile, loopbackBackend, net, nullBackend } from "@virtkit/virtio-net"
import { afterAll, expect, it } from "vitest"
import { frame, header, nic, RX } from "./helpers.js"
import { NEEDS_CSUM, TSO4, tcpFrame } from "./packets.js"

const folder = mkdtempSync(join(tmpdir(), "virtkit-capture-"))
afterAll(() => rmSync(folder, { recursive: true }))

interface Block {
  type: number
  body: DataView
}

/** The blocks of a pcapng file, whose lengths must be right at both ends. */
function blocks(path: string): Block[] {
  const bytes = readFileSync(path)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const list: Block[] = []
  for (let at = 0; at < bytes.length; ) {
    const length = view.getUint32(at + 4, true)
    expect(length % 4).toBe(0)
    expect(view.getUint32(at + length - 4, true)).toBe(length)
    list.push({
      type: view.getUint32(at, true),
      body: new DataView(bytes.buffer, bytes.byteOffset + at + 8, length - 12),
    })
    at += length
  }
  return list
}

function packet({ type, body }: Block) {
  expect(type).toBe(6)
  const captured = body.getUint32(12, true)
  const options = 20 + ((captured + 3) & ~3)
  expect([body.getUint16(options, true), body.getUint16(options + 2, true)]).toEqual([2, 4])
  expect([body.getUint16(options + 8, true), body.getUint16(options + 10, true)]).toEqual([4, 8])
  return {
    time: body.getUint32(4, true) * 2 ** 32 + body.getUint32(8, true),
    length: body.getUint32(16, true),
    bytes: new Uint8Array(body.buffer, body.byteOffset + 20, captured),
    flags: body.getUint32(options + 4, true),
    dropped: body.getUint32(options + 12, true),
  }
}

it("writes what both sides sent, with times, directions and offloads", async () => {
  const path = join(folder, "both.pcapng")
  const before = Date.now()
  const n = await nic({ backend: loopbackBackend(), capture: path, name: "lan" })
  n.post(Array.from({ length: 5 }, () => [700]))
  const tcp = tcpFrame({
    from: "52:54:00:00:00:01",
    to: "52:54:00:00:00:02",
    payload: new Uint8Array(1500).fill(3),
  })
  await n.send([
    [header(), frame(61, 5)],
    [header({ ...TSO4, gsoSize: 1000 }), tcp.subarray(0, 99), tcp.subarray(99)],
    [header(NEEDS_CSUM), tcp.subarray(0, 200)],
    // Dropped: in no capture.
    [header({ flags: 1, csumStart: 999 }), frame(60)],
  ])
  await n.device.close()
  const [section, description, ...packets] = blocks(path)
  expect([section!.type, section!.body.getUint32(0, true)]).toEqual([0x0a0d0d0a, 0x1a2b3c4d])
  expect([description!.type, description!.body.getUint16(0, true)]).toEqual([1, 1])
  expect(readFileSync(path).includes("lan")).toBe(true)
  const seen = packets.map(packet)
  // The loop is within transmit: in comes first.
  expect(seen.map(({ bytes }) => Buffer.from(bytes))).toEqual(
    [frame(61, 5), frame(61, 5), tcp, tcp, tcp.subarray(0, 200), tcp.subarray(0, 200)].map((bytes) =>
      Buffer.from(bytes),
    ),
  )
  expect(seen.map(({ flags }) => flags)).toEqual([1, 2, 0xa01, 0xa02, 0x201, 0x202])
  for (const { time } of seen) {
    expect(time / 1000).toBeGreaterThan(before - 1000)
    expect(time / 1000).toBeLessThan(Date.now() + 1000)
  }
  expect(statSync(path).mode & 0o077).toBe(0)
})

it("is read by tcpdump and tshark, which count as the device does", async () => {
  const path = join(folder, "read.pcapng")
  const began = Date.now() / 1000
  const n = await nic({ backend: loopbackBackend(), capture: path })
  const sizes = Array.from({ length: 120 }, (_, index) => 60 + ((index * 97) % 1455))
  for (let at = 0; at < sizes.length; at += 8) {
    n.post(sizes.slice(at, at + 8).map(() => [1600]))
    await n.send(sizes.slice(at, at + 8).map((size) => [header(), frame(size, at)]))
    n.harness.ring(RX).reap()
  }
  await n.device.close()
  const ended = Date.now() / 1000

  const fields = ["frame.time_epoch", "frame.len", "frame.packet_flags_direction"].flatMap((f) => ["-e", f])
  const table = execFileSync("tshark", ["-n", "-r", path, "-T", "fields", ...fields], { stdio: "pipe" })
  const frames = table
    .toString()
    .trimEnd()
    .split("\n")
    .map((line) => line.split("\t").map(Number))
  const { rxFrames, rxBytes, txFrames, txBytes } = n.device.counters
  for (const [direction, packets, bytes] of [
    [1, rxFrames, rxBytes],
    [2, txFrames, txBytes],
  ]) {
    const lengths = frames.filter((fields) => fields[2] === direction).map((fields) => fields[1]!)
    expect(lengths).toEqual(sizes)
    expect([lengths.length, lengths.reduce((a, b) => a + b)]).toEqual([packets, bytes])
  }
  const times = frames.map((fields) => fields[0]!)
  expect(times).toEqual([...times].sort((a, b) => a - b))
  expect(times[0]).toBeGreaterThan(began - 0.1)
  expect(times.at(-1)).toBeLessThan(ended + 0.1)

  const lines = execFileSync("tcpdump", ["-n", "-r", path], { stdio: "pipe" }).toString()
  expect(lines.match(/^\d\d:\d\d:\d\d\.\d+ /gm)).toHaveLength(2 * sizes.length)
}, 30_000)

it("cuts frames, counts what the disk had no time for, and may come and go", async () => {
  const path = join(folder, "cut.pcapng")
  const capture = await captureFile({ path, snapLength: 50 })
  const n = await nic({ backend: nullBackend() })
  n.device.setCapture(capture)
  await n.send([[header(), frame(100, 1)]])
  n.device.setCapture(undefined)
  await n.send([[header(), frame(100, 2)]])
  await capture.close()
  await capture.close()
  capture.frame("in", frame(), { flags: 0, gsoType: 0, hdrLen: 0, gsoSize: 0, csumStart: 0, csumOffset: 0 })
  const [, , ...packets] = blocks(path)
  expect(packets.map(packet)).toMatchObject([{ length: 100, bytes: frame(100, 1).subarray(0, 50) }])

  const flood = await captureFile({ path })
  const none = { flags: 2, gsoType: 0, hdrLen: 0, gsoSize: 0, csumStart: 0, csumOffset: 0 }
  for (let i = 0; i < 300; i++) flood.frame("in", frame(60_000), none)
  expect(flood.dropped).toBe(300 - 16 * 17)
  await new Promise((resolve) => setImmediate(resolve))
  flood.frame("in", frame(60), none)
  await flood.close()
  const last = packet(blocks(path).at(-1)!)
  expect(last).toMatchObject({ length: 60, dropped: 300 - 16 * 17, flags: 0x401 })
  expect(flood.frames).toBe(16 * 17 + 1)
})

it("refuses a path that cannot be written, and closes the backend", async () => {
  let closed = 0
  const backend = { ...nullBackend(), info: nullBackend().info, close: async () => void closed++ }
  await expect(net({ backend: backend as never, capture: join(folder, "no", "such") })).rejects.toThrow(
    ConfigError,
  )
  expect(closed).toBe(1)
  await expect(captureFile({ path: join(folder, "x"), snapLength: 0 })).rejects.toThrow(ConfigError)
})
