import { RestoreError, StateError } from "@virtkit/interface"
import { EchoDevice, MMIO, STATUS } from "@virtkit/testkit"
import { VirtioMmio, type VirtioMmioState } from "@virtkit/virtio"
import { describe, expect, it } from "vitest"
import { type Setup, setup } from "./setup.js"

const STARTED = STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.FEATURES_OK | STATUS.DRIVER_OK

/** The same machine with a new transport and device, in the given state. */
function resume(from: Setup, state: unknown): { device: EchoDevice; transport: VirtioMmio } {
  const device = new EchoDevice()
  const { memory, interrupt } = from
  const transport = new VirtioMmio({ device, memory, interrupt })
  transport.restore(structuredClone(state))
  return { device, transport }
}

describe("state and restore", () => {
  it("a running device goes on where it was, chains in flight included", async () => {
    const first = setup()
    const { device, driver, transport } = first
    await driver.start()
    await driver.request(0, { readable: [Uint8Array.of(1)], writable: [1] })
    device.context?.updateConfig(() => {
      device.config[0] = 0x33
    })
    driver.handleInterrupt()
    device.holds = true
    const ring = driver.rings[0]!
    const held = ring.add({ readable: [Uint8Array.of(7)], writable: [1] })
    driver.kick(0)
    const late = ring.add({ readable: [Uint8Array.of(8)], writable: [1] })
    ring.publish()
    void driver.write32(MMIO.QUEUE_SEL, 1)

    const saved = transport.state()
    const resumed = resume(first, saved)
    expect(resumed.device.calls).toEqual(["restore", "activate", "notify 0"])
    expect(ring.reap()).toEqual([held, late])
    expect([held.data?.[0], late.data?.[0]]).toEqual([7, 8])
    expect(resumed.transport.read(MMIO.STATUS, 4)).toBe(STARTED)
    expect(resumed.transport.read(MMIO.QUEUE_SIZE_MAX, 4)).toBe(8)
    expect(resumed.transport.read(MMIO.CONFIG, 1)).toBe(0x33)
    expect(resumed.transport.read(MMIO.CONFIG_GENERATION, 4)).toBe(1)
    expect(resumed.transport.read(MMIO.INTERRUPT_STATUS, 4)).toBe(1)
    await resumed.transport.write(MMIO.STATUS, 4, 0)
    expect(resumed.device.calls.at(-1)).toBe("reset")
  })

  it("a state taken in the middle of negotiation goes on too", async () => {
    const first = setup()
    await first.driver.begin()
    first.driver.negotiate()
    first.driver.setupQueue(0, 4)
    const { device, transport } = resume(first, first.transport.state())
    expect(device.calls).toEqual(["restore"])
    void transport.write(MMIO.STATUS, 4, STARTED)
    expect(device.calls).toEqual(["restore", "activate"])
    expect(device.context?.features).toBe(first.driver.features)
    expect(device.context?.queues.map((queue) => queue?.size)).toEqual([4, undefined])
  })

  it("is the same state again", async () => {
    const first = setup()
    await first.driver.start()
    first.device.context?.updateConfig(() => {})
    const saved = first.transport.state()
    expect(saved.interruptStatus).toBe(2)
    expect(resume(first, saved).transport.state()).toEqual(saved)
  })

  it("a device that needs a reset is not activated, and is reset when the driver says so", async () => {
    const first = setup()
    await first.driver.start()
    first.driver.rings[0]!.setAvailIndex(100)
    first.driver.notify(0)
    const { device, transport } = resume(first, first.transport.state())
    expect(device.calls).toEqual(["restore"])
    expect(transport.status).toBe(STARTED | STATUS.DEVICE_NEEDS_RESET)
    await transport.write(MMIO.STATUS, 4, 0)
    expect([device.calls, transport.status]).toEqual([["restore", "reset"], 0])
  })

  it("is not taken during a reset, and not put back into a device in use", async () => {
    const { device, driver, transport } = setup()
    await driver.start()
    const saved = transport.state()
    expect(() => transport.restore(saved)).toThrow(StateError)
    let quiet = (): void => {}
    device.resetGate = new Promise((resolve) => {
      quiet = resolve
    })
    const reset = driver.writeStatus(0)
    expect(() => transport.state()).toThrow(StateError)
    quiet()
    await reset
    transport.state()
  })

  it("bad-input #31: a state that does not fit is refused and changes nothing", async () => {
    const first = setup()
    await first.driver.start()
    const good = first.transport.state()
    const { transport: t } = good
    const withTransport = (change: object): object => ({ ...good, transport: { ...t, ...change } })
    const withQueue = (change: object): object => {
      return withTransport({ queues: [{ ...t.queues[0], ...change }, t.queues[1]] })
    }
    const wrong: unknown[] = [
      undefined,
      null,
      "state",
      {},
      { ...good, version: 2 },
      { ...good, kind: "pci" },
      { ...good, queueSelect: -1 },
      { ...good, interruptStatus: 4 },
      { ...good, transport: undefined },
      withTransport({ version: 0 }),
      withTransport({ deviceType: 2 }),
      withTransport({ status: STATUS.DRIVER_OK }),
      withTransport({ status: 0x100 }),
      withTransport({ status: "15" }),
      withTransport({ driverFeatures: 15 }),
      withTransport({ driverFeatures: -1n }),
      withTransport({ driverFeatures: 1n << 60n }),
      withTransport({ configGeneration: 2 ** 32 }),
      withTransport({ queues: [] }),
      withTransport({ queues: [t.queues[0], null] }),
      withTransport({ status: STATUS.ACKNOWLEDGE | STATUS.DRIVER }),
      withTransport({ device: { config: [1] } }),
      withQueue({ size: 0.5 }),
      withQueue({ size: 8 }),
      withQueue({ size: 1024 }),
      withQueue({ addressHalves: [0, 0] }),
      withQueue({ addressHalves: [1, 0, 0, 0, 0, 0] }),
      withQueue({ addressHalves: [2 ** 32, 0, 0, 0, 0, 0] }),
      withQueue({ ring: undefined }),
      withQueue({ ring: {} }),
      withQueue({ ring: { ...(t.queues[0]!.ring as object), nextAvail: 1e9 } }),
    ]
    for (const [index, state] of wrong.entries()) {
      const { device, transport } = setup()
      const before = transport.state()
      expect(() => transport.restore(state), `state ${index}`).toThrow(RestoreError)
      expect(transport.state()).toEqual(before)
      expect(device.calls.includes("activate")).toBe(false)
      transport.restore(resetState(good))
    }
  })
})

/** A state that fits any new device. */
function resetState(state: VirtioMmioState): VirtioMmioState {
  const { transport } = state
  const queues = transport.queues.map((queue) => ({
    ...queue,
    addressHalves: [0, 0, 0, 0, 0, 0],
    ring: null,
  }))
  return { ...state, transport: { ...transport, status: 0, driverFeatures: 0n, queues } }
}
