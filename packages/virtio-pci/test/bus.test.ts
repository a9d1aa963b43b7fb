import type { VirtioDevice } from "@virtkit/interface"
import {
  VIRTIO_PCI_CAP as CAP,
  VIRTIO_PCI_COMMON as COMMON,
  EchoDevice,
  FEATURE,
  PCI,
  PCI_CAPABILITY,
  PCI_COMMAND,
  PCI_EXPRESS,
  transportConformance,
} from "@virtkit/testkit"
import { describe, expect, it } from "vitest"
import { type BusMachineOptions, busMachine } from "./bus-machine.js"

const echo = { readable: [Uint8Array.of(1)], writable: [1] }

for (const options of [
  { msix: true },
  { msix: false, config: "conf1", pages: false },
  { msix: true, port: true },
] satisfies BusMachineOptions[]) {
  describe(`on a PCI bus: ${JSON.stringify(options)}`, () => {
    transportConformance(
      { describe, it, expect },
      {
        features: FEATURE.NOTIFICATION_DATA | FEATURE.NOTIF_CONFIG_DATA,
        setup: (device: VirtioDevice, setup) => busMachine(device, { ...options, ...setup }),
      },
    )
  })
}

describe("on a PCI bus", () => {
  it("is what lspci would call a virtio device, with BARs 1 and 4", () => {
    const { pci, at } = busMachine(new EchoDevice())
    expect(pci.readConfig(at, PCI.VENDOR_ID, 4)).toBe(0x106a_1af4)
    expect(pci.readConfig(at, PCI.REVISION_ID, 4)).toBe(0x00ff_0001)
    expect(pci.readConfig(at, PCI.SUBSYSTEM_VENDOR_ID, 4)).toBe(0x1100_1af4)
    expect(pci.readConfig(at, PCI.INTERRUPT_PIN, 1)).toBe(1)
    expect(
      pci.bars(at).map(({ index, kind, size, prefetchable }) => [index, kind, size, prefetchable]),
    ).toEqual([
      [1, "memory32", 8192, false],
      [4, "memory64", 16384, true],
    ])
    expect(pci.capabilities(at).map(({ id }) => id)).toEqual([0x10, 0x11, 9, 9, 9, 9, 9])
  })

  it("register reads and notifications cost no exit, in steady state nothing does", async () => {
    const { driver, host, at, pci } = busMachine(new EchoDevice())
    await driver.start()
    driver.selectQueue(1)
    const notify = driver.structures.get(CAP.NOTIFY_CFG)!
    const doorbell = pci.barAddress(at, notify.bar) + notify.offset + 4
    const { exits } = host
    for (let i = 0; i < 10; i++) {
      const ring = driver.rings[1]!
      ring.add(echo)
      ring.publish()
      void host.write("memory", doorbell, 2, 1)
      expect(ring.reap()).toHaveLength(1)
      driver.readCommon(COMMON.QUEUE_SIZE, 2)
      driver.readConfigAt(0, 4)
    }
    expect([host.exits - exits, driver.handleInterrupt().usedBuffer]).toEqual([0, true])
  })

  it("a masked vector is delivered when it is unmasked", async () => {
    const { driver, pci, at, interrupt } = busMachine(new EchoDevice())
    await driver.start()
    pci.maskMsix(at, 1, true)
    await driver.request(0, echo)
    expect(interrupt.count).toBe(0)
    pci.maskMsix(at, 1, false)
    expect([interrupt.count, driver.handleInterrupt()]).toEqual([
      1,
      { usedBuffer: true, configChange: false },
    ])
  })

  it("goes on when the guest moves its BAR", async () => {
    const { driver, pci, at } = busMachine(new EchoDevice())
    await driver.start()
    const bar = pci.bars(at).find(({ index }) => index === 4)!
    pci.setBar(at, bar, bar.address + 0x10_0000)
    expect((await driver.request(0, echo)).written).toBe(1)
    expect(driver.readConfigAt(0, 1)).toBe(1)
  })

  it("bad-input #7: the window in configuration space works through ECAM and ports, without decoding, and only while used", async () => {
    for (const config of ["ecam", "conf1"] as const) {
      const { driver, pci, at, host, found } = busMachine(new EchoDevice(), { config })
      void pci.command(at, 0, PCI_COMMAND.MEMORY)
      expect(driver.readCommon(COMMON.NUM_QUEUES, 2)).toBe(0xffff)
      expect(driver.readWindow(4, COMMON.NUM_QUEUES, 2)).toBe(2)
      await driver.writeWindow(4, COMMON.DEVICE_STATUS, 1, 1)
      expect(driver.readWindow(4, COMMON.DEVICE_STATUS, 1)).toBe(1)
      expect(driver.readWindow(1, 0, 4)).toBe(1)
      const { capability } = driver.structures.get(CAP.PCI_CFG)!
      void found.writeConfig(capability + CAP.LENGTH, 4, 0)
      const { exits } = host
      found.readConfig(capability + CAP.PCI_CFG_DATA, 4)
      if (config === "ecam") expect(host.exits).toBe(exits)
    }
  })

  it("a function-level reset is a reset of the device, which the vCPU waits for", async () => {
    const device = new EchoDevice()
    const { driver, pci, at, transport } = busMachine(device)
    await driver.start()
    let quiet = (): void => {}
    device.resetGate = new Promise((resolve) => {
      quiet = resolve
    })
    const control = pci.capability(at, PCI_CAPABILITY.EXPRESS) + PCI_EXPRESS.DEVICE_CONTROL
    let complete = false
    const reset = Promise.resolve(pci.writeConfig(at, control, 2, PCI_EXPRESS.DEVICE_CONTROL_FLR)).then(
      () => {
        complete = true
      },
    )
    await new Promise((resolve) => setImmediate(resolve))
    expect(complete).toBe(false)
    quiet()
    await reset
    expect([transport.status, device.calls.at(-1)]).toEqual([0, "reset"])
    expect(pci.readConfig(at, PCI.COMMAND, 2)).toBe(0)
  })

  it("moves with its bus: state of all of it, with the window in use", async () => {
    const from = busMachine(new EchoDevice())
    await from.driver.start()
    expect(from.driver.readWindow(4, COMMON.DEVICE_STATUS, 1)).toBe(15)
    const saved = structuredClone(from.bus.state())
    const device = new EchoDevice()
    const to = busMachine(device)
    for (const { guestAddress, size } of from.memory.regions) {
      const bytes = new Uint8Array(size)
      from.memory.read(guestAddress, bytes)
      to.memory.write(guestAddress, bytes)
    }
    to.bus.restore(saved)
    expect(device.calls).toEqual(["restore", "activate"])
    expect(to.bus.state()).toEqual(saved)
    const { capability } = to.driver.structures.get(CAP.PCI_CFG)!
    device.context?.updateConfig(() => {})
    expect(to.interrupt.count).toBe(1)
    expect(to.found.readConfig(capability + CAP.PCI_CFG_DATA, 1)).toBe(15)
    await to.driver.writeStatus(0)
    expect(to.found.readConfig(capability + CAP.PCI_CFG_DATA, 1)).toBe(0)
  })

  it("closes with the bus", async () => {
    const device = new EchoDevice()
    const { driver, bus, host } = busMachine(device)
    await driver.start()
    await bus.close()
    expect([device.calls.at(-1), host.openMsis.length]).toEqual(["close", 0])
  })
})
