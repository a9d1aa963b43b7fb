import { RestoreError, StateError } from "@virtkit/interface"
import { VIRTIO_PCI_COMMON as COMMON, EchoDevice, FEATURE, STATUS } from "@virtkit/testkit"
import type { VirtioPciState } from "@virtkit/virtio-pci"
import { describe, expect, it } from "vitest"
import { type Setup, setup } from "./setup.js"

const STARTED = STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.FEATURES_OK | STATUS.DRIVER_OK

/** The same machine with a new transport and device, in the given state. */
function resume(from: Setup, state: unknown, msix = true): Setup {
  const resumed = setup({ device: new EchoDevice(), memory: from.memory, msix })
  resumed.transport.restore(structuredClone(state))
  return resumed
}

describe("state and restore", () => {
  it("a running device goes on where it was, vectors and chains in flight included", async () => {
    const first = setup()
    const { device, driver, transport } = first
    await driver.start()
    await driver.request(0, { readable: [Uint8Array.of(1)], writable: [1] })
    device.context?.updateConfig(() => {
      device.config[0] = 0x33
    })
    device.holds = true
    const ring = driver.rings[0]!
    const held = ring.add({ readable: [Uint8Array.of(7)], writable: [1] })
    driver.kick(0)
    driver.selectQueue(1)
    void driver.writeCommon(COMMON.DEVICE_FEATURE_SELECT, 4, 1)

    const resumed = resume(first, transport.state())
    expect(resumed.device.calls).toEqual(["restore", "activate", "notify 0"])
    expect([ring.reap(), held.data?.[0]]).toEqual([[held], 7])
    expect(resumed.slot.takeVectors()).toEqual([1])
    const { driver: reader } = resumed
    expect(reader.status).toBe(STARTED)
    expect([reader.readCommon(COMMON.QUEUE_SELECT, 2), reader.readCommon(COMMON.QUEUE_SIZE, 2)]).toEqual([
      1, 8,
    ])
    expect(reader.readCommon(COMMON.QUEUE_MSIX_VECTOR, 2)).toBe(2)
    expect(BigInt(reader.readCommon(COMMON.DEVICE_FEATURE, 4)) << 32n).toBe(
      FEATURE.VERSION_1 | FEATURE.NOTIFICATION_DATA | FEATURE.NOTIF_CONFIG_DATA,
    )
    expect([reader.readConfigAt(0, 1), reader.configGeneration]).toEqual([0x33, 1])
    resumed.device.context?.updateConfig(() => {})
    expect(resumed.slot.takeVectors()).toEqual([0])
    await reader.writeStatus(0)
    expect(resumed.device.calls.at(-1)).toBe("reset")
  })

  it("INTx is asserted again while the ISR status was not read", async () => {
    const first = setup({ msix: false })
    await first.driver.start()
    await first.driver.request(0, { readable: [Uint8Array.of(1)], writable: [1] })
    const { slot, driver } = resume(first, first.transport.state(), false)
    expect(slot.intx).toBe(true)
    expect(driver.handleInterrupt()).toEqual({ usedBuffer: true, configChange: false })
    expect(slot.intx).toBe(false)
  })

  it("is the same state again", async () => {
    const first = setup()
    await first.driver.start()
    first.device.context?.updateConfig(() => {})
    const saved = first.transport.state()
    expect([saved.isr, saved.configVector, saved.queueVectors]).toEqual([2, 0, [1, 2]])
    expect(resume(first, saved).transport.state()).toEqual(saved)
  })

  it("is not taken during a reset, of one queue neither", async () => {
    const { device, driver, transport } = setup({ queueReset: true })
    await driver.start({ features: ~FEATURE.RING_PACKED })
    const saved = transport.state()
    expect(() => transport.restore(saved)).toThrow(StateError)
    let quiet = (): void => {}
    device.resetGate = new Promise((resolve) => {
      quiet = resolve
    })
    const reset = driver.writeQueueReset(0)
    expect(() => transport.state()).toThrow(StateError)
    quiet()
    await reset
    expect(transport.state().transport.queues[0]?.ring).toBe(null)
  })

  it("bad-input #31: a state that does not fit is refused and changes nothing", async () => {
    const first = setup()
    await first.driver.start()
    const good: VirtioPciState = first.transport.state()
    const wrong: unknown[] = [
      undefined,
      null,
      7,
      "state",
      {},
      { ...good, version: 2 },
      { ...good, kind: "mmio" },
      { ...good, deviceFeatureSelect: -1 },
      { ...good, driverFeatureSelect: 2 ** 32 },
      { ...good, queueSelect: 0x10000 },
      { ...good, isr: 4 },
      { ...good, isr: undefined },
      { ...good, configVector: 3 },
      { ...good, configVector: "0" },
      { ...good, configVector: -1 },
      { ...good, queueVectors: [1] },
      { ...good, queueVectors: [1, 2, 0] },
      { ...good, queueVectors: [1, 0.5] },
      { ...good, queueVectors: [1, 0x800] },
      { ...good, queueVectors: null },
      { ...good, transport: undefined },
      { ...good, transport: { ...good.transport, status: 0x100 } },
      { ...good, transport: { ...good.transport, queues: [] } },
      { ...good, transport: { ...good.transport, driverFeatures: 1n << 60n } },
      { ...good, transport: { ...good.transport, device: {} } },
    ]
    for (const [index, state] of wrong.entries()) {
      const { device, transport } = setup()
      const before = transport.state()
      expect(() => transport.restore(state), `state ${index}`).toThrow(RestoreError)
      expect(transport.state()).toEqual(before)
      expect(device.calls.includes("activate")).toBe(false)
    }
  })
})
