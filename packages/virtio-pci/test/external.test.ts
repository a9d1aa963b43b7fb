import {
  VIRTIO_PCI_COMMON as COMMON,
  EchoDevice,
  type FakePciHost,
  FEATURE,
  PCI_COMMAND,
} from "@virtkit/testkit"
import { describe, expect, it } from "vitest"
import { busMachine } from "./bus-machine.js"

/** A device whose two queues somebody else works on; of the descriptors nobody looks at more than the numbers. */
class FarDevice extends EchoDevice {
  readonly external = { ringFeatures: FEATURE.RING_INDIRECT_DESC, kicks: [100, 101] }
}

const served = (host: FakePciHost) => host.msis.map(({ connected }) => connected)

describe("a device whose queues somebody else works on, on a PCI bus", () => {
  it("gets the addresses of the rings, which nobody here touches", async () => {
    const device = new FarDevice()
    const { driver, memory } = busMachine(device, { packed: true, inOrder: true })
    await driver.start({ queues: 1 })
    const { external } = device.context!
    const { desc, avail, used } = driver.rings[0]!
    expect(external![0]).toMatchObject({ size: 16, desc, avail, used })
    expect(external![1]).toBeUndefined()
    // Nothing of the rings but what whoever works on them can do, and no reset of single queues.
    expect(driver.features).toBe(
      1n |
        FEATURE.VERSION_1 |
        FEATURE.RING_INDIRECT_DESC |
        FEATURE.NOTIFICATION_DATA |
        FEATURE.NOTIF_CONFIG_DATA,
    )
    expect([memory.readUint16(used), memory.readUint16(used + 2)]).toEqual([0, 0])
    expect(device.calls).toEqual(["activate"])
  })

  it("has doorbells that ring elsewhere, and hears of writes that exit all the same", async () => {
    const device = new FarDevice()
    const { driver, transport } = busMachine(device)
    await driver.start()
    const windows = transport.bars.flatMap((bar) => bar.windows)
    const doorbells = windows.flatMap(({ device: each }) => ("doorbells" in each ? each.doorbells : []))
    expect(doorbells.map(({ fd }) => fd)).toEqual([100, 101])
    doorbells[1]!.ring()
    expect(device.calls).toEqual(["activate", "notify 1"])
  })

  it("interrupts by the kernel while MSI-X delivers, else by itself", async () => {
    const device = new FarDevice()
    const { driver, host, pci, at, interrupt } = busMachine(device)
    await driver.start()
    const log: string[] = []
    const [first, second] = device.context!.external!
    first!.connect(7, (direct) => log.push(`7 ${direct}`))
    second!.connect(8, (direct) => log.push(`8 ${direct}`))
    expect(log.splice(0)).toEqual(["7 true", "8 true"])
    expect(served(host).filter((fds) => fds.length > 0)).toEqual([[7], [8]])
    const { count } = interrupt
    first!.interrupt()
    expect(interrupt.count).toBe(count + 1)
    void pci.command(at, 0, PCI_COMMAND.BUS_MASTER)
    expect(log.splice(0)).toEqual(["7 false", "8 false"])
    void pci.command(at, PCI_COMMAND.BUS_MASTER)
    expect(log.splice(0)).toEqual(["7 true", "8 true"])
    // bad-input #27: whatever is signalled after a reset reaches nobody.
    await driver.reset()
    expect(served(host).flat()).toEqual([])
    first!.interrupt()
    first!.connect(9, () => log.push("late"))
    expect([interrupt.count, log, served(host).flat()]).toEqual([count + 1, [], []])
  })

  it("follows a driver that gives a queue another vector", async () => {
    const device = new FarDevice()
    const { driver, host } = busMachine(device)
    await driver.start()
    const log: boolean[] = []
    device.context!.external![0]!.connect(7, (direct) => log.push(direct))
    const before = served(host).findIndex((fds) => fds.includes(7))
    const vectorOf = (queue: number) => {
      driver.selectQueue(queue)
      return driver.readCommon(COMMON.QUEUE_MSIX_VECTOR, 2)
    }
    const choose = (queue: number, vector: number) => {
      driver.selectQueue(queue)
      void driver.writeCommon(COMMON.QUEUE_MSIX_VECTOR, 2, vector)
    }
    choose(0, vectorOf(1))
    expect(served(host).findIndex((fds) => fds.includes(7))).not.toBe(before)
    expect([log, served(host).flat()]).toEqual([[true, true], [7]])
    choose(0, 0xffff)
    expect([log, served(host).flat()]).toEqual([[true, true, false], []])
  })

  it("has one interrupt for a queue that was reset and enabled again", async () => {
    const device = new FarDevice({ queueReset: true })
    const { driver, host } = busMachine(device)
    driver.wantedFeatures |= FEATURE.RING_RESET
    await driver.start()
    const log: string[] = []
    device.context!.external![0]!.connect(7, (direct) => log.push(`first ${direct}`))
    await driver.resetQueue(0)
    expect([log.splice(0), served(host).flat()]).toEqual([["first true", "first false"], []])
    driver.setupQueue(0, 8)
    device.context!.external![0]!.connect(7, (direct) => log.push(`second ${direct}`))
    expect([log.at(-1), served(host).flat()]).toEqual(["second true", [7]])
    await driver.reset()
    expect(served(host).flat()).toEqual([])
  })

  it("interrupts by itself with INTx", async () => {
    const device = new FarDevice()
    const { driver, host } = busMachine(device, { msix: false })
    await driver.start()
    const log: boolean[] = []
    const [queue] = device.context!.external!
    queue!.connect(7, (direct) => log.push(direct))
    expect(log).toEqual([])
    queue!.interrupt()
    expect(driver.handleInterrupt().usedBuffer).toBe(true)
    expect(host.lineLog.length).toBeGreaterThan(0)
  })
})
