import { closeSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { SystemError } from "@virtkit/interface"
import {
  EchoDevice,
  Recorder,
  readTrace,
  record,
  replay,
  TraceError,
  type TraceEvent,
} from "@virtkit/testkit"
import fc from "fast-check"
import { afterAll, expect, it } from "vitest"
import { TraceWriter } from "../src/record-file.js"

const folder = mkdtempSync(join(tmpdir(), "virtkit-trace-"))
afterAll(() => rmSync(folder, { recursive: true }))
const path = join(folder, "trace")

const header = { name: "echo0", deviceType: 42, features: "0x1", queueMaxSizes: [16, 8], config: "0102" }

/** A clock that goes on by a quarter of a millisecond each time that it is read. */
function clock(): () => number {
  let now = 100
  return () => {
    now += 0.25
    return now
  }
}

function write(events: readonly TraceEvent[]): Buffer {
  const writer = new TraceWriter(path, header, clock())
  for (const event of events) writer.add(event)
  writer.close()
  return readFileSync(path)
}

function read(bytes: Uint8Array) {
  const trace = readTrace(bytes)
  return { header: trace.header, records: [...trace.records] }
}

const number = fc.oneof(fc.nat(300), fc.maxSafeNat())
const bytes = fc.uint8Array({ maxLength: 40 })
const anyEvent: fc.Arbitrary<TraceEvent> = fc.oneof(
  fc.record({
    kind: fc.constant("activate"),
    features: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    queueSizes: fc.array(fc.nat(32768), { maxLength: 4 }),
  }),
  fc.record({
    kind: fc.constantFrom("notify", "queue-reset", "queue-reset-done", "flush"),
    queue: number,
  }),
  fc.record({ kind: fc.constant("queue-start"), queue: number, size: number }),
  fc.record({ kind: fc.constant("write-config"), offset: number, data: bytes }),
  fc.record({
    kind: fc.constant("chain"),
    queue: number,
    id: number,
    head: number,
    buffers: fc.array(fc.record({ address: number, length: fc.nat(2 ** 32 - 1), writable: fc.boolean() })),
    data: bytes,
  }),
  fc.record({
    kind: fc.constant("used"),
    queue: number,
    id: number,
    written: number,
    data: bytes,
    tail: bytes,
  }),
  fc.record({ kind: fc.constant("config"), config: bytes }),
  fc.record({ kind: fc.constant("needs-reset"), reason: fc.string() }),
  fc.record({
    kind: fc.constant("window"),
    window: number,
    layout: fc.constantFrom("mmio", "pci-common", "pci-isr", "other"),
    name: fc.string(),
    doorbells: fc.array(
      fc.record({ offset: number, length: number, datamatch: fc.option(fc.nat(), { nil: undefined }) }),
    ),
  }),
  fc.record({
    kind: fc.constantFrom("read", "write"),
    window: number,
    offset: number,
    size: number,
    value: number,
  }),
  fc.record({ kind: fc.constant("doorbell"), window: number, doorbell: number }),
  fc.record({ kind: fc.constant("interrupt"), vector: number }),
  fc.record({ kind: fc.constant("slot"), busMaster: fc.boolean(), msix: fc.boolean() }),
  fc.record({ kind: fc.constant("intx"), asserted: fc.boolean() }),
  fc.record({ kind: fc.constantFrom("reset", "reset-done", "function-reset") }),
) as fc.Arbitrary<TraceEvent>

it("gives back every record as it was written, with its number and time", () => {
  fc.assert(
    fc.property(fc.array(anyEvent, { maxLength: 60 }), (events) => {
      const trace = read(write(events))
      expect(trace.header).toEqual(header)
      const stamped = events.map((event, index) => ({ ...event, number: index, time: (index + 1) * 250 }))
      expect(trace.records).toEqual(stamped)
    }),
    { numRuns: 60 },
  )
})

it("packs a long trace into blocks, which are written while it goes on", () => {
  const writer = new TraceWriter(path, header, clock())
  const data = new Uint8Array(4096).fill(7)
  let written = statSync(path).size
  let blocks = 0
  for (let id = 0; id < 200; id++) {
    writer.add({ kind: "used", queue: 0, id, written: 4096, data, tail: new Uint8Array(0) })
    const { size } = statSync(path)
    if (size !== written) blocks++
    written = size
  }
  expect(blocks).toBe(12)
  writer.close()
  writer.close()
  expect(statSync(path).size).toBeLessThan(20_000)
  expect(read(readFileSync(path)).records).toHaveLength(200)
})

it("refuses what is no trace, or one of another version", () => {
  const good = write([{ kind: "reset" }])
  for (const text of ["", "vktrac", "something that is not one"]) {
    expect(() => read(Buffer.from(text))).toThrow(new TraceError("not a trace"))
  }
  const other = Buffer.from(good)
  other[8] = 2
  expect(() => read(other)).toThrow(new TraceError("a trace of version 2, not 1"))
  expect(() => readTrace(join(folder, "absent"))).toThrow(SystemError)
})

it("tells of a trace that was cut short, wherever that was, and of one that goes on", () => {
  const good = write([{ kind: "notify", queue: 0 }, { kind: "reset" }, { kind: "reset-done" }])
  for (let length = 0; length < good.length; length++) {
    expect(() => read(good.subarray(0, length))).toThrow(TraceError)
  }
  expect(() => read(Buffer.concat([good, Buffer.of(0)]))).toThrow(TraceError)
  expect(read(good).records).toHaveLength(3)
})

it("tells of any byte that was changed", () => {
  const good = write([
    { kind: "notify", queue: 0 },
    { kind: "config", config: Uint8Array.of(1, 2, 3) },
  ])
  for (let at = 0; at < good.length; at++) {
    const bad = Buffer.from(good)
    bad[at] = bad[at]! ^ 0x11
    expect(() => read(bad), `byte ${at}`).toThrow(TraceError)
  }
})

it("bad-input #31: lengths of a trace that lie cost a typed error, not memory", () => {
  const good = write([{ kind: "notify", queue: 0 }])
  const huge = Buffer.from(good)
  huge.writeUInt32LE(0xffff_fff0, 10 + 4)
  expect(() => read(huge)).toThrow(new TraceError("corrupt trace: a block is too large"))
  const packed = Buffer.from(good)
  packed.writeUInt32LE(0x0200_0000, 10)
  expect(() => read(packed)).toThrow(new TraceError("the trace is cut short"))
})

it("replays no trace that it cannot read", async () => {
  const device = new EchoDevice()
  const createQueue = () => ({ reason: "none" })
  await expect(replay(Buffer.from("no"), { device, createQueue })).rejects.toThrow(TraceError)
  const onDevice = write([{ kind: "notify", queue: 0 }])
  const setup = () => ({ name: "none", read: () => 0, write: () => {} })
  await expect(replay(onDevice, { setup })).rejects.toThrow("the trace has no registers")
})

it("does not record where it cannot, and says so", async () => {
  expect(() => record(new EchoDevice(), { path: join(folder, "no", "trace") })).toThrow(SystemError)
  expect(() => new Recorder({ path, maxData: -1 })).toThrow("maxData is -1")
  const recorder = new Recorder({ path })
  recorder.device(new EchoDevice())
  expect(() => recorder.device(new EchoDevice())).toThrow("a trace is of one device")
  recorder.close()
})

/** Takes the open file away from whoever writes to it. */
function breakWriter(): void {
  const fd = readdirSync("/proc/self/fd").find((name) => {
    try {
      return readlinkSync(`/proc/self/fd/${name}`) === path
    } catch {
      return false // that of the listing itself
    }
  })
  closeSync(Number(fd))
}

it("goes on without a trace when the file cannot be written", async () => {
  expect(() => record(new EchoDevice(), { path: "/dev/full" })).toThrow(/ENOSPC/)
  const errors: Error[] = []
  const device = new EchoDevice()
  const recorded = record(device, { path, onError: (error) => errors.push(error) })
  breakWriter()
  recorded.writeConfig?.(0, Uint8Array.of(9))
  await recorded.close()
  expect(device.config[0]).toBe(9)
  expect(device.calls).toContain("close")
  expect(errors).toHaveLength(1)
  expect(errors[0]).toMatchObject({ code: "EBADF", syscall: "write" })
})
