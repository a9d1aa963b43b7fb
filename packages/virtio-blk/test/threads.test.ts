import { readFileSync } from "node:fs"
import type { DeviceContext, ExternalQueue } from "@virtkit/interface"
import { ConfigError, RestoreError, StateError } from "@virtkit/interface"
import { EventFd } from "@virtkit/native"
import { FEATURE, STATUS, TestMemory, until } from "@virtkit/testkit"
import { type BlockFileOptions, type BlockOptions, block, createQcow2, memoryDisk } from "@virtkit/virtio-blk"
import { describe, expect, it } from "vitest"
import { FLUSH, header, OK, pattern } from "./helpers.js"
import {
  finished,
  type Machine,
  machineOf,
  offerWrites,
  readSectors,
  spyOnThreads,
  start,
  threadsBench,
} from "./threads-helpers.js"

const MiB = 2 ** 20
const bench = threadsBench()

const range = (from: number, count: number) => Array.from({ length: count }, (_, index) => from + index)

describe.each([
  { thread: 1, packed: false },
  { thread: 2, packed: false },
  { thread: 1, packed: true },
  { thread: 2, packed: true },
])("a disk of two queues, threads $thread, packed $packed", ({ thread, packed }) => {
  it("carries out many requests at once on both, and says so", async () => {
    const path = bench.path(pattern(MiB, 5))
    const machine = await bench.machine({ path, thread, queues: 2 })
    const { device, driver, interrupt, wrong } = machine
    await start(machine, { packed })
    expect([device.threads, driver.features & FEATURE.RING_PACKED]).toEqual([
      thread,
      packed ? FEATURE.RING_PACKED : 0n,
    ])
    const [first, second] = [offerWrites(machine, 0, range(1, 20)), offerWrites(machine, 1, range(101, 20))]
    expect(await finished(machine, 0, first)).toEqual(first.map(() => OK))
    expect(await finished(machine, 1, second)).toEqual(second.map(() => OK))
    const { data } = await readSectors(machine, 120, 2, 1)
    expect([data[0], data[512]]).toEqual([120, pattern(MiB, 5)[121 * 512]])
    await driver.request(0, { readable: [header(FLUSH)], writable: [1] })
    const image = readFileSync(path)
    for (const sector of [1, 20, 101, 120]) expect(image[sector * 512 + 511]).toBe(sector)
    expect(device.counters).toMatchObject({ writes: 40, writtenBytes: 40 * 512, reads: 1, flushes: 1 })
    expect(device.external?.counters).toMatchObject([{ chains: 21 }, { chains: 21 }])
    // A driver that looks by itself may be ahead of interrupts; one that waits gets them.
    driver.handleInterrupt()
    const before = interrupt.count
    const awaited = offerWrites(machine, 1, [7])
    await until(() => interrupt.count > before, "an interrupt")
    expect(driver.handleInterrupt().usedBuffer).toBe(true)
    await finished(machine, 1, awaited)
    expect([device.inFlight, wrong]).toEqual([0, []])
  })

  it("bad-input #27: touches nothing after a reset under load, of either queue or both", async () => {
    const machine = await bench.machine({ thread, queues: 2 })
    const { device, driver, memory } = machine
    for (let round = 0; round < 6; round++) {
      await start(machine, { packed })
      const chains = [0, 1].map((queue) => offerWrites(machine, queue, range(1, 20)))
      if (round % 2 === 0) await until(() => device.counters.writes > 0, "a write")
      if (round < 3) {
        const { used, desc } = driver.ring(0)
        await driver.resetQueue(0)
        const parts = [desc, used].map((address) => ({ address, before: memory.readUint32(address) ^ -1 }))
        for (const { address, before } of parts) memory.writeUint32(address, before >>> 0)
        // The other queue goes on, and this one does when it is enabled again.
        expect(await finished(machine, 1, chains[1]!)).toEqual(chains[1]!.map(() => OK))
        for (const { address, before } of parts) expect(memory.readUint32(address)).toBe(before >>> 0)
        driver.setupQueue(0, 32)
        const again = offerWrites(machine, 0, range(200, 10))
        expect(await finished(machine, 0, again)).toEqual(again.map(() => OK))
      }
      await driver.reset()
      expect(device.inFlight).toBe(0)
      memory.fill(0, memory.regions[0]!.size, 0x55)
      const late = machine.interrupt.count
      await new Promise((resolve) => setTimeout(resolve, 5))
      const now = new Uint8Array(memory.regions[0]!.size)
      memory.read(0, now)
      expect([now.every((byte) => byte === 0x55), machine.interrupt.count]).toEqual([true, late])
    }
    expect(machine.wrong).toEqual([])
  })

  it("bad-input #15 and #20: malformed chains are counted, and a broken ring needs a reset, which heals", async () => {
    const machine = await bench.machine({ thread, queues: 2 })
    const { device, driver, wrong } = machine
    await start(machine, { packed })
    const short = await driver.request(1, { readable: [new Uint8Array(15)], writable: [1] })
    expect([short.written, device.counters.malformed]).toEqual([0, 1])
    expect((await readSectors(machine, 3, 1)).status).toBe(OK)
    driver.rings[0]?.setAvailIndex(0x7fff)
    const ring = driver.packedRings[0]
    ring?.offer(new Array(ring.size).fill({ address: 0x1000, length: 1, flags: 1 }))
    ring?.publish()
    driver.notify(0)
    await until(() => (driver.status & STATUS.DEVICE_NEEDS_RESET) !== 0, "DEVICE_NEEDS_RESET")
    expect(wrong).toEqual([expect.stringContaining("blk: queue 0: ")])
    await start(machine, { packed })
    expect((await readSectors(machine, 3, 1)).data).toEqual(pattern(MiB, 5).subarray(1536, 2048))
  })
})

describe("a disk on threads", () => {
  it("has as many queues as threads unless told, and one thread for `true`", async () => {
    const three = await bench.machine({ thread: 3 })
    expect([three.device.queueMaxSizes.length, three.device.threads]).toEqual([3, 3])
    const one = await bench.machine({ thread: true, queues: 4 })
    expect([one.device.queueMaxSizes.length, one.device.threads]).toEqual([4, 1])
    const none = await bench.machine({ thread: false })
    expect([none.device.threads, none.device.external]).toEqual([undefined, undefined])
  })

  it.each<[Partial<BlockFileOptions>, RegExp]>([
    [{ thread: 0 }, /1 to 64 threads, .*not 0/],
    [{ thread: 1.5 }, /not 1.5/],
    [{ thread: 3, queues: 2 }, /1 to 2 threads, as many as it has queues, not 3/],
    [{ thread: 2, format: "qcow2" }, /qcow2 image can have one thread, not 2/],
    [{ path: "/nonexistent/disk" }, /does not exist/],
    [{ limits: { bytesPerSecond: -1 } }, /bytesPerSecond/],
  ])("refuses %j", async (options, message) => {
    const made = block({ path: bench.path(pattern(MiB, 5)), thread: true, ...options })
    await expect(made).rejects.toThrow(ConfigError)
    await expect(made).rejects.toThrow(message)
  })

  it("refuses a backend of the user's", async () => {
    const options = { backend: memoryDisk(65536), thread: true } as BlockOptions
    await expect(block(options)).rejects.toThrow(/backend of its own, which cannot be moved to threads/)
  })

  it("refuses what its thread finds wrong, and leaves nothing open", async () => {
    const path = bench.path(new Uint8Array(65536))
    const made = block({ path, format: "qcow2", thread: true })
    await expect(made).rejects.toMatchObject({ code: expect.stringMatching(/^ERR_VIRTKIT_/) })
    await (await block({ path })).close()
  })

  it("has locked its image, once", async () => {
    const path = bench.path(pattern(MiB, 5))
    const { transport } = await bench.machine({ path, thread: 2 })
    await expect(block({ path })).rejects.toThrow(/in use/)
    await transport.close()
    await (await block({ path })).close()
  })

  it("keeps a qcow2 image", async () => {
    const path = bench.path()
    await createQcow2({ path, size: MiB })
    const machine = await bench.machine({ path, format: "qcow2" })
    await start(machine)
    const chains = offerWrites(machine, 0, range(1, 20))
    expect(await finished(machine, 0, chains)).toEqual(chains.map(() => OK))
    await machine.transport.close()
    const again = await bench.machine({ path, format: "qcow2", thread: false })
    await start(again)
    expect((await readSectors(again, 20, 1)).data).toEqual(new Uint8Array(512).fill(20))
  })

  it("grows, for all its threads, and tells the guest", async () => {
    const machine = await bench.machine({ thread: 2 })
    const { device, driver } = machine
    await start(machine)
    await expect(device.resize(MiB - 512)).rejects.toThrow(ConfigError)
    await device.resize(2 * MiB)
    expect([device.size, driver.readConfigAt(0, 4)]).toEqual([2 * MiB, 4096])
    expect(driver.handleInterrupt().configChange).toBe(true)
    for (const queue of [0, 1]) expect((await readSectors(machine, 4095, 1, queue)).status).toBe(OK)
    await machine.transport.close()
    await expect(device.resize(3 * MiB)).rejects.toThrow(StateError)
  })

  it("has told all threads of a change of the cache mode when the driver's write is complete", async () => {
    const threads = spyOnThreads()
    const machine = await bench.machine({ thread: 2 })
    const { driver, transport } = machine
    await start(machine)
    const write = (offset: number, value: number) => transport.write(0x100 + offset, 1, value)
    await write(32, 0)
    expect([driver.readConfigAt(32, 1), threads.posted("writeConfig").length]).toEqual([0, 2])
    await driver.reset()
    expect(driver.readConfigAt(32, 1)).toBe(1)
    // Those that are not active are told when they are.
    await driver.begin()
    await write(32, 0)
    driver.negotiate()
    for (const queue of [0, 1]) driver.setupQueue(queue, 16)
    driver.addStatus(STATUS.DRIVER_OK)
    await readSectors(machine, 0, 1)
    expect(threads.posted("activate").slice(-2)).toMatchObject([{ writeback: 0 }, { writeback: 0 }])
    expect(threads.posted("writeConfig").length).toBe(2)
    // No other field can be written.
    await write(33, 1)
    expect([driver.readConfigAt(33, 1), threads.posted("writeConfig").length]).toEqual([0, 2])
  })

  it("holds its rate with all threads together, until that changes", async () => {
    const limits = { operationsPerSecond: 0.1, burstMs: 100_000 }
    const machine = await bench.machine({ thread: 2, limits })
    const { device } = machine
    await start(machine)
    const chains = [0, 1].map((queue) => offerWrites(machine, queue, range(1, 9)))
    const done = () => device.counters.writes
    await until(() => done() >= 10 && device.counters.limited > 0, "ten writes")
    await new Promise((resolve) => setTimeout(resolve, 20))
    // Between them they may have begun one more each: it is waited for.
    expect([10, 11]).toContain(done())
    expect(() => device.setLimits({ bytesPerSecond: 0 })).toThrow(ConfigError)
    device.setLimits(undefined)
    for (const queue of [0, 1]) await finished(machine, queue, chains[queue]!)
    expect(done()).toBe(18)
  })

  it("cannot be saved or restored", async () => {
    const machine = await bench.machine()
    await start(machine)
    expect(() => machine.device.state()).toThrow(StateError)
    expect(() => machine.transport.state()).toThrow(/on threads of its own cannot be saved/)
    expect(() => machine.device.restore({})).toThrow(RestoreError)
  })

  it("says so where it cannot have queues or memory of the guest", async () => {
    const { device } = await bench.machine()
    const heap = machineOf(device, new TestMemory({ regions: [{ guestAddress: 0, size: 4 * MiB }] }))
    await expect(start(heap)).rejects.toThrow("needs a reset")
    expect(heap.wrong).toEqual(["blk: threads need guest memory in SharedArrayBuffers"])
    const tracked = machineOf(device)
    Object.defineProperty(tracked.memory, "dirtyTracking", { value: true })
    await expect(start(tracked)).rejects.toThrow("needs a reset")
    expect(tracked.wrong).toEqual(["blk: what threads write to guest memory is not tracked"])
    const reasons: string[] = []
    const context = { memory: tracked.memory, queues: [], needsReset: (why: string) => reasons.push(why) }
    device.activate(context as unknown as DeviceContext)
    expect(reasons).toEqual(["blk: this transport cannot hand over its queues to threads"])
  })

  it("interrupts by the kernel where that is possible, else by itself", async () => {
    const { device } = await bench.machine({ thread: 2 })
    const machine = machineOf(device)
    const events: { fd: number; changed: (direct: boolean) => void; count: number }[] = []
    // A transport that hands over its queues so that the kernel could interrupt.
    const activate = device.activate.bind(device)
    device.activate = (context) =>
      activate({
        ...context,
        external: context.external!.map((queue) => queue && connectable(queue, events)),
      })
    await start(machine)
    expect(events.map(({ count }) => count)).toEqual([0, 0])
    const eventFd = new EventFd(events[1]!.fd, true)
    /** Looks at the ring only after the interrupt: before, the driver would be ahead of it. */
    const request = async (queue: number, interrupted: () => boolean) => {
      const chains = offerWrites(machine, queue, [3])
      await until(interrupted, `an interrupt of queue ${queue}`)
      await finished(machine, queue, chains)
    }
    events[1]!.changed(true)
    await request(1, () => eventFd.clear())
    await request(0, () => events[0]!.count === 1)
    expect(events[1]!.count).toBe(0)
    // What was signalled before is in the eventfd.
    await request(1, () => eventFdIsSet(eventFd))
    events[1]!.changed(false)
    await until(() => events[1]!.count === 1, "an interrupt")
    eventFd.close()
  })
})

/** Looks without taking: clears, and signals again. */
function eventFdIsSet(eventFd: EventFd): boolean {
  const set = eventFd.clear()
  if (set) eventFd.signal()
  return set
}

function connectable(
  queue: ExternalQueue,
  events: { fd: number; changed: (direct: boolean) => void; count: number }[],
): ExternalQueue {
  const event = { fd: -1, changed: (_: boolean) => {}, count: 0 }
  events.push(event)
  return {
    size: queue.size,
    desc: queue.desc,
    avail: queue.avail,
    used: queue.used,
    interrupt: () => {
      event.count++
    },
    connect: (fd, changed) => {
      Object.assign(event, { fd, changed })
    },
  }
}

describe("a thread that dies", () => {
  /** With requests in flight on both queues. */
  async function busy(engine: "auto" | "threads"): Promise<Machine & { kill(how: "throws" | "ends"): void }> {
    const threads = spyOnThreads()
    const machine = await bench.machine({ thread: 2, engine })
    await start(machine)
    for (const queue of [0, 1]) await readSectors(machine, 0, 1, queue)
    const kill = (how: "throws" | "ends") => {
      const worker = threads.workers()[1]!
      offerWrites(machine, 0, range(1, 20))
      offerWrites(machine, 1, range(1, 20))
      // A command that nobody could have sent.
      if (how === "throws")
        worker.postMessage({ id: 0, command: { kind: "setLimits", limits: { bytesPerSecond: -1 } } })
      else void worker.terminate()
    }
    return Object.assign(machine, { kill })
  }

  it.each([
    ["throws", "auto", /^blk: its thread has died: disk blk: bytesPerSecond/],
    ["ends", "auto", /^blk: its thread has died: it ended with status 1/],
    ["ends", "threads", /^blk: its thread has died: it ended with status 1/],
  ] as const)(
    "has the device need a reset, which brings another one: it %s, engine %s",
    async (how, engine, message) => {
      const machine = await busy(engine)
      const { device, driver, wrong, memory } = machine
      machine.kill(how)
      await until(() => (driver.status & STATUS.DEVICE_NEEDS_RESET) !== 0, "DEVICE_NEEDS_RESET")
      expect(wrong).toEqual([expect.stringMatching(message)])
      await driver.reset()
      expect(device.inFlight).toBe(0)
      memory.fill(0, memory.regions[0]!.size, 0)
      await start(machine)
      for (const queue of [0, 1]) {
        const chains = offerWrites(machine, queue, range(40, 10))
        expect(await finished(machine, queue, chains)).toEqual(chains.map(() => OK))
      }
      expect(wrong.length).toBe(1)
    },
  )

  it("can be waited for in a reset, of the device and of its queue, and does not keep it from closing", async () => {
    const machine = await busy("auto")
    const { driver, transport } = machine
    machine.kill("ends")
    await driver.resetQueue(1)
    await driver.reset()
    await start(machine)
    for (const queue of [0, 1]) await readSectors(machine, 0, 1, queue)
    machine.kill("ends")
    await transport.close()
  })
})
