import { ConfigError, RestoreError, StateError, SystemError } from "@virtkit/interface"
import { EchoDevice } from "@virtkit/testkit"
import { type VhostUserOptions, vhostUser } from "@virtkit/vhost-user"
import { describe, expect, it } from "vitest"
import { driven, ECHO } from "./driven.js"
import { keep, serving, text, until } from "./fixture.js"

/** The bits of DEVICE_NEEDS_RESET and of a configuration change. */
const NEEDS_RESET = 0x40
const bit = (number: number) => 1n << BigInt(number)

describe("vhostUser", () => {
  it("is the device that another process serves: features, queues, configuration", async () => {
    const echo = new EchoDevice({ features: 5n })
    const { device, driver } = await driven({ socket: serving(echo).path })
    expect([device.name, device.deviceType, device.connected]).toEqual(["far", 42, true])
    expect(device.queueMaxSizes).toEqual([8, 8])
    expect([...device.config]).toEqual([1, 2, 3, 4, 5, 6, 7])
    await driver.begin()
    // The device's own, VERSION_1, indirect descriptors, event index: neither packed rings nor IN_ORDER, nor what is vhost's.
    expect(driver.offeredFeatures()).toBe(5n | bit(32) | bit(28) | bit(29))
    expect(driver.queueSizeMax(2)).toBe(0)
    expect(echo.calls).toEqual([])
  })

  it("moves chains over all its queues, and interrupts", async () => {
    const echo = new EchoDevice()
    const { driver, interrupt, reasons } = await driven({ socket: serving(echo).path })
    await driver.start()
    for (let round = 0; round < 40; round++) {
      const index = round & 1
      const before = interrupt.count
      const said = text(`round ${round}`)
      const chain = await driver.request(index, { readable: [said], writable: [4, 20] })
      expect(chain.written).toBe(said.length)
      expect(chain.data!.subarray(0, said.length)).toEqual(said)
      await until(() => interrupt.count > before, "the interrupt")
      expect(driver.handleInterrupt()).toEqual({ usedBuffer: true, configChange: false })
    }
    expect(echo.context!.features).toBe(1n | bit(32) | bit(28) | bit(29))
    expect(reasons).toEqual([])
  })

  it("finds what was made available before DRIVER_OK, without a notification", async () => {
    const { driver } = await driven({ socket: serving(new EchoDevice()).path })
    await driver.begin()
    driver.negotiate()
    const ring = driver.setupQueue(1, 8)
    ring.add({ readable: [text("early")], writable: [5] })
    ring.publish()
    driver.addStatus(4)
    await until(() => ring.reap().length > 0, "the chain")
  })

  it("resets: nothing is in the hands of the other side when that is complete (bad-input #27)", async () => {
    const echo = new EchoDevice()
    const { driver, interrupt } = await driven({ socket: serving(echo).path })
    for (let round = 0; round < 3; round++) {
      await driver.start()
      await driver.request(0, { readable: [text("x")], writable: [1] })
      echo.holds = true
      driver.ring(0).add({ readable: [text("y")], writable: [1] })
      driver.kick(0)
      await until(() => echo.held.length > 0, "the chain")
      await driver.reset()
      expect(echo.calls.at(-1)).toBe("reset")
      const { count } = interrupt
      echo.release()
      echo.holds = false
      await new Promise((resolve) => setTimeout(resolve, 5))
      expect(interrupt.count).toBe(count)
    }
  })

  it("takes back what it has not handed over yet", async () => {
    const echo = new EchoDevice()
    const { driver } = await driven({ socket: serving(echo).path })
    for (let round = 0; round < 5; round++) {
      // All in one turn of the event loop.
      await driver.begin()
      driver.negotiate()
      driver.setupQueue(0, 8)
      driver.addStatus(4)
      await driver.reset()
    }
    await driver.start()
    await driver.request(0, { readable: [text("x")], writable: [1] })
    const last = echo.calls.filter((call) => !call.startsWith("notify")).slice(-2)
    expect(last).toEqual(["reset", "activate"])
  })

  it("passes writes of configuration on, and hears of changes", async () => {
    const echo = new EchoDevice()
    const { driver } = await driven({ socket: serving(echo).path })
    await driver.start()
    await driver.request(0, { readable: [text("x")], writable: [1] })
    driver.writeConfig(1, 0x99, 1)
    await until(() => driver.readConfigAt(1, 1) === 0x99, "the write")
    expect(echo.calls).toContain("writeConfig")
    // Who writes needs not be told.
    expect(driver.handleInterrupt().configChange).toBe(false)
    const { configGeneration } = driver
    echo.context!.updateConfig(() => echo.config.set([77], 6))
    await until(() => driver.handleInterrupt().configChange, "the configuration interrupt")
    expect(driver.readConfigAt(6, 1)).toBe(77)
    expect(driver.configGeneration).not.toBe(configGeneration)
  })

  it("hands a driver's write over before the driver goes on", async () => {
    const echo = new EchoDevice()
    const { transport } = await driven({ socket: serving(echo).path })
    await transport.write(0x100 + 2, 1, 0x55)
    expect(transport.read(0x100 + 2, 1)).toBe(0x55)
    expect(echo.config[2]).toBe(0x55)
  })

  it("needs a reset when the other side says so, and works after one", async () => {
    const echo = new EchoDevice()
    const { driver, reasons } = await driven({ socket: serving(echo).path })
    await driver.start()
    await driver.request(0, { readable: [text("x")], writable: [1] })
    echo.context!.needsReset("enough")
    await until(() => (driver.status & NEEDS_RESET) !== 0, "DEVICE_NEEDS_RESET")
    expect(reasons).toEqual(["far: the back end says so"])
    await driver.start()
    await driver.request(0, { readable: [text("x")], writable: [1] })
  })

  it("needs a reset when the driver breaks a ring, which the other side finds (bad-input #15)", async () => {
    const { driver, memory, reasons } = await driven({ socket: serving(new EchoDevice()).path })
    await driver.start()
    memory.writeUint16(driver.ring(1).avail + 2, 1000)
    driver.notify(1)
    await until(() => (driver.status & NEEDS_RESET) !== 0, "DEVICE_NEEDS_RESET")
    expect(reasons[0]).toMatch(/far: (queue 1: the back end cannot go on|the back end says so)/)
  })

  it("lets no state be saved that it does not have", async () => {
    const { device } = await driven({ socket: serving(new EchoDevice()).path })
    expect(() => device.state()).toThrow(StateError)
    expect(() => device.restore()).toThrow(RestoreError)
  })

  it("needs memory that others can map", async () => {
    const { driver, reasons } = await driven({
      socket: serving(new EchoDevice()).path,
      backing: "anonymous",
    })
    await driver.start()
    await until(() => reasons.length > 0, "DEVICE_NEEDS_RESET")
    expect(reasons).toEqual(["far: guest memory is of this process alone: it has to be a memfd"])
  })

  it("cannot be served on to a third process", async () => {
    const { path } = serving(new EchoDevice())
    const device = keep(await vhostUser({ type: ECHO, socket: path }))
    const reasons: string[] = []
    device.activate({
      memory: undefined as never,
      features: 0n,
      queues: [],
      updateConfig: () => {},
      needsReset: (reason) => reasons.push(reason),
      defer: () => {},
    })
    expect(reasons).toEqual(["virtio42: this transport cannot hand over its queues"])
  })
})

describe("a back end that goes", () => {
  it("is waited for, and the next one goes on with what was in flight, in order", async () => {
    const echo = new EchoDevice()
    const { server, path } = serving(echo)
    const { driver, events, reasons, interrupt } = await driven({ socket: path, reconnect: true })
    await driver.start()
    await driver.request(0, { readable: [text("x")], writable: [1] })
    echo.holds = true
    const ring = driver.ring(0)
    const chains = ["one", "two", "three"].map((word) => ring.add({ readable: [text(word)], writable: [5] }))
    driver.kick(0)
    await until(() => echo.held.length === 3, "the chains")
    // The second one is done, out of its order.
    const [{ queue, chain }] = echo.held.splice(1, 1) as [(typeof echo.held)[number]]
    queue.push(chain, 3)
    queue.flush()
    await server.close()
    await until(() => events.length === 1, "the end of it")
    // More comes meanwhile.
    const late = ring.add({ readable: [text("late")], writable: [5] })
    driver.kick(0)
    const before = interrupt.count
    const next = new EchoDevice()
    const another = serving(next, path)
    const resumed: unknown[] = []
    another.server.on("resumed", (...what) => resumed.push(what))
    await until(() => {
      ring.reap()
      return [...chains, late].every(({ written }) => written !== undefined)
    }, "all chains")
    expect(chains.map(({ written }) => written)).toEqual([3, 3, 5])
    expect(late.written).toBe(4)
    expect(resumed).toEqual([[0, 2]])
    expect(events).toEqual(["disconnected undefined", "connected"])
    await until(() => interrupt.count > before, "an interrupt")
    await driver.request(1, { readable: [text("other queue")], writable: [20] })
    expect(reasons).toEqual([])
  })

  it("is not waited for without reconnect: the driver resets, and finds the next one", async () => {
    const { server, path } = serving(new EchoDevice())
    const { driver, device, events, reasons } = await driven({ socket: path, reconnect: false })
    await driver.start()
    await driver.request(0, { readable: [text("x")], writable: [1] })
    await server.close()
    await until(() => reasons.length > 0, "DEVICE_NEEDS_RESET")
    expect(reasons).toEqual(["far: the back end has gone"])
    expect([events, device.connected]).toEqual([["disconnected undefined"], false])
    await driver.start()
    await until(() => reasons.length > 1, "DEVICE_NEEDS_RESET, again")
    serving(new EchoDevice(), path)
    await driver.start()
    await driver.request(0, { readable: [text("x")], writable: [1] })
    expect(reasons).toHaveLength(2)
  })

  it("holds up no reset of the driver's, and nothing of before is in flight in the next one", async () => {
    const echo = new EchoDevice()
    const { server, path } = serving(echo)
    const { driver, events } = await driven({ socket: path, reconnect: true })
    await driver.start()
    echo.holds = true
    driver.ring(0).add({ readable: [text("lost")], writable: [5] })
    driver.kick(0)
    await until(() => echo.held.length === 1, "the chain")
    await server.close()
    await until(() => events.length === 1, "the end of it")
    await driver.start()
    const another = serving(new EchoDevice(), path)
    const resumed: unknown[] = []
    another.server.on("resumed", (...what) => resumed.push(what))
    await driver.request(0, { readable: [text("x")], writable: [1] })
    expect(resumed).toEqual([])
  })

  it("is not the same if it has lost a feature that the driver took", async () => {
    const { server, path } = serving(new EchoDevice({ features: 3n }))
    const { driver, reasons } = await driven({ socket: path, reconnect: true })
    await driver.start()
    await driver.request(0, { readable: [text("x")], writable: [1] })
    await server.close()
    serving(new EchoDevice({ features: 1n }), path)
    await until(() => reasons.length > 0, "DEVICE_NEEDS_RESET")
    expect(reasons).toEqual(["far: it has lost the features 0x2"])
  })

  it("leaves a closed device closed", async () => {
    const { server, path } = serving(new EchoDevice())
    const { device, driver, events } = await driven({ socket: path, reconnect: true })
    await driver.start()
    await server.close()
    await until(() => events.length === 1, "the end of it")
    await device.close()
    await device.close()
    const another = serving(new EchoDevice(), path)
    await new Promise((resolve) => setTimeout(resolve, 120))
    expect(another.server.connected).toBe(false)
    expect(events).toEqual(["disconnected undefined"])
  })
})

describe("options of vhostUser", () => {
  const socket = "/nowhere/virtkit.sock"
  it.each<[object, RegExp]>([
    [{ type: "disk", socket }, /type "disk" is not known, give .*blk/],
    [{ type: "toString", socket }, /is not known/],
    [{ type: "blk" }, /path of the back end's socket/],
    [{ type: "fs", socket }, /"fs" needs a tag of 1 to 36 bytes/],
    [{ type: "fs", socket, tag: "t".repeat(37) }, /needs a tag/],
    [{ type: "blk", socket, tag: "t" }, /a tag is for "fs", not for "blk"/],
    [{ type: "rng", socket, mac: "52:54:00:12:34:56" }, /a mac is for "net"/],
    [{ type: "net", socket, mac: "53:54:00:12:34:56" }, /is not one of a card/],
    [{ type: "net", socket, mac: "52:54:00:12:34" }, /is not one of a card/],
    [{ type: "net", socket, queues: 129 }, /queues of "net" is 129/],
    [{ type: "rng", socket, queues: 2 }, /queues of "rng" is 2/],
    [{ type: "blk", socket, queues: 257 }, /from 1 to 256/],
    [{ type: "blk", socket, queueSize: 100 }, /not a power of two/],
    [{ type: "blk", socket, timeoutMs: 0 }, /timeoutMs is 0/],
    [{ type: { deviceType: 0, queues: 1 }, socket }, /deviceType is 0/],
    [{ type: { deviceType: 4, queues: 0 }, socket }, /queues is 0/],
    [{ type: { deviceType: 4, queues: 1, configBytes: 257 }, socket }, /configBytes is 257/],
  ])("refuse %j", async (options, message) => {
    const refused = vhostUser(options as VhostUserOptions)
    await expect(refused).rejects.toThrow(ConfigError)
    await expect(refused).rejects.toThrow(message)
  })

  it("say which socket nobody listens on", async () => {
    const refused = vhostUser({ type: "rng", socket })
    await expect(refused).rejects.toThrow(SystemError)
    await expect(refused).rejects.toThrow(`socket ${socket}`)
    await expect(refused).rejects.toMatchObject({ code: "ENOENT", syscall: "connect" })
  })

  it("ask for no more queues than there are", async () => {
    const { path } = serving(new EchoDevice())
    await expect(vhostUser({ type: { deviceType: 42, queues: 3 }, socket: path })).rejects.toThrow(
      "it has 2 queues, not 3",
    )
  })
})
