import type { VirtioDevice } from "@virtkit/interface"
import { EchoDevice, type EchoDeviceOptions } from "./echo-device.js"
import type { FakeInterrupt } from "./interrupt.js"
import { DESCRIPTOR, FEATURE, STATUS } from "./spec.js"
import type { TransportDriver } from "./transport-driver.js"
import { until } from "./wait.js"

/** What the suites need of a test runner; vitest's and jest's functions fit. */
export interface TestRunner {
  describe(name: string, body: () => void): unknown
  it(name: string, body: () => void | Promise<void>): unknown
  expect(actual: unknown): { toBe(expected: unknown): void; toEqual(expected: unknown): void }
}

export interface TransportUnderTest {
  readonly driver: TransportDriver
  /** Signalled for used buffers and for configuration changes. */
  readonly interrupt: FakeInterrupt
}

export interface TransportConformanceOptions {
  /** A transport around `device`, freshly made, with a driver on its other side. */
  setup(device: VirtioDevice): TransportUnderTest
}

const { ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK, DEVICE_NEEDS_RESET, FAILED } = STATUS
const STARTED = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK

interface Tools extends TransportUnderTest {
  device: EchoDevice
}

/**
 * The rules of virtio 1.3 that every transport keeps, whatever its registers: status, features, queues, configuration
 * space, notifications and reset, with drivers that keep the rules and drivers that do not.
 */
export function transportConformance(runner: TestRunner, options: TransportConformanceOptions): void {
  const make = (deviceOptions?: EchoDeviceOptions): Tools => {
    const device = new EchoDevice(deviceOptions)
    return { device, ...options.setup(device) }
  }
  runner.describe("transport conformance", () => {
    runner.describe("device status (2.1, 3.1.1)", () => statusTests(runner, make))
    runner.describe("features (2.2)", () => featureTests(runner, make))
    runner.describe("queues (2.6)", () => queueTests(runner, make))
    runner.describe("configuration space (2.5)", () => configTests(runner, make))
    runner.describe("reset (2.4)", () => resetTests(runner, make))
  })
}

type Make = (options?: EchoDeviceOptions) => Tools

function statusTests({ it, expect }: TestRunner, make: Make): void {
  it("goes through the steps in order and activates the device at the last", async () => {
    const { device, driver } = make()
    expect(driver.status).toBe(0)
    await driver.begin()
    expect(driver.status).toBe(ACKNOWLEDGE | DRIVER)
    expect(driver.negotiate()).toBe(true)
    expect(device.calls).toEqual([])
    driver.addStatus(DRIVER_OK)
    expect(driver.status).toBe(STARTED)
    expect(device.calls).toEqual(["activate"])
  })

  it("bad-input #2: a skipped step is refused", async () => {
    for (const skip of [DRIVER, FEATURES_OK, DRIVER_OK, ACKNOWLEDGE | FEATURES_OK, FEATURES_OK | DRIVER_OK]) {
      const { device, driver } = make()
      await driver.writeStatus(skip)
      expect(driver.status).toBe(0)
      await driver.begin()
      driver.addStatus(DRIVER_OK)
      expect(driver.status).toBe(ACKNOWLEDGE | DRIVER)
      expect(device.calls).toEqual([])
    }
  })

  it("bad-input #2: FEATURES_OK and DRIVER_OK at once is refused", async () => {
    const { device, driver } = make()
    await driver.begin()
    driver.writeFeatures(FEATURE.VERSION_1)
    driver.addStatus(FEATURES_OK | DRIVER_OK)
    expect(driver.status).toBe(ACKNOWLEDGE | DRIVER)
    expect(device.calls).toEqual([])
  })

  it("bad-input #2: a cleared bit stays set", async () => {
    const { driver } = make()
    await driver.start()
    for (const value of [ACKNOWLEDGE, STARTED & ~DRIVER_OK, STARTED & ~ACKNOWLEDGE, FAILED]) {
      await driver.writeStatus(value)
      expect(driver.status).toBe(STARTED)
    }
  })

  it("FAILED ends it until a reset", async () => {
    const { device, driver } = make()
    await driver.start()
    driver.addStatus(FAILED)
    expect(driver.status).toBe(STARTED | FAILED)
    driver.notify(0)
    expect(device.calls).toEqual(["activate"])
    await driver.start()
    expect(driver.status).toBe(STARTED)
  })

  it("after FAILED no further step is taken", async () => {
    const { device, driver } = make()
    await driver.begin()
    driver.negotiate()
    driver.addStatus(FAILED)
    driver.addStatus(DRIVER_OK)
    expect(driver.status).toBe(ACKNOWLEDGE | DRIVER | FEATURES_OK | FAILED)
    expect(device.calls).toEqual([])
  })

  it("DRIVER_OK written twice activates once", async () => {
    const { device, driver } = make()
    await driver.start()
    await driver.writeStatus(STARTED)
    expect(device.calls).toEqual(["activate"])
  })

  it("a device that needs a reset says so in the status and by an interrupt, once", async () => {
    const { device, driver, interrupt } = make()
    await driver.start()
    device.context?.needsReset("a test")
    device.context?.needsReset("a test")
    expect(driver.status).toBe(STARTED | DEVICE_NEEDS_RESET)
    expect(interrupt.count).toBe(1)
    expect(driver.handleInterrupt().configChange).toBe(true)
    await driver.start()
    expect(driver.status).toBe(STARTED)
  })
}

function featureTests({ it, expect }: TestRunner, make: Make): void {
  const common = FEATURE.VERSION_1 | FEATURE.RING_INDIRECT_DESC | FEATURE.RING_EVENT_IDX

  it("offers the device's, VERSION_1, indirect descriptors and EVENT_IDX", async () => {
    const { driver } = make({ features: 0x8000_0001n | (1n << 33n) })
    await driver.begin()
    expect(driver.offeredFeatures()).toBe(0x8000_0001n | (1n << 33n) | common)
  })

  it("tells the device what was accepted", async () => {
    const { device, driver } = make({ features: 3n })
    await driver.start({ features: FEATURE.VERSION_1 | 2n })
    expect(device.context?.features).toBe(FEATURE.VERSION_1 | 2n)
  })

  it("bad-input #2: refuses features that were not offered, and doing without VERSION_1", async () => {
    for (const features of [FEATURE.VERSION_1 | 2n, FEATURE.VERSION_1 | (1n << 127n), 1n, 0n]) {
      const { driver } = make({ features: 1n })
      await driver.begin()
      driver.writeFeatures(features)
      driver.addStatus(FEATURES_OK)
      expect(driver.status).toBe(ACKNOWLEDGE | DRIVER)
      // It may try again.
      expect(driver.negotiate()).toBe(true)
    }
  })

  it("are forgotten by a reset", async () => {
    const { driver } = make()
    await driver.start()
    await driver.begin()
    driver.addStatus(FEATURES_OK)
    expect(driver.status).toBe(ACKNOWLEDGE | DRIVER)
  })

  it("bad-input #2: features written before DRIVER or after FEATURES_OK are ignored", async () => {
    const { device, driver } = make({ features: 3n })
    driver.writeFeatures(FEATURE.VERSION_1 | 1n)
    await driver.writeStatus(ACKNOWLEDGE)
    driver.writeFeatures(FEATURE.VERSION_1 | 1n)
    driver.addStatus(DRIVER)
    driver.addStatus(FEATURES_OK)
    expect(driver.status).toBe(ACKNOWLEDGE | DRIVER)
    driver.writeFeatures(FEATURE.VERSION_1 | 2n)
    driver.addStatus(FEATURES_OK)
    driver.writeFeatures(0n)
    driver.addStatus(DRIVER_OK)
    driver.writeFeatures(0n)
    expect(device.context?.features).toBe(FEATURE.VERSION_1 | 2n)
  })
}

function queueTests({ it, expect }: TestRunner, make: Make): void {
  const hello = Uint8Array.of(1, 2, 3)

  it("carries chains of any layout, and interrupts", async () => {
    const { driver, interrupt } = make()
    await driver.start()
    for (const layout of ["direct", "indirect", "mixed"] as const) {
      const before = interrupt.count
      const chain = await driver.request(1, { readable: [hello, hello], writable: [5, 3], layout })
      expect(chain.written).toBe(6)
      expect([...(chain.data ?? [])].slice(0, 6)).toEqual([1, 2, 3, 1, 2, 3])
      expect(interrupt.count).toBe(before + 1)
      expect(driver.handleInterrupt()).toEqual({ usedBuffer: true, configChange: false })
      expect(driver.handleInterrupt()).toEqual({ usedBuffer: false, configChange: false })
    }
  })

  it("finds chains that were there before DRIVER_OK", async () => {
    const { driver } = make()
    await driver.begin()
    driver.negotiate()
    const ring = driver.setupQueue(0, 8)
    ring.add({ readable: [hello], writable: [3] })
    ring.publish()
    driver.addStatus(DRIVER_OK)
    expect(ring.reap().length).toBe(1)
  })

  it("gives the device only the queues that were enabled", async () => {
    const { device, driver } = make()
    await driver.start({ queues: 1, queueSize: 4 })
    expect(device.context?.queues.map((queue) => queue?.size)).toEqual([4, undefined])
    expect([driver.queueReady(0), driver.queueReady(1)]).toEqual([true, false])
  })

  it("bad-input #3: a queue out of range has size 0 and cannot be enabled", async () => {
    const { driver } = make()
    await driver.begin()
    driver.negotiate()
    expect([driver.queueSizeMax(0), driver.queueSizeMax(1)]).toEqual([16, 8])
    for (const index of [2, 0xffff, 0xffff_ffff]) {
      driver.writeQueue(index, 4, { desc: 0x1000, avail: 0x2000, used: 0x3000 })
      expect([driver.queueSizeMax(index), driver.queueReady(index)]).toEqual([0, false])
    }
    expect(driver.status & DEVICE_NEEDS_RESET).toBe(0)
  })

  it("bad-input #1: size and addresses written after a queue was enabled are ignored", async () => {
    const { driver } = make()
    await driver.start()
    driver.writeQueue(0, 2, { desc: 0, avail: 0, used: 0 })
    driver.writeQueue(0, 32768, { desc: 2 ** 40, avail: 2 ** 40, used: 2 ** 40 })
    for (let i = 0; i < 20; i++) {
      expect((await driver.request(0, { readable: [hello], writable: [3] })).written).toBe(3)
    }
    expect(driver.status).toBe(STARTED)
  })

  it("bad-input #1: an enabled queue stays as it is before DRIVER_OK too", async () => {
    const { device, driver } = make()
    await driver.begin()
    driver.negotiate()
    driver.setupQueue(0, 8)
    driver.writeQueue(0, 4, { desc: 0x1000, avail: 0x2000, used: 0x3000 })
    driver.addStatus(DRIVER_OK)
    expect(device.context?.queues[0]?.size).toBe(8)
    expect((await driver.request(0, { readable: [hello], writable: [3] })).written).toBe(3)
  })

  it("bad-input #1: queues cannot be set up before FEATURES_OK or after DRIVER_OK", async () => {
    const { device, driver } = make()
    await driver.begin()
    driver.setupQueue(0, 4)
    expect(driver.queueReady(0)).toBe(false)
    driver.negotiate()
    driver.addStatus(DRIVER_OK)
    driver.setupQueue(0, 4)
    expect(driver.queueReady(0)).toBe(false)
    expect(device.context?.queues).toEqual([undefined, undefined])
  })

  it("bad-input #11: rings that cannot be need a reset, and the device never sees them", async () => {
    const at = { desc: 0x1000, avail: 0x2000, used: 0x3000 }
    for (const [size, place] of [
      [0, at],
      [3, at],
      [32, at],
      [0xffff_ffff, at],
      [4, { ...at, desc: 0x1001 }],
      [4, { ...at, avail: 2 ** 52 }],
      [4, { ...at, used: 2 ** 63 }],
    ] as const) {
      const { device, driver, interrupt } = make()
      await driver.begin()
      driver.negotiate()
      driver.writeQueue(0, size, place)
      expect(driver.queueReady(0)).toBe(false)
      expect(driver.status).toBe(ACKNOWLEDGE | DRIVER | FEATURES_OK | DEVICE_NEEDS_RESET)
      driver.addStatus(DRIVER_OK)
      expect(device.calls).toEqual([])
      expect(interrupt.count).toBe(0)
      await driver.start()
      expect(driver.status).toBe(STARTED)
    }
  })

  it("bad-input #4: notifications of queues that are not there, not enabled or not yet in use are ignored", async () => {
    const { device, driver } = make()
    driver.notify(0)
    await driver.begin()
    driver.negotiate()
    driver.setupQueue(0, 4)
    driver.notify(0)
    driver.addStatus(DRIVER_OK)
    for (const index of [1, 2, 0xffff, 0xffff_ffff]) driver.notify(index)
    expect(device.calls).toEqual(["activate"])
    driver.notify(0)
    expect(device.calls).toEqual(["activate", "notify 0"])
  })

  it("bad-input #34: a storm of notifications costs no more than looking", async () => {
    const { device, driver, interrupt } = make()
    await driver.start()
    for (let i = 0; i < 1000; i++) driver.notify(i % 4)
    expect(device.calls.length).toBe(1 + 500)
    expect([interrupt.count, driver.status]).toEqual([0, STARTED])
  })

  it("bad-input #15: a broken ring needs a reset, after which all is well", async () => {
    const { device, driver, interrupt } = make()
    await driver.start()
    driver.rings[0]?.setAvailIndex(100)
    driver.notify(0)
    expect(driver.status).toBe(STARTED | DEVICE_NEEDS_RESET)
    expect(interrupt.count).toBe(1)
    const calls = device.calls.length
    driver.notify(0)
    driver.notify(1)
    expect(device.calls.length).toBe(calls)
    await driver.start()
    expect((await driver.request(0, { readable: [hello], writable: [3] })).written).toBe(3)
  })

  it("bad-input #20: a malformed chain goes back with length 0 and the queue goes on", async () => {
    const { driver } = make()
    await driver.start()
    const ring = driver.rings[0]
    ring?.writeDescriptor(15, { address: 0, length: 1, flags: DESCRIPTOR.NEXT, next: 15 })
    ring?.offerHead(15)
    driver.kick(0)
    expect(ring?.usedElement(0)).toEqual({ id: 15, length: 0 })
    expect(driver.status).toBe(STARTED)
  })
}

function configTests({ it, expect }: TestRunner, make: Make): void {
  it("is read in any width", async () => {
    const { driver } = make({ config: Uint8Array.of(1, 2, 3, 4, 0xff, 0xff, 0xff, 0xff) })
    await driver.begin()
    expect([driver.readConfigAt(0, 1), driver.readConfigAt(1, 1)]).toEqual([1, 2])
    expect([driver.readConfigAt(2, 2), driver.readConfigAt(0, 4)]).toEqual([0x0403, 0x0403_0201])
    expect(driver.readConfigAt(4, 4)).toBe(0xffff_ffff)
  })

  it("bad-input #5: reads past the end, straddling and unaligned, are filled with zeroes", async () => {
    const { driver } = make()
    await driver.begin()
    expect(driver.readConfigAt(4, 4)).toBe(0x0007_0605)
    expect([driver.readConfigAt(7, 1), driver.readConfigAt(8, 4), driver.readConfigAt(0x200, 4)]).toEqual([
      0, 0, 0,
    ])
    expect([driver.readConfigAt(1, 2), driver.readConfigAt(5, 4)]).toEqual([0x0302, 0x0706])
  })

  it("bad-input #5: writes past the end and straddling it are dropped", async () => {
    const { device, driver } = make()
    await driver.start()
    driver.writeConfig(7, 1, 1)
    driver.writeConfig(4, 1, 4)
    driver.writeConfig(6, 1, 2)
    driver.writeConfig(0x200, 1, 4)
    expect(device.calls).toEqual(["activate"])
    driver.writeConfig(3, 0x0908, 2)
    expect(device.calls).toEqual(["activate", "writeConfig"])
    expect([...device.config]).toEqual([1, 2, 3, 8, 9, 6, 7])
    expect(driver.readConfigAt(3, 2)).toBe(0x0908)
  })

  it("a change by the device shows, moves the generation and interrupts", async () => {
    const { device, driver, interrupt } = make()
    await driver.start()
    const generation = driver.configGeneration
    device.context?.updateConfig(() => {
      device.config[0] = 0x77
    })
    expect(driver.readConfigAt(0, 1)).toBe(0x77)
    expect(driver.configGeneration === generation).toBe(false)
    expect(interrupt.count).toBe(1)
    expect(driver.handleInterrupt()).toEqual({ usedBuffer: false, configChange: true })
  })

  it("a device without writable fields ignores writes", async () => {
    const { device, driver } = make()
    Object.defineProperty(device, "writeConfig", { value: undefined })
    await driver.start()
    driver.writeConfig(0, 9, 1)
    expect(device.config[0]).toBe(1)
  })
}

function resetTests({ it, expect }: TestRunner, make: Make): void {
  it("puts everything back, and the driver can start again", async () => {
    const { device, driver } = make()
    for (let round = 0; round < 3; round++) {
      await driver.start()
      expect((await driver.request(0, { readable: [Uint8Array.of(7)], writable: [1] })).written).toBe(1)
      await driver.reset()
      expect([driver.status, driver.queueReady(0)]).toEqual([0, false])
      expect(driver.handleInterrupt()).toEqual({ usedBuffer: false, configChange: false })
    }
    expect(device.calls.filter((call) => call === "reset").length).toBe(3)
  })

  it("is complete only when the device is quiet", async () => {
    const { device, driver } = make()
    await driver.start()
    let quiet = (): void => {}
    device.resetGate = new Promise((resolve) => {
      quiet = resolve
    })
    let complete = false
    const reset = Promise.resolve(driver.writeStatus(0)).then(() => {
      complete = true
    })
    await turn()
    expect(complete).toBe(false)
    expect(driver.status === 0).toBe(false)
    quiet()
    await reset
    expect(driver.status).toBe(0)
  })

  it("bad-input #34: a driver that goes on during a reset, or resets again, is not heard", async () => {
    const { device, driver } = make()
    await driver.start()
    let quiet = (): void => {}
    device.resetGate = new Promise((resolve) => {
      quiet = resolve
    })
    const resets = [driver.writeStatus(0), driver.writeStatus(0), driver.writeStatus(0)]
    await driver.writeStatus(ACKNOWLEDGE)
    driver.writeFeatures(FEATURE.VERSION_1)
    driver.writeQueue(0, 4, { desc: 0x1000, avail: 0x2000, used: 0x3000 })
    driver.notify(0)
    driver.writeConfig(0, 1, 1)
    quiet()
    await Promise.all(resets)
    expect(driver.status).toBe(0)
    expect(device.calls).toEqual(["activate", "reset"])
    await driver.start()
    expect(device.calls).toEqual(["activate", "reset", "activate"])
  })

  it("bad-input #34: a storm of resets with nothing to reset does not reach the device", async () => {
    const { device, driver } = make()
    for (let i = 0; i < 1000; i++) await driver.reset()
    expect(device.calls).toEqual([])
  })

  it("bad-input #27: what completes after a reset reaches neither memory nor driver", async () => {
    const { device, driver, interrupt } = make()
    await driver.start()
    device.holds = true
    const ring = driver.rings[0]
    const chain = ring?.add({ readable: [Uint8Array.of(1)], writable: [1] })
    driver.kick(0)
    expect(device.held.length).toBe(1)
    const context = device.context
    let deferred = false
    context?.defer(() => {
      deferred = true
    })
    const before = interrupt.count
    await driver.reset()
    driver.memory.fill(ring?.used ?? 0, 64, 0x55)
    device.release()
    context?.needsReset("too late")
    context?.updateConfig(() => {})
    await turn()
    expect([interrupt.count, driver.status, deferred]).toEqual([before, 0, false])
    expect(driver.memory.readUint16((ring?.used ?? 0) + 2)).toBe(0x5555)
    expect(chain?.written).toBe(undefined)
  })

  it("a deferred task runs in a later turn", async () => {
    const { device, driver } = make()
    await driver.start()
    let ran = false
    device.context?.defer(() => {
      ran = true
    })
    expect(ran).toBe(false)
    await until(() => ran, "the deferred task")
  })

  it("the device's own bugs end the device, not the machine", async () => {
    for (const failAt of ["activate", "notify 0", "writeConfig"]) {
      const { device, driver } = make()
      device.failAt = failAt
      await driver.start().catch(() => {})
      driver.notify(0)
      driver.writeConfig(0, 1, 1)
      expect(driver.status).toBe(STARTED | DEVICE_NEEDS_RESET)
      device.failAt = undefined
      await driver.start()
      expect(driver.status).toBe(STARTED)
    }
  })

  it("a device that cannot be reset stays in need of one", async () => {
    const { device, driver } = make()
    await driver.start()
    device.failAt = "reset"
    await driver.writeStatus(0)
    expect(driver.status).toBe(DEVICE_NEEDS_RESET)
    device.failAt = undefined
    await driver.start()
    expect(driver.status).toBe(STARTED)
  })
}

/** One turn of the event loop. */
function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}
