import { ConfigError, type RegisterPage } from "@virtkit/interface"
import {
  VIRTIO_PCI_CAP as CAP,
  VIRTIO_PCI_COMMON as COMMON,
  EchoDevice,
  FEATURE,
  NO_VECTOR,
  STATUS,
} from "@virtkit/testkit"
import { VirtioPci } from "@virtkit/virtio-pci"
import { describe, expect, it } from "vitest"
import { setup } from "./setup.js"

const STARTED = STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.FEATURES_OK | STATUS.DRIVER_OK
const echo = { readable: [Uint8Array.of(1)], writable: [1] }

describe("the function (4.1.2)", () => {
  it("is a modern virtio device of its type", () => {
    const { identity, hasIntx } = setup().transport
    expect(identity).toEqual({
      vendorId: 0x1af4,
      deviceId: 0x1040 + 42,
      revisionId: 1,
      classCode: 0x00ff00,
      subsystemVendorId: 0x1af4,
      subsystemId: 0x1100,
    })
    expect(hasIntx).toBe(true)
  })

  it("has the class that its type has", () => {
    const classOf = (deviceType: number): number => {
      const device = Object.assign(new EchoDevice(), { deviceType })
      return new VirtioPci({ device }).identity.classCode
    }
    expect([1, 2, 3, 4, 9].map(classOf)).toEqual([0x020000, 0x018000, 0x078000, 0x00ff00, 0x00ff00])
  })

  it("has a vector a queue and one for the configuration, and room for all of them", () => {
    for (const [queues, vectors] of [
      [0, 1],
      [1, 2],
      [2, 3],
      [64, 65],
      [300, 301],
      [2047, 2048],
      [2048, 2048],
    ] as const) {
      const device = new EchoDevice({ queueMaxSizes: Array<number>(queues).fill(2) })
      const { bars, msix } = new VirtioPci({ device })
      expect(msix.vectors).toBe(vectors)
      const [msixBar, registers] = bars
      expect([msixBar?.index, msixBar?.kind, registers?.index, registers?.kind]).toEqual([
        msix.bar,
        "memory32",
        4,
        "memory64",
      ])
      for (const bar of bars) expect(Number.isInteger(Math.log2(bar.size)) && bar.size >= 4096).toBe(true)
      expect(msix.tableOffset + 16 * vectors).toBeLessThanOrEqual(msix.pbaOffset)
      expect(msix.pbaOffset + 8 * Math.ceil(vectors / 64)).toBeLessThanOrEqual(msixBar!.size)
      expect([msix.tableOffset % 4096, msix.pbaOffset % 4096]).toEqual([0, 0])
      for (const { offset, size } of registers!.windows) {
        expect(offset + size).toBeLessThanOrEqual(registers!.size)
      }
    }
  })

  it("points to its structures by capabilities (4.1.4)", () => {
    const { driver, transport } = setup()
    expect([...driver.structures.keys()].sort()).toEqual([1, 2, 3, 4, 5])
    const ranges = [CAP.COMMON_CFG, CAP.NOTIFY_CFG, CAP.ISR_CFG, CAP.DEVICE_CFG].map((type) => {
      const { bar, offset, length } = driver.structures.get(type)!
      expect(bar).toBe(4)
      return [offset, offset + length] as const
    })
    ranges.sort((a, b) => a[0] - b[0])
    for (const [index, [start, end]] of ranges.entries()) {
      expect(start).toBeLessThan(end)
      expect(end).toBeLessThanOrEqual(ranges[index + 1]?.[0] ?? transport.bars[1]!.size)
    }
    // cap_len says how long each is, ID and link included.
    for (const { body } of transport.capabilities) expect(body[0]).toBe(body.length + 2)
  })

  it("has no device configuration to point to when the device has none", () => {
    const { driver } = setup({ config: new Uint8Array(0) })
    expect([...driver.structures.keys()].sort()).toEqual([1, 2, 3, 5])
  })

  it("refuses devices that cannot be", () => {
    const broken: [Partial<Record<keyof EchoDevice, unknown>>, RegExp][] = [
      [{ queueMaxSizes: [16, 3] }, /3 is not a queue size/],
      [{ queueMaxSizes: Array<number>(2049).fill(2) }, /more than 2048 queues/],
      [{ features: FEATURE.RING_RESET }, /offers VIRTIO_F_RING_RESET/],
      [{ config: new Uint8Array(0xf01) }, /more than 3840 bytes/],
    ]
    for (const [options, message] of broken) {
      const device = new EchoDevice(options as ConstructorParameters<typeof EchoDevice>[0])
      expect(() => new VirtioPci({ device })).toThrow(ConfigError)
      expect(() => new VirtioPci({ device })).toThrow(message)
    }
  })
})

describe("common configuration (4.1.4.3)", () => {
  it("bad-input #3: a queue that is not there reads as 0, its vector as NO_VECTOR, and writes are lost", async () => {
    const { driver } = setup()
    await driver.begin()
    driver.negotiate()
    for (const index of [2, 3, 0x7fff, 0xffff]) {
      driver.selectQueue(index)
      driver.writeQueue(index, 4, { desc: 0x1000, avail: 0x2000, used: 0x3000 })
      for (let field: number = COMMON.QUEUE_SIZE; field < 64; field += 2) {
        const expected = field === COMMON.QUEUE_MSIX_VECTOR ? NO_VECTOR : 0
        expect([field, driver.readCommon(field, 2)]).toEqual([field, expected])
      }
    }
    expect(driver.status & STATUS.DEVICE_NEEDS_RESET).toBe(0)
    driver.selectQueue(0)
    expect(driver.readCommon(COMMON.QUEUE_SIZE, 2)).toBe(16)
  })

  it("bad-input #3: feature words past the last one are 0, and writes there are lost", async () => {
    const { driver } = setup()
    await driver.begin()
    driver.writeFeatures(FEATURE.VERSION_1)
    for (const word of [4, 5, 0xffff_ffff]) {
      void driver.writeCommon(COMMON.DEVICE_FEATURE_SELECT, 4, word)
      expect(driver.readCommon(COMMON.DEVICE_FEATURE, 4)).toBe(0)
      void driver.writeCommon(COMMON.DRIVER_FEATURE_SELECT, 4, word)
      void driver.writeCommon(COMMON.DRIVER_FEATURE, 4, 0x100)
      expect(driver.readCommon(COMMON.DRIVER_FEATURE, 4)).toBe(0)
    }
    driver.addStatus(STATUS.FEATURES_OK)
    expect(driver.status & STATUS.FEATURES_OK).not.toBe(0)
  })

  it("reads back what was written", async () => {
    const { driver } = setup()
    expect(driver.readCommon(COMMON.NUM_QUEUES, 2)).toBe(2)
    await driver.begin()
    void driver.writeCommon(COMMON.DRIVER_FEATURE_SELECT, 4, 1)
    void driver.writeCommon(COMMON.DRIVER_FEATURE, 4, 0x8000_0001)
    expect(driver.readCommon(COMMON.DRIVER_FEATURE, 4)).toBe(0x8000_0001)
    expect(driver.readCommon(COMMON.DRIVER_FEATURE_SELECT, 4)).toBe(1)
    driver.negotiate()
    driver.selectQueue(1)
    void driver.writeCommon(COMMON.QUEUE_SIZE, 2, 4)
    driver.write64(COMMON.QUEUE_DESC, 5 * 2 ** 32 + 0xffff_fff0)
    driver.write64(COMMON.QUEUE_DRIVER, 0x2000)
    driver.write64(COMMON.QUEUE_DEVICE, 2 ** 63)
    expect([driver.readCommon(COMMON.QUEUE_SELECT, 2), driver.readCommon(COMMON.QUEUE_SIZE, 2)]).toEqual([
      1, 4,
    ])
    expect(driver.readCommon(COMMON.QUEUE_DESC, 4)).toBe(0xffff_fff0)
    expect(driver.readCommon(COMMON.QUEUE_DESC + 4, 4)).toBe(5)
    expect(driver.readCommon(COMMON.QUEUE_DRIVER, 4)).toBe(0x2000)
    expect(driver.readCommon(COMMON.QUEUE_DEVICE + 4, 4)).toBe(0x8000_0000)
    driver.selectQueue(0)
    expect(driver.readCommon(COMMON.QUEUE_DESC, 4)).toBe(0)
  })

  it("bad-input #1: what is written to an enabled queue is lost, and queue_enable 0 is", async () => {
    const { driver } = setup()
    await driver.start({ queueSize: 8 })
    driver.selectQueue(0)
    const before = driver.readCommon(COMMON.QUEUE_DESC, 4)
    void driver.writeCommon(COMMON.QUEUE_SIZE, 2, 2)
    driver.write64(COMMON.QUEUE_DESC, 0)
    void driver.writeCommon(COMMON.QUEUE_ENABLE, 2, 0)
    expect(driver.readCommon(COMMON.QUEUE_SIZE, 2)).toBe(8)
    expect([driver.readCommon(COMMON.QUEUE_DESC, 4), driver.queueReady(0)]).toEqual([before, true])
    expect((await driver.request(0, echo)).written).toBe(1)
  })

  it("queue_enable and queue_reset take 1 and nothing else", async () => {
    const { driver } = setup({ queueReset: true })
    await driver.begin()
    driver.negotiate(~FEATURE.RING_PACKED)
    driver.selectQueue(0)
    driver.write64(COMMON.QUEUE_DESC, 0x1000)
    driver.write64(COMMON.QUEUE_DRIVER, 0x2000)
    driver.write64(COMMON.QUEUE_DEVICE, 0x3000)
    for (const value of [0, 2, 0x101, 0xffff]) void driver.writeCommon(COMMON.QUEUE_ENABLE, 2, value)
    expect(driver.queueReady(0)).toBe(false)
    void driver.writeCommon(COMMON.QUEUE_ENABLE, 2, 1)
    for (const value of [0, 2, 0x101, 0xffff]) void driver.writeCommon(COMMON.QUEUE_RESET, 2, value)
    expect(driver.queueReady(0)).toBe(true)
  })

  it("is as at the start after a reset", async () => {
    const { driver } = setup()
    const bytes = (): number[] => Array.from({ length: 0x40 }, (_, offset) => driver.readCommon(offset, 1))
    const before = bytes()
    await driver.start()
    driver.selectQueue(1)
    void driver.writeCommon(COMMON.DEVICE_FEATURE_SELECT, 4, 1)
    await driver.reset()
    expect(bytes()).toEqual(before)
  })

  it("bad-input #5: any part of it can be read, in any width", async () => {
    const { driver } = setup()
    await driver.start({ queueSize: 8 })
    driver.selectQueue(0)
    const bytes = Uint8Array.from({ length: 0x140 }, (_, offset) => driver.readCommon(offset, 1))
    const view = new DataView(bytes.buffer)
    for (let offset = 0; offset < 0x13c; offset++) {
      expect(driver.readCommon(offset, 2)).toBe(view.getUint16(offset, true))
      expect(driver.readCommon(offset, 4)).toBe(view.getUint32(offset, true))
    }
    expect(view.getUint16(COMMON.QUEUE_SIZE, true)).toBe(8)
  })

  it("bad-input #5: writes in other widths, in between and straddling are lost", async () => {
    const { device, driver } = setup()
    await driver.begin()
    driver.negotiate()
    const before = driver.readConfig(0, 7)
    for (const [field, size] of [
      [COMMON.DEVICE_STATUS, 2],
      [COMMON.DEVICE_STATUS, 4],
      [COMMON.DEVICE_STATUS - 1, 2],
      [COMMON.DEVICE_STATUS - 2, 4],
      [COMMON.QUEUE_SELECT, 1],
      [COMMON.QUEUE_SELECT, 4],
      [COMMON.QUEUE_SIZE, 4],
      [COMMON.QUEUE_DESC, 2],
      [COMMON.QUEUE_DESC + 2, 4],
      [COMMON.NUM_QUEUES, 2],
      [COMMON.CONFIG_GENERATION, 1],
      [COMMON.QUEUE_NOTIFY_OFF, 2],
      [0xfe, 4],
    ] as const) {
      expect(driver.writeCommon(field, size, 0x0101_010f)).toBeUndefined()
    }
    expect(driver.status).toBe(STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.FEATURES_OK)
    expect(driver.readCommon(COMMON.QUEUE_SELECT, 2)).toBe(0)
    expect([driver.readCommon(COMMON.QUEUE_SIZE, 2), driver.readCommon(COMMON.QUEUE_DESC, 4)]).toEqual([
      16, 0,
    ])
    expect([driver.readConfig(0, 7), device.calls]).toEqual([before, []])
  })

  it("the generation has 8 bits", async () => {
    const { device, driver } = setup()
    await driver.start()
    for (let i = 0; i < 257; i++) device.context?.updateConfig(() => {})
    expect(driver.configGeneration).toBe(1)
  })

  it("bad-input #2: a status that skips a step is refused", async () => {
    const { device, driver } = setup()
    await driver.begin()
    driver.addStatus(STATUS.DRIVER_OK)
    expect([driver.status, device.calls]).toEqual([STATUS.ACKNOWLEDGE | STATUS.DRIVER, []])
  })
})

describe("interrupts", () => {
  it("bad-input #6: a vector that the table does not have becomes NO_VECTOR, and nothing is signalled", async () => {
    const { device, driver, interrupt } = setup()
    await driver.start()
    for (const vector of [3, 4, 0x7ff, 0x800, 0xfffe, 0xffff]) {
      void driver.writeCommon(COMMON.CONFIG_MSIX_VECTOR, 2, vector)
      expect(driver.readCommon(COMMON.CONFIG_MSIX_VECTOR, 2)).toBe(NO_VECTOR)
      driver.selectQueue(0)
      void driver.writeCommon(COMMON.QUEUE_MSIX_VECTOR, 2, vector)
      expect(driver.readCommon(COMMON.QUEUE_MSIX_VECTOR, 2)).toBe(NO_VECTOR)
    }
    await driver.request(0, echo)
    device.context?.updateConfig(() => {})
    expect(interrupt.count).toBe(0)
    driver.selectQueue(0)
    void driver.writeCommon(COMMON.QUEUE_MSIX_VECTOR, 2, 2)
    expect(driver.readCommon(COMMON.QUEUE_MSIX_VECTOR, 2)).toBe(2)
    await driver.request(0, echo)
    expect(driver.access.takeVectors()).toEqual([2])
  })

  it("one vector a queue, and all on one when the driver wants that", async () => {
    const { device, driver } = setup()
    await driver.start()
    await driver.request(0, echo)
    await driver.request(1, echo)
    device.context?.updateConfig(() => {})
    expect(driver.access.takeVectors()).toEqual([1, 2, 0])
    for (const queue of [0, 1]) {
      driver.selectQueue(queue)
      void driver.writeCommon(COMMON.QUEUE_MSIX_VECTOR, 2, 0)
    }
    await driver.request(1, echo)
    await driver.request(0, echo)
    expect(driver.access.takeVectors()).toEqual([0, 0])
  })

  it("vectors are gone after a reset, and that of a queue after its reset", async () => {
    const { driver } = setup({ queueReset: true })
    await driver.start({ features: ~FEATURE.RING_PACKED })
    await driver.resetQueue(0)
    const vectors = () => [0, 1].map((queue) => driver.readQueue(queue, COMMON.QUEUE_MSIX_VECTOR))
    expect(vectors()).toEqual([NO_VECTOR, 2])
    await driver.reset()
    expect(vectors()).toEqual([NO_VECTOR, NO_VECTOR])
    expect(driver.readCommon(COMMON.CONFIG_MSIX_VECTOR, 2)).toBe(NO_VECTOR)
  })

  it("without MSI-X: INTx from the first cause until the ISR status is read, which clears it", async () => {
    const { device, driver, interrupt, slot } = setup({ msix: false })
    const { bar, offset } = driver.structures.get(CAP.ISR_CFG)!
    await driver.start()
    await driver.request(0, echo)
    device.context?.updateConfig(() => {})
    expect([slot.intx, interrupt.count]).toEqual([true, 1])
    expect(slot.readBar(bar, offset + 1, 1)).toBe(0)
    expect(slot.readBar(bar, offset, 4)).toBe(3)
    expect([slot.intx, slot.readBar(bar, offset, 1)]).toEqual([false, 0])
    await driver.request(0, echo)
    expect([slot.intx, interrupt.count]).toEqual([true, 2])
    void slot.writeBar(bar, offset, 1, 0)
    expect(slot.readBar(bar, offset, 2)).toBe(1)
    await driver.request(0, echo)
    await driver.reset()
    expect([slot.intx, slot.readBar(bar, offset, 1)]).toEqual([false, 0])
  })

  it("with MSI-X the ISR status tells of configuration changes only (4.1.4.5.1)", async () => {
    const { device, driver, slot } = setup()
    const { bar, offset } = driver.structures.get(CAP.ISR_CFG)!
    await driver.start()
    await driver.request(0, echo)
    expect(slot.readBar(bar, offset, 1)).toBe(0)
    device.context?.updateConfig(() => {})
    expect(slot.readBar(bar, offset, 1)).toBe(2)
  })
})

describe("notifications (4.1.4.4)", () => {
  it("ring by their address, whatever is written there in 2 or 4 bytes", async () => {
    const { device, driver, transport } = setup()
    await driver.start()
    const notify = transport.bars[1]!.windows[2]!.device
    void notify.write(0, 2, 0)
    void notify.write(4, 4, 0x1234_0001)
    void notify.write(4, 2, 0)
    expect(device.calls.slice(1)).toEqual(["notify 0", "notify 1", "notify 1"])
    // What the driver uses in between is nothing.
    void notify.write(2, 2, 1)
    void notify.write(5, 1, 1)
    expect(device.calls).toHaveLength(4)
    expect(notify.read(0, 4)).toBe(0)
  })

  it("have a doorbell each, of any width", async () => {
    const { device, driver, transport, slot } = setup()
    await driver.start()
    const notify = transport.bars[1]!.windows[2]!.device
    if (!("doorbells" in notify)) throw new Error("no doorbells")
    expect(notify.doorbells.map(({ offset, length, datamatch }) => [offset, length, datamatch])).toEqual([
      [0, 0, undefined],
      [4, 0, undefined],
    ])
    const { exits } = slot.host
    driver.notify(1)
    // One exit to select the queue; the notification is none.
    expect([device.calls.at(-1), slot.host.exits - exits]).toEqual(["notify 1", 1])
    expect(transport.queues.map((queue) => queue?.counters.notifications)).toEqual([0, 1])
  })

  it("bad-input #4: of queues that are not there, not enabled or reset are ignored", async () => {
    const { device, driver, transport } = setup()
    const notify = transport.bars[1]!.windows[2]!.device
    void notify.write(0, 2, 0)
    await driver.start({ queues: 1 })
    for (const offset of [4, 8, 0x7fc]) void notify.write(offset, 2, 0)
    expect(device.calls).toEqual(["activate"])
    await driver.reset()
    void notify.write(0, 2, 0)
    expect(device.calls).toEqual(["activate", "reset"])
  })

  it("come later when they came while bus mastering was off", async () => {
    const { device, driver, slot } = setup()
    await driver.start()
    slot.busMaster = false
    driver.rings[1]!.add(echo)
    driver.kick(1)
    driver.notify(1)
    expect(device.calls).toEqual(["activate"])
    slot.busMaster = true
    expect(device.calls).toEqual(["activate", "notify 1"])
    slot.busMaster = false
    driver.notify(0)
    await driver.reset()
    await driver.start()
    slot.busMaster = true
    expect(device.calls).toEqual(["activate", "notify 1", "reset", "activate"])
  })

  const { VERSION_1, NOTIFICATION_DATA, NOTIF_CONFIG_DATA, RING_PACKED } = FEATURE
  it.each([0n, NOTIFICATION_DATA, NOTIF_CONFIG_DATA, NOTIFICATION_DATA | NOTIF_CONFIG_DATA])(
    "say the queue and, with VIRTIO_F_NOTIFICATION_DATA, where its next chain goes: feature bits %i",
    async (bits) => {
      for (const ring of [0n, RING_PACKED]) {
        const { driver, slot } = setup({ packed: true })
        const written: [size: number, value: number][] = []
        const writeBar = slot.writeBar.bind(slot)
        slot.writeBar = (bar, offset, size, value) => {
          if (offset >= 0x2000) written.push([size, value])
          return writeBar(bar, offset, size, value)
        }
        await driver.start({ features: VERSION_1 | ring | bits, queueSize: 8 })
        expect(driver.features).toBe(VERSION_1 | ring | bits)
        for (let i = 0; i < 11; i++) expect((await driver.request(1, echo)).written).toBe(1)
        // Chains of two descriptors: a packed ring is in its third lap.
        const next = ring === 0n ? 11 : (22 % 8) | 0x8000
        const last = (bits & NOTIFICATION_DATA) === 0n ? [2, 1] : [4, 1 + next * 0x1_0000]
        expect([written.length, written.at(-1)]).toEqual([11, last])
      }
    },
  )

  it("say a name of the queue that the driver reads with VIRTIO_F_NOTIF_CONFIG_DATA only", async () => {
    for (const bits of [0n, NOTIF_CONFIG_DATA]) {
      const { driver } = setup({ queueMaxSizes: [8, 8, 8] })
      await driver.begin()
      driver.selectQueue(1)
      expect(driver.readCommon(COMMON.QUEUE_NOTIF_CONFIG_DATA, 2)).toBe(0)
      driver.negotiate(VERSION_1 | bits)
      const names = [0, 1, 2, 3, 0xffff].map((queue) =>
        driver.readQueue(queue, COMMON.QUEUE_NOTIF_CONFIG_DATA),
      )
      expect(names).toEqual(bits === 0n ? [0, 0, 0, 0, 0] : [0, 1, 2, 0, 0])
      driver.selectQueue(1)
      void driver.writeCommon(COMMON.QUEUE_NOTIF_CONFIG_DATA, 2, 7)
      expect(driver.readCommon(COMMON.QUEUE_NOTIF_CONFIG_DATA, 2)).toBe(names[1])
    }
  })
})

describe("register page", () => {
  class FakePage implements RegisterPage {
    readonly view = new DataView(new SharedArrayBuffer(8192), 4096, 4096)
    readonly events: string[] = []
    hide(): void {
      this.events.push("hide")
    }
    show(): void {
      this.events.push("show")
    }
  }

  it("holds at any time what a read gives, and is hidden while the configuration changes", async () => {
    const { device, driver, transport, slot } = setup({ pages: false })
    const registers = transport.bars[1]!.windows[0]!.device
    if (!("setRegisterPage" in registers)) throw new Error("no register page")
    const page = new FakePage()
    const same = (): void => {
      for (let offset = 0; offset < 4096; offset += 4) {
        expect([offset, page.view.getUint32(offset, true)]).toEqual([offset, slot.readBar(4, offset, 4)])
      }
    }
    registers.setRegisterPage?.(page)
    same()
    await driver.start()
    same()
    driver.selectQueue(1)
    expect(page.view.getUint16(COMMON.QUEUE_SIZE, true)).toBe(8)
    driver.writeConfig(1, 0x55, 1)
    expect(page.view.getUint8(0x101)).toBe(0x55)
    expect(page.events).toEqual([])
    device.context?.updateConfig(() => {
      page.events.push("update")
      device.config[0] = 9
    })
    expect([page.events, page.view.getUint8(0x100)]).toEqual([["hide", "update", "show"], 9])
    device.context?.needsReset("a test")
    expect(page.view.getUint8(COMMON.DEVICE_STATUS)).toBe(STARTED | STATUS.DEVICE_NEEDS_RESET)
    same()
    await driver.reset()
    expect(page.view.getUint8(COMMON.DEVICE_STATUS)).toBe(0)
    same()
    registers.setRegisterPage?.(undefined)
    driver.addStatus(STATUS.ACKNOWLEDGE)
    expect([driver.status, page.view.getUint8(COMMON.DEVICE_STATUS)]).toEqual([1, 0])
  })
})

describe("reset of the function", () => {
  it("does what a reset by the status does, and ends when the device is quiet", async () => {
    const { device, driver, slot } = setup()
    await driver.start()
    let quiet = (): void => {}
    device.resetGate = new Promise((resolve) => {
      quiet = resolve
    })
    let complete = false
    const reset = Promise.resolve(slot.reset()).then(() => {
      complete = true
    })
    await new Promise((resolve) => setImmediate(resolve))
    expect([complete, driver.status]).toEqual([false, STARTED])
    quiet()
    await reset
    expect([driver.status, device.calls]).toEqual([0, ["activate", "reset"]])
    expect(driver.readCommon(COMMON.CONFIG_MSIX_VECTOR, 2)).toBe(NO_VECTOR)
    // With nothing to reset it is over at once.
    expect(slot.reset()).toBeUndefined()
  })

  it("takes INTx back", async () => {
    const { driver, slot } = setup({ msix: false })
    await driver.start()
    await driver.request(0, echo)
    await slot.reset()
    expect(slot.intx).toBe(false)
  })
})

describe("the host's side", () => {
  it("hears why a device needs a reset, and of a device's bugs", async () => {
    const { device, driver, transport, reasons, errors } = setup()
    await driver.start()
    driver.rings[1]!.setAvailIndex(1000)
    driver.notify(1)
    expect(reasons).toEqual([expect.stringMatching(/^queue 1: avail.idx is 1000 ahead/)])
    expect([transport.needsResetReason, transport.status]).toEqual([
      reasons[0],
      STARTED | STATUS.DEVICE_NEEDS_RESET,
    ])
    device.failAt = "reset"
    await driver.writeStatus(0)
    expect(errors.map((error) => error.message)).toEqual(["echo0 failed in reset: a bug in reset"])
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
})
