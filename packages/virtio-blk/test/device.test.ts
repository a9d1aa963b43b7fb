import { ConfigError, RestoreError, StateError } from "@virtkit/interface"
import { DESCRIPTOR, TestMemory, until } from "@virtkit/testkit"
import { block, memoryDisk } from "@virtkit/virtio-blk"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import {
  answer,
  DISCARD,
  disk,
  FLUSH,
  GET_ID,
  header,
  IN,
  IOERR,
  manualBackend,
  OK,
  OUT,
  pattern,
  ranges,
  UNSUPP,
  WRITE_ZEROES,
} from "./helpers.js"

/** Errno. */
const ECANCELED = 125
const KiB = 1024
const turn = () => new Promise((resolve) => setImmediate(resolve))
/** Feature masks of the specification. */
const RO = 1n << 5n
const FLUSH_F = 1n << 9n
const CONFIG_WCE = 1n << 11n
const MQ = 1n << 12n
const DISCARD_F = 1n << 13n
const VERSION_1 = 1n << 32n

describe("requests", () => {
  it("writes, reads back, and counts", async () => {
    const d = await disk({ backend: memoryDisk(64 * KiB) })
    const data = pattern(1536, 1)
    expect(await d.write(3, data)).toMatchObject({ status: OK, written: 1 })
    const back = await d.read(3, 1024, 512)
    expect(back).toMatchObject({ status: OK, written: 1537 })
    expect(back.data).toEqual(data)
    expect((await d.read(2, 512)).data.every((byte) => byte === 0)).toBe(true)
    expect(d.device.counters).toMatchObject({
      reads: 2,
      readBytes: 2048,
      writes: 1,
      writtenBytes: 1536,
      failed: 0,
    })
    expect(d.device.inFlight).toBe(0)
  })

  it("flushes, tells its ID, and does not know other requests", async () => {
    const d = await disk({ backend: memoryDisk(64 * KiB), serial: "disk-42" })
    expect(await d.request(FLUSH)).toMatchObject({ status: OK, written: 1 })
    const id = await d.request(GET_ID, { in: [20] })
    expect(Buffer.from(id.data).toString()).toBe(`disk-42${"\0".repeat(13)}`)
    expect(id.written).toBe(21)
    expect(Buffer.from((await d.request(GET_ID, { in: [4] })).data).toString()).toBe("disk")
    expect((await d.request(GET_ID, { in: [30] })).status).toBe(OK)
    expect(await d.request(99, { in: [512] })).toMatchObject({ status: UNSUPP, written: 1 })
    expect(d.device.counters.flushes).toBe(1)
  })

  it("discards and zeroes several ranges with one request", async () => {
    const backend = memoryDisk(pattern(64 * KiB, 3).fill(7))
    const d = await disk({ backend })
    const zeroed = await d.request(WRITE_ZEROES, { out: [ranges([1, 2, 0], [5, 0, 0], [10, 1, 1])] })
    expect(zeroed).toMatchObject({ status: OK, written: 1 })
    expect(await d.request(DISCARD, { out: [ranges([20, 4, 0])] })).toMatchObject({ status: OK })
    const zero = [...Array(128).keys()].filter((sector) => backend.data[sector * 512] === 0)
    expect(zero).toEqual([1, 2, 10, 20, 21, 22, 23])
    expect(await d.request(DISCARD, { out: [ranges([0, 0, 0])] })).toMatchObject({ status: OK })
    expect(d.device.counters.ranges).toBe(2)
  })

  it("carries out no range when one of them is wrong", async () => {
    const backend = memoryDisk(pattern(64 * KiB, 0).fill(7))
    const d = await disk({ backend })
    expect((await d.request(WRITE_ZEROES, { out: [ranges([0, 1, 0], [128, 1, 0])] })).status).toBe(IOERR)
    expect((await d.request(WRITE_ZEROES, { out: [ranges([0, 1, 0], [1, 1, 8])] })).status).toBe(UNSUPP)
    expect(backend.data.every((byte) => byte === 7)).toBe(true)
  })

  it("refuses a discard that was not negotiated", async () => {
    const d = await disk({ backend: memoryDisk(64 * KiB) }, { features: VERSION_1 | FLUSH_F })
    expect((await d.request(DISCARD, { out: [ranges([0, 1, 0])], layout: "direct" })).status).toBe(UNSUPP)
  })

  it("turns errors of the host into statuses; discarding may be impossible", async () => {
    const backend = manualBackend(64 * KiB)
    const d = await disk({ backend })
    const go = async (type: number, error: number, out: Uint8Array[] = []) => {
      const done = d.request(type, { out })
      backend.finish(error)
      return (await done).status
    }
    expect(await go(OUT, 28, [new Uint8Array(512)])).toBe(IOERR)
    expect(d.device.counters.lastErrno).toBe(28)
    expect(await go(FLUSH, 5)).toBe(IOERR)
    expect(await go(DISCARD, 95, [ranges([0, 1, 0])])).toBe(OK)
    expect(await go(WRITE_ZEROES, 95, [ranges([0, 1, 0])])).toBe(UNSUPP)
  })
})

describe("hostile guests", () => {
  it("bad-input #23: requests past the end of the disk, and sectors that overflow", async () => {
    const d = await disk({ backend: memoryDisk(64 * KiB) })
    for (const sector of [128, 127, 2n ** 55n, 2n ** 64n - 1n]) {
      expect(await d.read(sector, 1024)).toMatchObject({ status: IOERR, written: 1 })
      expect(await d.write(sector, new Uint8Array(1024))).toMatchObject({ status: IOERR })
    }
    expect((await d.read(127, 512)).status).toBe(OK)
  })

  it("bad-input #24: a read-only disk is never written", async () => {
    const backend = memoryDisk(new Uint8Array(64 * KiB).fill(7), { readonly: true })
    const d = await disk({ backend })
    expect(d.device.features & (RO | DISCARD_F)).toBe(RO)
    expect((await d.write(0, new Uint8Array(512))).status).toBe(IOERR)
    expect((await d.request(DISCARD, { out: [ranges([0, 1, 0])] })).status).toBe(IOERR)
    expect((await d.request(WRITE_ZEROES, { out: [ranges([0, 1, 0])] })).status).toBe(IOERR)
    expect((await d.read(0, 512)).data.every((byte) => byte === 7)).toBe(true)
    expect(backend.data.every((byte) => byte === 7)).toBe(true)
  })

  it("bad-input #20: chains without room for header or status go back with length 0, and the queue goes on", async () => {
    const d = await disk({ backend: memoryDisk(64 * KiB) })
    for (const request of [
      { readable: [new Uint8Array(15)], writable: [1] },
      { writable: [513] },
      { readable: [header(IN)] },
      { readable: [header(OUT), new Uint8Array(512)] },
    ]) {
      expect((await d.harness.request(0, request)).written).toBe(0)
    }
    expect(d.device.counters.malformed).toBe(4)
    expect((await d.read(0, 512)).status).toBe(OK)
  })

  it("bad-input #21: any framing gives the same result", async () => {
    const split = (bytes: Uint8Array, cuts: number[]) => {
      const at = [0, ...cuts.map((cut) => cut % bytes.length).sort((a, b) => a - b), bytes.length]
      return at.slice(1).map((end, i) => bytes.subarray(at[i], end))
    }
    const d = await disk({ backend: memoryDisk(64 * KiB) }, { queueSize: 64 })
    await fc.assert(
      fc.asyncProperty(
        fc.nat(100),
        fc.integer({ min: 1, max: 4 }),
        fc.array(fc.nat(5000), { maxLength: 12 }),
        fc.array(fc.nat(5000), { maxLength: 12 }),
        fc.constantFrom("direct" as const, "indirect" as const, "mixed" as const),
        async (sector, sectors, outCuts, inCuts, layout) => {
          const data = pattern(sectors * 512, sector)
          const whole = new Uint8Array([...header(OUT, sector), ...data])
          const written = await d.harness.request(0, {
            readable: split(whole, outCuts),
            writable: [1],
            layout,
          })
          expect(answer(written).status).toBe(OK)
          const sizes = split(new Uint8Array(sectors * 512 + 1), inCuts).map((part) => part.length)
          const back = await d.harness.request(0, {
            readable: split(header(IN, sector), outCuts),
            writable: sizes,
            layout,
          })
          expect(answer(back).status).toBe(OK)
          expect(answer(back).data).toEqual(data)
          expect(back.written).toBe(sectors * 512 + 1)
        },
      ),
      { numRuns: 60 },
    )
  })

  it("bad-input #22: a readable descriptor after a writable one is no request", async () => {
    const d = await disk({ backend: memoryDisk(64 * KiB) })
    const ring = d.harness.ring(0)
    const { memory, allocator } = d.harness
    const at = allocator.allocate(600)
    memory.write(at, header(OUT))
    ring.writeDescriptor(0, { address: at, length: 16, flags: DESCRIPTOR.NEXT, next: 1 })
    ring.writeDescriptor(1, {
      address: at + 590,
      length: 1,
      flags: DESCRIPTOR.WRITE | DESCRIPTOR.NEXT,
      next: 2,
    })
    ring.writeDescriptor(2, { address: at + 16, length: 512, flags: 0 })
    ring.offerHead(0)
    d.harness.kick(0)
    expect(memory.readUint16(ring.used + 2)).toBe(1)
    expect(memory.readUint32(ring.used + 8)).toBe(0)
    expect(d.device.counters.writes).toBe(0)
  })

  it("bad-input #18: the header is read once", async () => {
    const backend = manualBackend(64 * KiB)
    const d = await disk({ backend })
    const ring = d.harness.ring(0)
    const chain = ring.add({ readable: [header(IN, 1)], writable: [512, 1] })
    d.harness.kick(0)
    d.harness.memory.write(chain.buffers[0]!.address, header(OUT, 2n ** 60n))
    expect(backend.pending[0]).toMatchObject({ op: 0, offset: 512, length: 512 })
    backend.finish()
    ring.reap()
    expect(answer(chain).status).toBe(OK)
  })

  it.each([
    ["at most", 16, OK],
    ["more than", 17, IOERR],
  ])("bad-input #12: %s 64 MiB in one request", async (_, buffers, status) => {
    const backend = manualBackend(2 ** 40)
    const memory = new TestMemory({ regions: [{ guestAddress: 0, size: 5 << 20 }] })
    const d = await disk({ backend }, { memory, queueSize: 32 })
    const ring = d.harness.ring(0)
    const at = d.harness.allocator.allocate(64)
    memory.write(at, header(IN))
    // The same 4 MiB again and again.
    const flags = DESCRIPTOR.WRITE | DESCRIPTOR.NEXT
    ring.writeDescriptor(0, { address: at, length: 16, flags: DESCRIPTOR.NEXT, next: 1 })
    for (let i = 1; i <= buffers; i++) {
      ring.writeDescriptor(i, { address: 1 << 20, length: 4 << 20, flags, next: i + 1 })
    }
    ring.writeDescriptor(buffers + 1, { address: at + 16, length: 1, flags: DESCRIPTOR.WRITE })
    memory.writeUint8(at + 16, 0xee)
    ring.offerHead(0)
    d.harness.kick(0)
    backend.finish()
    expect(memory.readUint8(at + 16)).toBe(status)
  })

  it("bad-input #15: an index that jumps breaks the queue only", async () => {
    const d = await disk({ backend: memoryDisk(64 * KiB) })
    d.harness.ring(0).setAvailIndex(5000)
    d.device.notify(0)
    expect(d.harness.needsReset).toHaveLength(1)
    d.device.notify(0)
    d.device.notify(7)
    d.device.notify(-1)
  })

  it("bad-input #16: a full queue is one drain, and what a backend does at once is spread over turns", async () => {
    const size = 32 * 1024 * KiB
    const d = await disk({ backend: memoryDisk(size), queueSize: 16 }, { queueSize: 16 })
    const ring = d.harness.ring(0)
    const { memory, allocator } = d.harness
    const at = allocator.allocate(64)
    memory.write(at, header(IN))
    // Four requests of 3 MiB each on one set of descriptors.
    for (let i = 0; i < 4; i++) {
      ring.writeDescriptor(3 * i, { address: at, length: 16, flags: DESCRIPTOR.NEXT, next: 3 * i + 1 })
      const flags = DESCRIPTOR.WRITE | DESCRIPTOR.NEXT
      ring.writeDescriptor(3 * i + 1, {
        address: 2 ** 20,
        length: 3 * 2 ** 20,
        flags,
        next: 3 * i + 2,
      })
      ring.writeDescriptor(3 * i + 2, { address: at + 32, length: 1, flags: DESCRIPTOR.WRITE })
      ring.offerHead(3 * i)
    }
    d.harness.kick(0)
    const used = () => memory.readUint16(ring.used + 2)
    expect(used()).toBe(2)
    await until(() => used() === 4, "the rest")
  })

  it("bad-input #34: notifications while a drain waits for its turn do nothing", async () => {
    const d = await disk({ backend: memoryDisk(8 * KiB), queueSize: 16 }, { queueSize: 16 })
    const { harness } = d
    const ring = harness.ring(0)
    const offer = () => {
      for (let i = 0; i < 16; i++) ring.add({ readable: [], writable: [1] })
      ring.publish()
    }
    const used = () => harness.memory.readUint16(ring.used + 2)
    offer()
    d.device.notify(0)
    expect(used()).toBe(16)
    ring.reap()
    // The driver refills and notifies again and again: one drain is due, in the next turn.
    offer()
    for (let i = 0; i < 100; i++) d.device.notify(0)
    expect(used()).toBe(16)
    await until(() => used() === 32, "the next turn")
  })

  it("bad-input #17: what is in flight is bounded by the queue", async () => {
    const backend = manualBackend(64 * KiB)
    const d = await disk({ backend, queueSize: 16 }, { queueSize: 16 })
    const ring = d.harness.ring(0)
    for (let i = 0; i < 8; i++) ring.add({ readable: [header(FLUSH)], writable: [1] })
    d.harness.kick(0)
    expect(d.device.inFlight).toBe(8)
    expect(backend.session!.depth).toBe(16)
    // A head that is in flight is made available once more.
    ring.offerHead(0)
    d.harness.kick(0)
    d.device.notify(0)
    expect(backend.pending).toHaveLength(8)
    expect(d.harness.needsReset).toHaveLength(1)
  })

  it("bad-input #27: completions after a reset touch neither ring nor memory", async () => {
    const backend = manualBackend(64 * KiB)
    const d = await disk({ backend })
    d.harness.ring(0).add({ readable: [header(IN)], writable: [512, 1] })
    d.harness.kick(0)
    expect(d.device.inFlight).toBe(1)
    let quiet = false
    const reset = d.harness.reset().then(() => {
      quiet = true
    })
    await turn()
    expect(quiet).toBe(false)
    d.harness.memory.clearWritten()
    backend.finish()
    await reset
    expect(d.harness.memory.written).toEqual([])
    expect(d.harness.interrupts).toEqual([0])

    d.harness.start()
    const after = d.read(0, 512)
    backend.finish()
    expect((await after).status).toBe(OK)
  })
})

describe("giving up", () => {
  it("bad-input #27: a reset has the backend give up all that it has, once", async () => {
    const backend = manualBackend(64 * KiB)
    const given: number[][] = []
    backend.cancel = (requests) => {
      given.push(requests.map(({ offset }) => offset))
    }
    const d = await disk({ backend, queues: 2 })
    await d.harness.reset()
    d.harness.start()
    for (const queue of [0, 1]) {
      for (let i = 0; i < 2; i++)
        d.harness.ring(queue).add({ readable: [header(IN, 2 * queue + i)], writable: [512, 1] })
      d.harness.kick(queue)
    }
    // One is done: it is answered, and not given up.
    backend.session!.complete(backend.pending.shift()!, 0)
    backend.session!.completed()
    expect(d.harness.ring(0).reap()).toHaveLength(1)
    const reset = d.harness.reset()
    expect(given).toEqual([[512, 1024, 1536]])
    backend.finish(ECANCELED)
    await reset
    expect([d.harness.ring(0).reap(), d.harness.ring(1).reap()]).toEqual([[], []])
    expect(d.device.counters.failed).toBe(0)
  })

  it("bad-input #27: the reset of a queue has its requests given up, and waits for them", async () => {
    const backend = manualBackend(64 * KiB)
    const given: number[][] = []
    backend.cancel = (requests) => {
      given.push(requests.map(({ offset }) => offset))
      // From within the call, as backends may.
      const request = backend.pending.splice(1, 1)[0]!
      backend.session!.complete(request, ECANCELED)
      backend.session!.completed()
    }
    const d = await disk({ backend, queues: 2 })
    for (const queue of [0, 1]) {
      for (let i = 0; i < 2; i++)
        d.harness.ring(queue).add({ readable: [header(IN, 2 * queue + i)], writable: [512, 1] })
      d.harness.kick(queue)
    }
    d.harness.queues[0] = undefined as never
    let quiet = false
    const reset = Promise.resolve(d.device.resetQueue(0)).then(() => {
      quiet = true
    })
    expect(given).toEqual([[0, 512]])
    await turn()
    expect(quiet).toBe(false)
    backend.finish()
    await reset
    expect([d.harness.ring(0).reap().length, d.harness.ring(1).reap().length]).toEqual([0, 2])
  })
})

describe("batches", () => {
  it("commits once for all chains of a notification and interrupts once for all completions", async () => {
    const backend = manualBackend(64 * KiB)
    const d = await disk({ backend })
    const ring = d.harness.ring(0)
    const chains = [1, 2, 3].map((sector) => ring.add({ readable: [header(IN, sector)], writable: [512, 1] }))
    d.harness.kick(0)
    expect(backend.commits).toBe(1)
    expect(backend.pending.map((request) => request.tag)).toHaveLength(3)
    expect(new Set(backend.pending.map((request) => request.tag)).size).toBe(3)
    backend.finish()
    expect(d.harness.interrupts).toEqual([1])
    ring.reap()
    expect(chains.every((chain) => chain.written === 513)).toBe(true)
  })

  it("uses every queue", async () => {
    const d = await disk({ backend: memoryDisk(64 * KiB), queues: 3, queueSize: 32 })
    expect(d.device.queueMaxSizes).toEqual([32, 32, 32])
    expect(d.device.features & MQ).toBe(MQ)
    for (const queue of [2, 0, 1]) {
      expect((await d.request(OUT, { queue, sector: queue, out: [pattern(512, queue)] })).status).toBe(OK)
      expect((await d.request(IN, { queue, sector: queue, in: [512] })).data).toEqual(pattern(512, queue))
    }
    expect(d.harness.interrupts).toEqual([2, 2, 2])
  })
})

describe("configuration", () => {
  it("has the fields of 5.2.4", async () => {
    const { config, features } = await block({ backend: manualBackend(2 ** 42), queues: 2 })
    const view = new DataView(config.buffer)
    expect(view.getBigUint64(0, true)).toBe(2n ** 33n)
    expect(view.getUint32(8, true)).toBe(256 * KiB)
    expect(view.getUint32(12, true)).toBe(254)
    expect(view.getUint32(20, true)).toBe(512)
    expect([
      view.getUint8(24),
      view.getUint8(25),
      view.getUint16(26, true),
      view.getUint32(28, true),
    ]).toEqual([3, 0, 8, 16])
    expect(view.getUint8(32)).toBe(1)
    expect(view.getUint16(34, true)).toBe(2)
    expect([36, 40, 44, 48, 52].map((at) => view.getUint32(at, true))).toEqual([2048, 16, 8, 2048, 16])
    expect(view.getUint8(56)).toBe(1)
    expect(config).toHaveLength(60)
    expect(features).toBe(0b0111_1110_0100_0110n)
  })

  it("lets the driver choose between write-back and write-through, until a reset", async () => {
    const backend = manualBackend(64 * KiB)
    const d = await disk({ backend })
    const synced = async () => {
      const done = d.write(0, new Uint8Array(512))
      const { sync } = backend.pending[0]!
      backend.finish()
      await done
      return sync
    }
    expect(await synced()).toBe(false)
    d.device.writeConfig(30, new Uint8Array([9, 9, 0, 9]))
    expect(d.device.config[32]).toBe(0)
    expect(d.device.config[30]).toBe(0)
    expect(await synced()).toBe(true)
    d.device.writeConfig(0, new Uint8Array(8))
    d.device.writeConfig(40, new Uint8Array([1]))
    expect(await synced()).toBe(true)
    await d.harness.reset()
    expect(d.device.config[32]).toBe(1)
    d.harness.start()
    expect(await synced()).toBe(false)
  })

  it("writes through for drivers that cannot flush, and when the user wants it", async () => {
    const sync = async (cache: "writeback" | "writethrough", features: bigint) => {
      const backend = manualBackend(64 * KiB)
      const d = await disk({ backend, cache }, { features: features | VERSION_1 })
      d.harness.ring(0).add({ readable: [header(OUT), new Uint8Array(512)], writable: [1] })
      d.harness.kick(0)
      return backend.pending[0]!.sync
    }
    expect(await sync("writeback", 0n)).toBe(true)
    expect(await sync("writeback", FLUSH_F)).toBe(false)
    expect(await sync("writethrough", FLUSH_F)).toBe(true)
    expect(await sync("writethrough", FLUSH_F | CONFIG_WCE)).toBe(true)
    expect(await sync("writeback", FLUSH_F | CONFIG_WCE)).toBe(false)
  })

  it("grows while the guest runs", async () => {
    const d = await disk({ backend: memoryDisk(64 * KiB) })
    expect((await d.read(128, 512)).status).toBe(IOERR)
    await d.device.resize(128 * KiB)
    expect(d.harness.configChanges).toBe(1)
    expect(new DataView(d.device.config.buffer).getBigUint64(0, true)).toBe(256n)
    expect((await d.read(128, 512)).status).toBe(OK)
    await expect(d.device.resize(64 * KiB)).rejects.toThrow(
      new ConfigError("disk blk has 131072 bytes; it can grow to a multiple of 512, not to 65536"),
    )
    await expect(d.device.resize(128 * KiB + 1)).rejects.toThrow(ConfigError)
    await d.device.close()
    await expect(d.device.resize(256 * KiB)).rejects.toThrow(StateError)
  })

  it("saves and restores what the driver chose", async () => {
    const one = await disk({ backend: memoryDisk(64 * KiB) })
    one.device.writeConfig(32, new Uint8Array([0]))
    const state = JSON.parse(JSON.stringify(one.device.state()))
    const two = await block({ backend: memoryDisk(64 * KiB) })
    two.restore(state)
    expect(two.config[32]).toBe(0)
    expect(two.state()).toEqual(state)
    for (const bad of [
      null,
      1,
      {},
      { ...state, version: 2 },
      { ...state, size: 512 },
      { ...state, writeback: 1 },
      { ...state, readonly: true },
    ]) {
      expect(() => two.restore(bad)).toThrow(RestoreError)
    }
  })

  it("closes once, with requests in flight", async () => {
    const backend = manualBackend(64 * KiB)
    const d = await disk({ backend })
    d.harness.ring(0).add({ readable: [header(FLUSH)], writable: [1] })
    d.harness.kick(0)
    const closed = Promise.all([d.device.close(), d.device.close()])
    backend.finish()
    await closed
    d.device.notify(0)
  })
})

describe("options", () => {
  it("are checked, in one line", async () => {
    const backend = memoryDisk(512)
    const wrong = (options: object, message: string) =>
      expect(block({ backend, ...options } as never)).rejects.toThrow(new ConfigError(message))
    await wrong(
      { serial: "x".repeat(21) },
      `serial number "${"x".repeat(21)}" of disk blk is longer than 20 bytes`,
    )
    await wrong(
      { cache: "none" },
      'cache of disk blk must be writeback, writethrough, direct or unsafe, not "none"',
    )
    await wrong(
      { limits: { bytesPerSecond: 0 } },
      "disk blk: bytesPerSecond must be a positive number, not 0",
    )
    await wrong({ queues: 0 }, "disk blk can have 1 to 64 queues, not 0")
    await wrong({ queueSize: 100 }, "queue size of disk blk must be a power of two from 4 to 1024, not 100")
    await wrong(
      { queues: 64, queueSize: 1024, name: "d" },
      "disk d would have 64 queues of 1024; 32768 requests is the most",
    )
    expect(() => memoryDisk(100)).toThrow(ConfigError)
    expect(() => memoryDisk(0)).toThrow(ConfigError)
    expect(() => memoryDisk(2 ** 52)).toThrow(ConfigError)
  })
})
