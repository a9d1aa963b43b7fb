import { FEATURE, until } from "@virtkit/testkit"
import {
  type BlockBackend,
  type BlockRequest,
  type BlockSession,
  block,
  memoryDisk,
} from "@virtkit/virtio-blk"
import { consolePort } from "@virtkit/virtio-console"
import { rng } from "@virtkit/virtio-rng"
import { describe, expect, it } from "vitest"
import { machine, TRANSPORTS } from "./transport-machine.js"

/** Everything, reset of single queues included. */
const ALL = ~FEATURE.RING_PACKED

// virtio-blk, 5.2.6.
const IN = 0
const OUT = 1
const OK = 0

function header(type: number, sector: number): Uint8Array {
  const bytes = new Uint8Array(16)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, type, true)
  view.setUint32(8, sector, true)
  return bytes
}

const pattern = (seed: number): Uint8Array =>
  Uint8Array.from({ length: 512 }, (_, i) => (i * 7 + seed) & 0xff)

/** A disk in memory whose requests are done when the test says so. */
function slowDisk(): BlockBackend & { finish(): void; waiting: BlockRequest[] } {
  const disk = memoryDisk(64 * 512)
  const waiting: BlockRequest[] = []
  let session: BlockSession
  return {
    info: disk.info,
    waiting,
    start: (given) => {
      session = given
      disk.start(given)
    },
    submit: (request) => waiting.push(request),
    commit: () => {},
    finish: () => {
      for (const request of waiting.splice(0)) disk.submit(request)
      session.completed()
    },
    idle: async () => until(() => waiting.length === 0, "the disk"),
    resize: (size) => disk.resize(size),
    close: () => disk.close(),
  }
}

for (const transport of TRANSPORTS) {
  describe(transport, () => {
    describe("block device", () => {
      it("has its size, keeps data, takes a cache mode and grows", async () => {
        const device = await block({ backend: memoryDisk(64 * 512) })
        const { driver, interrupt, errors } = machine(transport, device)
        await driver.start()
        expect(driver.readConfigAt(0, 4)).toBe(64)
        await driver.request(0, { readable: [header(OUT, 9), pattern(4)], writable: [1] })
        const read = await driver.request(0, {
          readable: [header(IN, 9)],
          writable: [512, 1],
          layout: "indirect",
        })
        expect([read.data?.subarray(0, 512), read.data?.[512]]).toEqual([pattern(4), OK])
        expect([driver.handleInterrupt().usedBuffer, interrupt.count > 0]).toEqual([true, true])
        driver.writeConfig(32, 0, 1)
        expect(driver.readConfigAt(32, 1)).toBe(0)
        await device.resize(128 * 512)
        expect(driver.handleInterrupt().configChange).toBe(true)
        expect(driver.readConfigAt(0, 4)).toBe(128)
        expect(errors).toEqual([])
        await device.close()
      })

      it("bad-input #34: a storm of resets and notifications leaves it working", async () => {
        const device = await block({ backend: memoryDisk(64 * 512) })
        const { driver, errors } = machine(transport, device)
        for (let round = 0; round < 20; round++) {
          await driver.start({ features: ALL })
          for (let i = 0; i < 5; i++) {
            driver.rings[0]!.add({ readable: [header(OUT, i), pattern(3)], writable: [1] })
          }
          for (let i = 0; i < 10; i++) {
            driver.kick(0)
            driver.notify(0)
            driver.notify(1)
          }
          if (round % 2 === 0) await driver.resetQueue(0)
        }
        await driver.start()
        const read = await driver.request(0, { readable: [header(IN, 2)], writable: [512, 1] })
        expect(read.data?.subarray(0, 512)).toEqual(pattern(3))
        expect(errors).toEqual([])
      })

      it("a queue is reset when its requests are out of the backend, and others go on", async () => {
        const backend = slowDisk()
        const device = await block({ backend, queues: 2 })
        const { driver, interrupt, errors } = machine(transport, device)
        await driver.start({ features: ALL, queueSize: 8 })
        const [first, second] = driver.rings
        const lost = first!.add({ readable: [header(OUT, 1), pattern(1)], writable: [1] })
        const kept = second!.add({ readable: [header(OUT, 2), pattern(2)], writable: [1] })
        driver.kick(0)
        driver.kick(1)
        let complete = false
        const reset = driver.resetQueue(0).then(() => {
          complete = true
        })
        await new Promise((resolve) => setTimeout(resolve, 5))
        expect([complete, device.inFlight]).toEqual([false, 2])
        const used = first!.used
        const before = interrupt.count
        backend.finish()
        await reset
        expect(device.inFlight).toBe(0)
        first!.reap()
        second!.reap()
        expect([lost.written, kept.written, driver.memory.readUint16(used + 2)]).toEqual([undefined, 1, 0])
        expect(interrupt.count).toBe(before + 1)
        // Not even its status byte was written.
        expect(driver.memory.readUint8(lost.buffers.at(-1)!.address)).toBe(0xee)
        driver.setupQueue(0, 64)
        const again = driver.request(0, { readable: [header(IN, 2)], writable: [512, 1] })
        backend.finish()
        expect((await again).data?.subarray(0, 512)).toEqual(pattern(2))
        expect(errors).toEqual([])
      })
    })

    describe("console", () => {
      const RECEIVE = 0
      const TRANSMIT = 1

      it("prints, reads, resizes and takes an emergency write", async () => {
        const device = consolePort({ cols: 132, rows: 50 })
        const { driver, errors } = machine(transport, device)
        let output = ""
        device.stream.on("data", (chunk: Buffer) => {
          output += chunk.toString("latin1")
        })
        driver.writeConfig(8, 0x21, 4)
        await driver.start()
        expect([...driver.readConfig(0, 4)]).toEqual([132, 0, 50, 0])
        device.stream.write("typed")
        const input = await driver.request(RECEIVE, { writable: [64] })
        expect(Buffer.from(input.data!.subarray(0, input.written)).toString()).toBe("typed")
        expect(driver.handleInterrupt()).toEqual({ usedBuffer: true, configChange: false })
        await driver.request(TRANSMIT, { readable: [Buffer.from("printed")] })
        await until(() => output === "!printed", "output")
        driver.handleInterrupt()
        device.resize(80, 25)
        expect(driver.handleInterrupt()).toEqual({ usedBuffer: false, configChange: true })
        expect([...driver.readConfig(0, 4)]).toEqual([80, 0, 25, 0])
        expect(errors).toEqual([])
      })

      it("the reset of its transmit queue drops the rest of a chain that was half taken", async () => {
        const device = consolePort({ outputBuffer: 16 })
        const { driver, errors } = machine(transport, device)
        await driver.start({ features: ALL })
        driver.rings[TRANSMIT]!.add({ readable: [new Uint8Array(50).fill(0x41)] })
        driver.kick(TRANSMIT)
        await driver.resetQueue(TRANSMIT)
        driver.setupQueue(TRANSMIT, 4)
        let output = ""
        device.stream.on("data", (chunk: Buffer) => {
          output += chunk.toString("latin1")
        })
        await driver.request(TRANSMIT, { readable: [Buffer.from("next")] })
        await until(() => output.endsWith("next"), "output")
        expect(output).toBe(`${"A".repeat(16)}next`)
        device.stream.write("x")
        expect((await driver.request(RECEIVE, { writable: [8] })).written).toBe(1)
        await driver.resetQueue(RECEIVE)
        device.stream.write("later")
        driver.setupQueue(RECEIVE, 4)
        expect((await driver.request(RECEIVE, { writable: [8] })).written).toBe(5)
        expect(errors).toEqual([])
      })
    })

    describe("entropy device", () => {
      it("does not wait for what a request of a queue that was reset waited for", async () => {
        const device = rng({ rate: 1, burst: 100 })
        const { driver } = machine(transport, device)
        await driver.start({ features: ALL })
        await driver.request(0, { writable: [90] })
        driver.rings[0]!.add({ writable: [90] })
        driver.kick(0)
        await driver.resetQueue(0)
        driver.setupQueue(0, 8)
        expect((await driver.request(0, { writable: [5] })).written).toBe(5)
        await device.close()
      })

      it("fills requests, also after resets of the queue while one waits for the rate limit", async () => {
        const device = rng({ rate: 1e6, burst: 4096, source: (buffer) => buffer.fill(0x5a) })
        const { driver, errors } = machine(transport, device)
        await driver.start({ features: ALL })
        for (let round = 0; round < 5; round++) {
          for (let i = 0; i < 4; i++) driver.rings[0]!.add({ writable: [4096] })
          driver.kick(0)
          await driver.resetQueue(0)
          driver.setupQueue(0, 8)
        }
        await driver.start()
        const chain = await driver.request(0, { writable: [3, 40] })
        expect([...chain.data!]).toEqual(Array<number>(43).fill(0x5a))
        expect(driver.handleInterrupt().usedBuffer).toBe(true)
        expect(errors).toEqual([])
        await device.close()
      })
    })
  })
}
