import { existsSync, readdirSync, writeFileSync } from "node:fs"
import { MemoryMapping, memfdCreate, UnixSocket, unixPair } from "@virtkit/native"
import { EchoDevice } from "@virtkit/testkit"
import { serve } from "@virtkit/vhost-user"
import { describe, expect, it } from "vitest"
import { connect, folder, keep, serving, text, until } from "./fixture.js"
import {
  ALL_PROTOCOL_FEATURES,
  concat,
  F_LOG_ALL,
  F_PROTOCOL,
  F_VERSION_1,
  REQ,
  USER_OFFSET,
  u32,
  u64,
} from "./front-end.js"

describe("serve", () => {
  it("answers what a front end asks first", async () => {
    const device = new EchoDevice({ queueMaxSizes: [16, 16, 16] })
    const front = connect(serving(device).path)
    const features = await front.askU64(REQ.GET_FEATURES)
    // The device's own, VERSION_1, indirect descriptors, event index, the log, the protocol features; nothing else.
    expect(features).toBe(1n | (1n << 32n) | (1n << 28n) | (1n << 29n) | (1n << 26n) | (1n << 30n))
    expect(await front.askU64(REQ.GET_PROTOCOL_FEATURES)).toBe(ALL_PROTOCOL_FEATURES)
    front.send(REQ.SET_PROTOCOL_FEATURES, u64(ALL_PROTOCOL_FEATURES))
    expect(await front.askU64(REQ.GET_QUEUE_NUM)).toBe(3n)
    expect(await front.askU64(REQ.GET_MAX_MEM_SLOTS)).toBe(32n)
    expect(await front.acknowledged(REQ.SET_OWNER)).toBe(0n)
    expect(await front.acknowledged(REQ.RESET_OWNER)).toBe(0n)
    expect(await front.askU64(REQ.GET_STATUS)).toBe(0n)
    expect(await front.acknowledged(REQ.SET_STATUS, u64(3))).toBe(0n)
    expect(await front.askU64(REQ.GET_STATUS)).toBe(3n)
    expect(device.calls).toEqual([])
  })

  it("acknowledges nothing that it was not asked to, or before that was negotiated", async () => {
    const front = connect(serving(new EchoDevice()).path)
    front.send(REQ.SET_OWNER, undefined, undefined, 8)
    front.send(REQ.SET_PROTOCOL_FEATURES, u64(ALL_PROTOCOL_FEATURES))
    front.send(REQ.SET_OWNER)
    expect(await front.askU64(REQ.GET_QUEUE_NUM)).toBe(2n)
  })

  it("moves chains over several rings, interrupts, and hands over where it stopped", async () => {
    const device = new EchoDevice({ queueReset: true })
    const front = connect(serving(device).path)
    await front.begin(1n)
    front.startRing(0)
    front.startRing(1, 8)
    for (const index of [0, 1, 0]) {
      const ring = front.rings[index]!
      const chain = ring.add({ readable: [text("hello "), text("there")], writable: [4, 20] })
      front.kick(index)
      await until(() => ring.reap().length > 0)
      expect(new TextDecoder().decode(chain.data!.subarray(0, 11))).toBe("hello there")
      expect(chain.written).toBe(11)
      expect(front.calls[index]!.clear()).toBe(true)
    }
    expect(await front.stopRing(0)).toBe(2)
    expect(await front.stopRing(1)).toBe(1)
    expect(device.calls.filter((call) => !call.startsWith("notify"))).toEqual([
      "activate",
      "resetQueue 0",
      "resetQueue 1",
    ])
    // The same driver goes on; its device is as it was.
    front.startRing(0, 16, 2)
    const ring = front.rings[0]!
    ring.add({ readable: [text("again")], writable: [5] })
    front.kick(0)
    await until(() => ring.reap().length > 0)
    expect(device.calls).not.toContain("reset")
  })

  it("finds what was made available before the ring was started", async () => {
    const front = connect(serving(new EchoDevice()).path)
    await front.begin(1n)
    const ring = front.prepareRing(0)
    ring.add({ readable: [text("early")], writable: [5] })
    ring.publish()
    front.startRing(0)
    await until(() => ring.reap().length > 0)
  })

  it("looks at a ring only while it is enabled", async () => {
    const device = new EchoDevice({ queueReset: true })
    const front = connect(serving(device).path)
    await front.begin(1n)
    const ring = front.startRing(0)
    await front.acknowledged(REQ.SET_VRING_ENABLE, u32(0, 0))
    ring.add({ readable: [text("later")], writable: [5] })
    front.kick(0)
    expect(await front.acknowledged(REQ.SET_OWNER)).toBe(0n)
    expect(ring.reap()).toEqual([])
    front.send(REQ.SET_VRING_ENABLE, u32(0, 1))
    await until(() => ring.reap().length > 0)
  })

  it("has rings enabled from the start for a front end without protocol features", async () => {
    const front = connect(serving(new EchoDevice()).path)
    await front.askU64(REQ.GET_FEATURES)
    front.send(REQ.SET_FEATURES, u64(F_VERSION_1))
    front.setMemoryTable()
    const ring = front.startRing(0, 16, 0, false)
    ring.add({ readable: [text("plain")], writable: [5] })
    front.kick(0)
    await until(() => ring.reap().length > 0)
  })

  it("is another driver's when the features are others", async () => {
    const device = new EchoDevice({ queueReset: true, features: 3n })
    const front = connect(serving(device).path)
    await front.begin(1n)
    front.startRing(0)
    await front.stopRing(0)
    front.send(REQ.SET_FEATURES, u64(F_VERSION_1 | F_PROTOCOL | 2n))
    front.startRing(0)
    await front.acknowledged(REQ.SET_OWNER)
    expect(device.calls.filter((call) => !call.startsWith("notify"))).toEqual([
      "activate",
      "resetQueue 0",
      "reset",
      "activate",
    ])
    expect(device.context!.features).toBe(F_VERSION_1 | 2n)
  })

  it("waits, before it says where it stopped, until only the last chains are missing", async () => {
    const device = new EchoDevice({ queueReset: true })
    device.holds = true
    const front = connect(serving(device).path)
    await front.begin(1n)
    const ring = front.startRing(0)
    for (let i = 0; i < 4; i++) ring.add({ readable: [text(`${i}`)], writable: [1] })
    front.kick(0)
    await until(() => device.held.length === 4)
    // The third one goes back first: those before it would be lost if the ring were left now.
    const give = (at: number) => {
      const [{ queue, chain }] = device.held.splice(at, 1) as [(typeof device.held)[number]]
      queue.push(chain, 0)
      queue.flush()
    }
    give(2)
    front.send(REQ.GET_VRING_BASE, u32(0, 0))
    for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve))
    expect(device.calls).not.toContain("resetQueue 0")
    give(0)
    give(0)
    expect((await front.receive())!.payload.getUint32(4, true)).toBe(3)
    expect(ring.reap().map(({ written }) => written)).toEqual([0, 0, 0])
    // The last one is taken again.
    device.holds = false
    device.held.length = 0
    front.startRing(0, 16, 3)
    await until(() => ring.reap().length === 1)
  })

  it("keeps a device without single queue resets going on its other rings", async () => {
    const device = new EchoDevice()
    const front = connect(serving(device).path)
    await front.begin(1n)
    front.startRing(0)
    const other = front.startRing(1, 8)
    await front.stopRing(0)
    expect(device.calls.filter((call) => !call.startsWith("notify"))).toEqual([
      "activate",
      "reset",
      "activate",
    ])
    other.add({ readable: [text("on")], writable: [2] })
    front.kick(1)
    await until(() => other.reap().length > 0)
  })

  it("serves configuration, tells of its changes, and takes writes (bad-input #5)", async () => {
    const device = new EchoDevice()
    const front = connect(serving(device).path)
    await front.begin(1n)
    const get = async (offset: number, size: number) => {
      const { payload } = await front.ask(REQ.GET_CONFIG, concat(u32(offset, size, 0), new Uint8Array(size)))
      expect([payload.getUint32(0, true), payload.getUint32(4, true)]).toEqual([offset, size])
      return [...new Uint8Array(payload.buffer, 12)]
    }
    expect(await get(2, 4)).toEqual([3, 4, 5, 6])
    expect(await get(5, 6)).toEqual([6, 7, 0, 0, 0, 0])
    front.send(REQ.SET_CONFIG, concat(u32(1, 2, 0), Uint8Array.of(8, 9)))
    front.send(REQ.SET_CONFIG, concat(u32(6, 2, 0), Uint8Array.of(8, 9)))
    expect(await get(0, 7)).toEqual([1, 8, 9, 4, 5, 6, 7])

    const [mine, theirs] = unixPair()
    const channel = keep(new UnixSocket(mine))
    front.send(REQ.SET_BACKEND_REQ_FD, undefined, [theirs])
    keep(new UnixSocket(theirs)).close()
    front.startRing(0)
    await front.acknowledged(REQ.SET_OWNER)
    device.context!.updateConfig(() => {
      device.config[0] = 42
    })
    const message = new Uint8Array(64)
    expect(channel.receive(message, 0, 64)).toBe(12)
    expect([...new Uint32Array(message.buffer, 0, 3)]).toEqual([2, 1, 0])
    expect(await get(0, 1)).toEqual([42])
  })

  it("shows that the driver broke a ring, until it is reset", async () => {
    const device = new EchoDevice({ queueReset: true })
    const { path, server } = serving(device)
    const reasons: string[] = []
    server.on("needsReset", (reason) => reasons.push(reason))
    const front = connect(path)
    await front.begin(1n)
    const ring = front.startRing(0)
    ring.setAvailIndex(99)
    front.kicks[0]!.signal()
    await until(() => reasons.length > 0)
    expect(reasons[0]).toContain("avail.idx")
    expect(await front.askU64(REQ.GET_STATUS)).toBe(0x40n)
    expect(await front.acknowledged(REQ.RESET_DEVICE)).toBe(0n)
    expect(await front.askU64(REQ.GET_STATUS)).toBe(0n)
    expect(device.calls.at(-1)).toBe("reset")
    front.rings.length = 0
    const fresh = front.startRing(0)
    fresh.add({ readable: [text("well")], writable: [4] })
    front.kick(0)
    await until(() => fresh.reap().length > 0)
  })

  it("is reset by status 0", async () => {
    const device = new EchoDevice({ queueReset: true })
    const front = connect(serving(device).path)
    await front.begin(1n)
    front.startRing(0)
    await front.acknowledged(REQ.SET_STATUS, u64(15))
    expect(device.calls).not.toContain("reset")
    await front.acknowledged(REQ.SET_STATUS, u64(0))
    expect(device.calls.slice(-2)).toEqual(["resetQueue 0", "reset"])
    expect(await front.askU64(REQ.GET_STATUS)).toBe(0n)
  })

  it("takes memory slots that are added and removed, and goes on after a new table", async () => {
    const device = new EchoDevice({ queueReset: true })
    const front = connect(serving(device).path)
    await front.begin(1n)
    const ring = front.startRing(0)
    const fd = memfdCreate("more", 1 << 20)
    const more = new MemoryMapping({ size: 1 << 20, fd })
    const slot = concat(u64(0), u64(0x4000_0000, 1 << 20, 0x1234_0000, 0))
    expect(await front.acknowledged(REQ.ADD_MEM_REG, slot, [fd])).toBe(0n)
    // Once for each pair of queues, as QEMU 7.2 does.
    expect(await front.acknowledged(REQ.ADD_MEM_REG, slot, [fd])).toBe(0n)
    const bytes = new Uint8Array(more.buffer, more.byteOffset, 1 << 20)
    bytes.set(text("slot"))
    const descriptor = { address: 0x4000_0000, length: 4, flags: 1, next: 9 }
    ring.writeDescriptor(8, descriptor)
    ring.writeDescriptor(9, { address: 0x4000_0800, length: 4, flags: 2 })
    ring.offerHead(8)
    front.kick(0)
    await until(() => bytes[0x800 + 3] === 0x74)

    const calls = device.calls.length
    expect(await front.acknowledged(REQ.REM_MEM_REG, slot)).toBe(0n)
    expect(device.calls.length).toBe(calls)
    expect(await front.acknowledged(REQ.REM_MEM_REG, slot, [fd])).toBe(0n)
    expect(device.calls.slice(calls)).toContain("resetQueue 0")
    ring.offerHead(8)
    front.kick(0)
    // A range that is in no memory comes back with length 0 (bad-input #11).
    await until(() => front.memory.readUint16(ring.used + 2) === 2)
    expect(front.memory.readUint32(ring.used + 4 + 8 + 4)).toBe(0)

    front.setMemoryTable()
    ring.usedIndex = 2
    ring.add({ readable: [text("new")], writable: [3] })
    front.kick(0)
    await until(() => ring.reap().length > 0)
    more.release()
  })

  it("logs what it writes while that is wanted, the used ring too", async () => {
    const device = new EchoDevice({ queueReset: true })
    const front = connect(serving(device).path)
    await front.begin(1n)
    const ring = front.startRing(0)
    const move = async () => {
      const chain = ring.add({ readable: [text("dirty")], writable: [9000] })
      front.kick(0)
      await until(() => ring.reap().length > 0)
      return chain
    }
    await move()
    // 0x410 pages: 130 bytes, at an odd place of a file that ends within a page.
    const fd = memfdCreate("log", 4096 + 130)
    const log = new MemoryMapping({ size: 8192, fd })
    const bits = new Uint8Array(log.buffer, log.byteOffset + 4096, 130)
    const answer = await front.ask(REQ.SET_LOG_BASE, u64(130, 4096), [fd])
    expect(answer.payload.getBigUint64(0, true)).toBe(0n)
    await move()
    expect(bits.every((byte) => byte === 0)).toBe(true)

    front.send(REQ.SET_FEATURES, u64(1n | F_VERSION_1 | F_PROTOCOL | F_LOG_ALL))
    front.send(REQ.SET_VRING_ADDR, front.ringAddresses(0, 1))
    await front.acknowledged(REQ.SET_OWNER)
    const chain = await move()
    const logged = (address: number) => {
      const page = Math.floor(address / 4096)
      return (bits[page >> 3]! & (1 << (page & 7))) !== 0
    }
    expect(logged(ring.used)).toBe(true)
    expect(logged(chain.buffers[1]!.address)).toBe(true)
    // Five bytes were written of 9000.
    expect(logged(chain.buffers[1]!.address + 8999)).toBe(false)

    bits.fill(0)
    front.send(REQ.SET_FEATURES, u64(1n | F_VERSION_1 | F_PROTOCOL))
    await front.acknowledged(REQ.SET_OWNER)
    await move()
    expect(bits.every((byte) => byte === 0)).toBe(true)
    expect(device.calls).not.toContain("reset")
    log.release()
  })

  it("quiesces the device when the front end goes, and takes the next one", async () => {
    const device = new EchoDevice({ queueReset: true })
    device.holds = true
    const { path, reasons, server } = serving(device)
    const front = connect(path)
    await front.begin(1n)
    const ring = front.startRing(0)
    ring.add({ readable: [text("lost")], writable: [4] })
    front.kick(0)
    await until(() => device.held.length === 1)
    // The second one waits for the first to go.
    const next = connect(path)
    const answer = next.askU64(REQ.GET_FEATURES)
    expect(server.connected).toBe(true)
    front.socket.close()
    expect(await answer).toBeGreaterThan(0n)
    expect(device.calls.at(-1)).toBe("reset")
    expect(reasons).toEqual([undefined])
    // What a device answers too late reaches nobody.
    const [{ queue, chain }] = device.held as [(typeof device.held)[number]]
    queue.push(chain, 4)
    queue.flush()
    expect(ring.reap()).toEqual([])
    expect(queue.pop()).toBeUndefined()
  })

  it("leaks neither descriptors nor mappings", async () => {
    const { path, reasons } = serving(new EchoDevice({ queueReset: true }))
    const count = () => readdirSync("/proc/self/fd").length
    const once = async () => {
      const front = connect(path)
      await front.begin(1n)
      front.startRing(0)
      front.startRing(1, 8)
      front.send(REQ.SET_VRING_ERR, u64(0), [front.calls[0]!.fd])
      front.send(REQ.SET_VRING_ERR, u64(0), [front.calls[0]!.fd])
      front.send(REQ.SET_LOG_FD, undefined, [front.calls[0]!.fd])
      await front.acknowledged(REQ.SET_OWNER)
      const before = reasons.length
      front.close()
      await until(() => reasons.length > before)
    }
    await once()
    const before = count()
    for (let i = 0; i < 5; i++) await once()
    expect(count()).toBe(before)
    expect(reasons).toEqual(new Array(6).fill(undefined))
  })

  it("replaces a socket that was left behind, and nothing else", async () => {
    const { path, server } = serving(new EchoDevice())
    expect(() => serve(new EchoDevice(), { socket: path })).toThrow("in use")
    await server.close()
    await server.close()
    expect(existsSync(path)).toBe(false)

    const left = `${folder}/left.sock`
    const { UnixListener } = await import("@virtkit/native")
    new UnixListener(left).close()
    const again = keep(serve(new EchoDevice(), { socket: left }))
    connect(left).send(REQ.SET_OWNER)
    await again.close()

    writeFileSync(left, "precious")
    expect(() => serve(new EchoDevice(), { socket: left })).toThrow("in use")
    expect(existsSync(left)).toBe(true)
    expect(() => serve(new EchoDevice(), { socket: "" })).toThrow("needs the path")
    expect(() => serve(new EchoDevice(), { socket: `${folder}/none/x` })).toThrow(
      expect.objectContaining({ code: "ENOENT", syscall: "bind" }),
    )
  })

  it("ends a connection when it is closed, with requests in flight", async () => {
    const device = new EchoDevice({ queueReset: true })
    device.holds = true
    const { path, server } = serving(device)
    const front = connect(path)
    await front.begin(1n)
    const ring = front.startRing(0)
    for (let i = 0; i < 2; i++) ring.add({ readable: [text("x")], writable: [1] })
    front.kick(0)
    await until(() => device.held.length === 2)
    device.held[1]!.queue.push(device.held[1]!.chain, 1)
    device.held[1]!.queue.flush()
    // It waits for the first one in vain.
    front.send(REQ.GET_VRING_BASE, u32(0, 0))
    await new Promise((resolve) => setImmediate(resolve))
    await server.close()
    expect(await front.receive()).toBeUndefined()
    expect(device.calls.at(-1)).toBe("reset")
  })

  it("finds rings by the front end's addresses", async () => {
    const front = connect(serving(new EchoDevice()).path)
    await front.begin(1n)
    const ring = front.startRing(0)
    expect(ring.desc + USER_OFFSET).toBeGreaterThan(2 ** 46)
    ring.add({ readable: [text("there")], writable: [5] })
    front.kick(0)
    await until(() => ring.reap().length > 0)
  })
})
