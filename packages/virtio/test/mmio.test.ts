import { type AccessSize, ConfigError, type RegisterPage } from "@virtkit/interface"
import { EchoDevice, FEATURE, MMIO, MMIO_MAGIC, STATUS, TestMemory } from "@virtkit/testkit"
import { VirtioMmio } from "@virtkit/virtio"
import { describe, expect, it } from "vitest"
import { setup } from "./setup.js"

const STARTED = STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.FEATURES_OK | STATUS.DRIVER_OK

/** A device whose queues somebody else works on; of the descriptors nobody looks at more than the numbers. */
class FarDevice extends EchoDevice {
  readonly external = { ringFeatures: 0n, kicks: [100, 101] }
}

describe("a device whose queues somebody else works on", () => {
  it("has doorbells that ring elsewhere, and gets the rings, which nobody here touches", async () => {
    const device = new FarDevice()
    const { transport, driver, memory, interrupt } = setup({ device })
    expect(transport.doorbells.map(({ fd, datamatch }) => [fd, datamatch])).toEqual([
      [100, 0],
      [101, 1],
    ])
    await driver.start()
    expect(driver.features & (3n << 28n)).toBe(0n)
    const [queue] = device.context!.external!
    const { desc, avail, used } = driver.rings[0]!
    expect(queue).toMatchObject({ size: 16, desc, avail, used })
    expect([memory.readUint16(used), memory.readUint16(used + 2)]).toEqual([0, 0])
    queue!.connect(7, () => device.calls.push("direct"))
    queue!.interrupt()
    expect([interrupt.count, driver.handleInterrupt().usedBuffer]).toEqual([1, true])
    driver.notify(1)
    expect(device.calls).toEqual(["activate", "notify 1"])
    await driver.reset()
    // bad-input #27.
    queue!.interrupt()
    queue!.connect(8, () => device.calls.push("late"))
    expect(interrupt.count).toBe(1)
    expect(device.calls.includes("late")).toBe(false)
  })

  it("can have one of them reset and enabled again, which hands over another", async () => {
    const device = new FarDevice({ queueReset: true })
    const { driver, interrupt, memory } = setup({ device })
    driver.wantedFeatures |= FEATURE.RING_RESET
    await driver.start()
    const before = device.context!.external![0]!
    await driver.resetQueue(0)
    expect(device.context!.external![0]).toBeUndefined()
    before.interrupt()
    before.connect(8, () => device.calls.push("late"))
    driver.notify(0)
    const { desc, avail, used } = driver.setupQueue(0, 8)
    memory.fill(used, 4, 0x55)
    const again = device.context!.external![0]!
    expect(again).toMatchObject({ size: 8, desc, avail, used })
    expect(device.context!.external![1]!.size).toBe(8)
    expect(device.calls).toEqual(["activate", "resetQueue 0", "notify 0"])
    expect(interrupt.count).toBe(0)
    again.interrupt()
    expect(interrupt.count).toBe(1)
  })

  it("hands over one that is enabled late, whose ring nobody here touches", async () => {
    const device = new FarDevice({ queueReset: true })
    // What it does there is not ours.
    device.notify = () => {}
    const { driver, memory } = setup({ device })
    driver.wantedFeatures |= FEATURE.RING_RESET
    await driver.start({ queues: 1 })
    expect(device.context!.external![1]).toBeUndefined()
    const [desc, avail, used] = [0x8000, 0x9000, 0xa000]
    memory.fill(used, 128, 0x55)
    driver.writeQueue(1, 8, { desc, avail, used })
    expect(device.context!.external![1]).toMatchObject({ size: 8, desc, avail, used })
    const bytes = new Uint8Array(128)
    memory.read(used, bytes)
    expect(bytes.every((byte) => byte === 0x55)).toBe(true)
  })

  it("keeps those that nobody else works on", async () => {
    const device = Object.assign(new EchoDevice(), { external: { ringFeatures: 0n, kicks: [100] } })
    const { driver } = setup({ device })
    await driver.start()
    expect(device.context!.external!.map((queue) => queue?.size)).toEqual([16, undefined])
  })

  it("needs a reset when a write of configuration fails", async () => {
    const device = new FarDevice()
    const { driver, transport, errors } = setup({ device })
    await driver.start()
    device.writeConfig = () => Promise.reject(new Error("the other side is gone"))
    await transport.write(0x100, 1, 42)
    expect(errors.map(({ message }) => message)).toEqual([
      "echo0 failed in writeConfig: the other side is gone",
    ])
    expect(driver.status & STATUS.DEVICE_NEEDS_RESET).not.toBe(0)
  })

  it("has a vCPU wait until a write of configuration is complete", async () => {
    const device = new FarDevice()
    const { transport } = setup({ device })
    let done = () => {}
    device.writeConfig = () =>
      new Promise<void>((resolve) => {
        done = resolve
      })
    const pending = transport.write(0x100, 1, 42)
    device.config[0] = 42
    done()
    await pending
    expect(transport.read(0x100, 1)).toBe(42)
  })
})

describe("registers (4.2.2)", () => {
  it("identify a version 2 device", () => {
    const { driver } = setup()
    expect(driver.read32(MMIO.MAGIC_VALUE)).toBe(MMIO_MAGIC)
    expect(driver.read32(MMIO.VERSION)).toBe(2)
    expect(driver.read32(MMIO.DEVICE_ID)).toBe(42)
    expect(driver.read32(MMIO.VENDOR_ID)).not.toBe(0)
  })

  it("say that there is no shared memory region, whichever is selected", () => {
    const { driver } = setup()
    void driver.write32(MMIO.SHM_SEL, 3)
    for (const register of [MMIO.SHM_LEN_LOW, MMIO.SHM_LEN_HIGH, MMIO.SHM_BASE_LOW, MMIO.SHM_BASE_HIGH]) {
      expect(driver.read32(register)).toBe(0xffff_ffff)
    }
  })

  it("that are write-only or not there read as 0", async () => {
    const { driver } = setup()
    await driver.start()
    const known = new Set<number>([
      MMIO.MAGIC_VALUE,
      MMIO.VERSION,
      MMIO.DEVICE_ID,
      MMIO.VENDOR_ID,
      MMIO.DEVICE_FEATURES,
      MMIO.QUEUE_SIZE_MAX,
      MMIO.QUEUE_READY,
      MMIO.STATUS,
      MMIO.SHM_LEN_LOW,
      MMIO.SHM_LEN_HIGH,
      MMIO.SHM_BASE_LOW,
      MMIO.SHM_BASE_HIGH,
    ])
    for (let register = 0; register < MMIO.CONFIG; register += 4) {
      if (!known.has(register)) expect([register, driver.read32(register)]).toEqual([register, 0])
    }
  })

  it("features beyond the last word are 0, and writes there are lost", async () => {
    const { driver } = setup()
    await driver.begin()
    driver.writeFeatures(FEATURE.VERSION_1)
    for (const word of [4, 5, 0xffff_ffff]) {
      void driver.write32(MMIO.DEVICE_FEATURES_SEL, word)
      expect(driver.read32(MMIO.DEVICE_FEATURES)).toBe(0)
      void driver.write32(MMIO.DRIVER_FEATURES_SEL, word)
      void driver.write32(MMIO.DRIVER_FEATURES, 0x100)
    }
    driver.addStatus(STATUS.FEATURES_OK)
    expect(driver.status & STATUS.FEATURES_OK).not.toBe(0)
  })

  it("bad-input #5: writes to them in other widths or places are lost", async () => {
    const { device, driver, transport } = setup()
    await driver.begin()
    driver.negotiate()
    for (const [offset, size] of [
      [MMIO.STATUS, 1],
      [MMIO.STATUS, 2],
      [MMIO.STATUS + 1, 4],
      [MMIO.STATUS + 2, 2],
    ] as const) {
      expect(transport.write(offset, size, STARTED)).toBeUndefined()
    }
    expect([driver.status & STATUS.DRIVER_OK, device.calls]).toEqual([0, []])
  })

  it("bad-input #5: writes to the device configuration in a width that there is not are lost", async () => {
    const { device, driver, transport } = setup()
    await driver.start()
    expect(transport.write(MMIO.CONFIG, 8 as AccessSize, 0xff)).toBeUndefined()
    expect([device.calls, device.config[0]]).toEqual([["activate"], 1])
  })

  it("bad-input #5: reads past the page give 0", () => {
    const { transport } = setup()
    expect([transport.read(0x1000, 4), transport.read(0x1001, 2), transport.read(0xffe, 4)]).toEqual([
      0, 0, 0,
    ])
  })

  it("InterruptACK clears the causes that it names, and InterruptStatus is current when the interrupt comes", async () => {
    const { device, driver, interrupt } = setup()
    const seen: number[] = []
    const signal = interrupt.signal.bind(interrupt)
    interrupt.signal = () => {
      seen.push(driver.read32(MMIO.INTERRUPT_STATUS))
      signal()
    }
    await driver.start()
    device.context?.updateConfig(() => {})
    await driver.request(0, { readable: [Uint8Array.of(1)], writable: [1] })
    expect(seen).toEqual([2, 3])
    void driver.write32(MMIO.INTERRUPT_ACK, 1)
    expect(driver.read32(MMIO.INTERRUPT_STATUS)).toBe(2)
    void driver.write32(MMIO.INTERRUPT_ACK, 0xffff_ffff)
    expect(driver.read32(MMIO.INTERRUPT_STATUS)).toBe(0)
  })

  it("bad-input #35: high bits come back unsigned", () => {
    const { driver, transport } = setup({ features: 0x8000_0000n, config: new Uint8Array(8).fill(0xff) })
    expect(driver.read32(MMIO.DEVICE_FEATURES)).toBeGreaterThan(2 ** 31)
    expect(transport.read(MMIO.CONFIG + 1, 4)).toBe(0xffff_ffff)
    expect(transport.read(MMIO.CONFIG + 0xeff, 4)).toBe(0)
  })

  it("QueueReady 0 takes a queue back before DRIVER_OK, and is ignored after it", async () => {
    const { driver } = setup()
    await driver.begin()
    driver.negotiate()
    driver.setupQueue(0, 4)
    void driver.write32(MMIO.QUEUE_READY, 0)
    expect(driver.queueReady(0)).toBe(false)
    driver.setupQueue(0, 8)
    driver.addStatus(STATUS.DRIVER_OK)
    void driver.write32(MMIO.QUEUE_READY, 0)
    expect(driver.queueReady(0)).toBe(true)
    expect((await driver.request(0, { readable: [Uint8Array.of(1)], writable: [1] })).written).toBe(1)
  })

  it("addresses have 64 bits, and nothing is lost above 2^32", async () => {
    const high = 5 * 2 ** 32 + 0x1000
    const memory = new TestMemory({
      regions: [
        { guestAddress: 0, size: 1 << 16 },
        { guestAddress: high, size: 1 << 16 },
      ],
    })
    const { device, driver } = setup({ memory })
    await driver.begin()
    driver.negotiate()
    driver.writeQueue(0, 4, { desc: high, avail: high + 0x100, used: high + 0x200 })
    driver.addStatus(STATUS.DRIVER_OK)
    memory.writeBigUint64(high, BigInt(high + 0x1000))
    memory.writeUint32(high + 8, 4)
    memory.writeUint16(high + 12, 2)
    memory.writeUint16(high + 0x102, 1)
    driver.notify(0)
    expect(device.calls).toEqual(["activate", "notify 0"])
    expect(memory.readUint16(high + 0x202)).toBe(1)
  })
})

describe("doorbells", () => {
  it("one a queue, by value, and ring as a notification does", async () => {
    const { device, driver, transport } = setup()
    await driver.start()
    expect(transport.doorbells.map(({ offset, length, datamatch }) => [offset, length, datamatch])).toEqual([
      [MMIO.QUEUE_NOTIFY, 4, 0],
      [MMIO.QUEUE_NOTIFY, 4, 1],
    ])
    transport.doorbells[1]!.ring()
    expect(device.calls).toEqual(["activate", "notify 1"])
    expect(transport.queues.map((queue) => queue?.counters.notifications)).toEqual([0, 1])
  })

  it("bad-input #27: rings that arrive after a reset are ignored", async () => {
    const { device, driver, transport } = setup()
    await driver.start()
    await driver.reset()
    transport.doorbells[0]!.ring()
    expect(device.calls).toEqual(["activate", "reset"])
  })
})

describe("register page", () => {
  class FakePage implements RegisterPage {
    readonly view = new DataView(new SharedArrayBuffer(8192), 4096, 4096)
    readonly events: string[] = []
    /** A configuration byte as the guest saw it at each of these events. */
    readonly seen: number[] = []
    hide(): void {
      this.events.push("hide")
      this.seen.push(this.view.getUint8(MMIO.CONFIG))
    }
    show(): void {
      this.events.push("show")
      this.seen.push(this.view.getUint8(MMIO.CONFIG))
    }
  }

  it("holds at any time what a read gives", async () => {
    const { device, driver, transport, interrupt } = setup()
    const page = new FakePage()
    const same = (): void => {
      for (let offset = 0; offset < 4096; offset += 4) {
        expect(page.view.getUint32(offset, true)).toBe(transport.read(offset, 4))
      }
    }
    transport.setRegisterPage(page)
    same()
    await driver.start()
    same()
    await driver.request(0, { readable: [Uint8Array.of(1)], writable: [1] })
    expect([page.view.getUint32(MMIO.INTERRUPT_STATUS, true), interrupt.count]).toEqual([1, 1])
    void driver.write32(MMIO.QUEUE_SEL, 1)
    expect(page.view.getUint32(MMIO.QUEUE_SIZE_MAX, true)).toBe(8)
    driver.writeConfig(1, 0x55, 1)
    expect(page.view.getUint8(MMIO.CONFIG + 1)).toBe(0x55)
    device.context?.needsReset("a test")
    expect(page.view.getUint32(MMIO.STATUS, true)).toBe(STARTED | STATUS.DEVICE_NEEDS_RESET)
    same()
    await driver.reset()
    expect(page.view.getUint32(MMIO.STATUS, true)).toBe(0)
    same()
    expect(page.events).toEqual([])
  })

  it("is hidden while the device changes its configuration", async () => {
    const { device, driver, transport } = setup()
    const page = new FakePage()
    transport.setRegisterPage(page)
    await driver.start()
    device.context?.updateConfig(() => {
      page.events.push("update")
      device.config[0] = 9
    })
    expect(page.events).toEqual(["hide", "update", "show"])
    expect(page.seen).toEqual([1, 9])
    expect(page.view.getUint32(MMIO.CONFIG_GENERATION, true)).toBe(1)
  })

  it("is shown again when the update throws", async () => {
    const { device, driver, transport } = setup()
    const page = new FakePage()
    transport.setRegisterPage(page)
    await driver.start()
    const update = (): void => {
      throw new Error("a bug")
    }
    expect(() => device.context?.updateConfig(update)).toThrow("a bug")
    expect(page.events).toEqual(["hide", "show"])
  })

  it("can be taken away again, with all that it held", async () => {
    const { driver, transport } = setup()
    const page = new FakePage()
    transport.setRegisterPage(page)
    await driver.start()
    transport.setRegisterPage(undefined)
    expect(driver.status).toBe(STARTED)
    await driver.reset()
    expect(page.view.getUint32(MMIO.STATUS, true)).toBe(STARTED)
  })

  it("follows a configuration that a device changed before it was activated", async () => {
    const { device, driver } = setup()
    device.config[0] = 0x44
    await driver.begin()
    expect(driver.readConfigAt(0, 1)).toBe(0x44)
  })
})

describe("the host's side", () => {
  it("hears why a device needs a reset", async () => {
    const { driver, transport, reasons } = setup()
    await driver.start()
    driver.rings[1]!.setAvailIndex(1000)
    driver.notify(1)
    expect(reasons).toEqual(["queue 1: avail.idx is 1000 ahead, the ring has room for 8"])
    expect(transport.needsResetReason).toBe(reasons[0])
    await driver.reset()
    expect(transport.needsResetReason).toBeUndefined()
  })

  it("hears of a device's bugs", async () => {
    const { device, driver, errors } = setup()
    device.failAt = "activate"
    await expect(driver.start()).rejects.toThrow("needs a reset")
    device.failAt = "reset"
    await driver.writeStatus(0)
    expect(errors.map((error) => error.message)).toEqual([
      "echo0 failed in activate: a bug in activate",
      "echo0 failed in reset: a bug in reset",
    ])
    expect(errors[0]).toMatchObject({ code: "ERR_VIRTKIT_DEVICE", cause: { message: "a bug in activate" } })
  })

  it("hears of a deferred task that throws", async () => {
    const { device, driver, errors } = setup()
    await driver.start()
    device.context?.defer(() => {
      throw new Error("late bug")
    })
    await new Promise((resolve) => setImmediate(resolve))
    expect(errors).toHaveLength(1)
    expect(driver.status & STATUS.DEVICE_NEEDS_RESET).not.toBe(0)
  })

  it("hears of one that throws what is no Error", async () => {
    const { device, driver, errors } = setup()
    await driver.start()
    device.context?.defer(() => {
      throw "late bug"
    })
    await new Promise((resolve) => setImmediate(resolve))
    expect(errors.map((error) => error.message)).toEqual(["echo0 failed in a deferred task: late bug"])
  })

  it("closes the device, after which the driver is not heard", async () => {
    const { device, driver, transport } = setup()
    await driver.start()
    await transport.close()
    driver.notify(0)
    driver.writeConfig(0, 1, 1)
    expect(driver.writeStatus(0)).toBeUndefined()
    expect(device.calls).toEqual(["activate", "close"])
  })

  it("refuses devices that cannot be", () => {
    const broken: [Partial<Record<keyof EchoDevice, unknown>>, RegExp][] = [
      [{ queueMaxSizes: [16, 3] }, /3 is not a queue size/],
      [{ queueMaxSizes: [65536] }, /65536 is not a queue size/],
      [{ features: FEATURE.RING_PACKED }, /offers VIRTIO_F_RING_PACKED/],
      [{ features: FEATURE.RING_RESET }, /offers VIRTIO_F_RING_RESET/],
      [{ config: new Uint8Array(0xf01) }, /more than 3840 bytes/],
    ]
    for (const [options, message] of broken) {
      const device = new EchoDevice(options as ConstructorParameters<typeof EchoDevice>[0])
      const make = (): unknown => {
        return new VirtioMmio({ device, memory: new TestMemory(), interrupt: { signal: () => {} } })
      }
      expect(make).toThrow(ConfigError)
      expect(make).toThrow(message)
    }
  })
})
