import { FakeInterrupt, MmioDriver, TestMemory } from "@virtkit/testkit"
import { VirtioMmio } from "@virtkit/virtio"
import { loopbackBackend, type NetDevice, net } from "@virtkit/virtio-net"
import { expect, it } from "vitest"
import { F, frame, GUEST_MAC, header, macBytes, RX, received, recorder, TX } from "./helpers.js"

function machine(
  device: NetDevice,
  memory = new TestMemory({ regions: [{ guestAddress: 0, size: 4 << 20 }] }),
) {
  const errors: unknown[] = []
  const transport = new VirtioMmio({
    device,
    memory,
    interrupt: new FakeInterrupt(),
    onError: (error) => errors.push(error),
    onNeedsReset: (reason) => errors.push(reason),
  })
  return { memory, transport, driver: new MmioDriver({ device: transport, memory }), errors }
}

/** Offers buffers, sends one frame, gives back what was received. */
async function loop(driver: MmioDriver, bytes: Uint8Array, queue = TX) {
  const buffer = driver.rings[queue - 1]!.add({ writable: [2000] })
  driver.kick(queue - 1)
  await driver.request(queue, { readable: [header(), bytes], writable: [] })
  driver.rings[queue - 1]!.reap()
  return received(buffer).bytes
}

it("works behind virtio-mmio: configuration, frames, commands, link", async () => {
  const device = await net({ backend: loopbackBackend(), mac: GUEST_MAC, mtu: 1400, queues: 2 })
  const { driver, errors } = machine(device)
  await driver.start()
  expect(driver.features & (F.MAC | F.MRG_RXBUF | F.MQ | F.STATUS)).toBe(
    F.MAC | F.MRG_RXBUF | F.MQ | F.STATUS,
  )
  expect(macBytes(GUEST_MAC).every((byte, i) => driver.readConfigAt(i, 1) === byte)).toBe(true)
  expect(driver.readConfigAt(10, 2)).toBe(1400)
  expect(await loop(driver, frame(500, 7))).toEqual(frame(500, 7))
  const pairs = await driver.request(4, { readable: [Uint8Array.of(4, 0, 2, 0)], writable: [1] })
  expect(pairs.data![0]).toBe(0)
  expect(await loop(driver, frame(501, 8), 3)).toEqual(frame(501, 8))
  driver.handleInterrupt()
  device.setLink(false)
  expect(driver.handleInterrupt().configChange).toBe(true)
  expect(driver.readConfigAt(6, 2)).toBe(0)
  expect(errors).toEqual([])
})

it("bad-input #34: a storm of resets and notifications leaves it working", async () => {
  const device = await net({ backend: loopbackBackend() })
  const { driver, errors } = machine(device)
  for (let round = 0; round < 50; round++) {
    await driver.start()
    for (let i = 0; i < 3; i++) {
      driver.rings[RX]!.add({ writable: [2000] })
      driver.rings[TX]!.add({ readable: [header(), frame()] })
    }
    for (let i = 0; i < 30; i++) driver.notify(i % 4)
    await driver.reset()
  }
  await driver.start()
  expect(await loop(driver, frame())).toEqual(frame())
  expect(errors).toEqual([])
})

it("moves to another host with buffers in flight, which are filled there", async () => {
  const there = recorder()
  const from = recorder()
  const one = machine(await net({ backend: from, mac: GUEST_MAC }))
  await one.driver.start()
  const chains = [1, 2].map(() => one.driver.rings[RX]!.add({ writable: [2000] }))
  one.driver.kick(RX)
  expect(from.session!.buffers(0)!.refill()).toBe(true)
  await one.driver.request(2, { readable: [Uint8Array.of(0, 0, 0)], writable: [1] })
  const saved = structuredClone(one.transport.state())

  const device = await net({ backend: there, mac: "52:54:00:00:00:0a" })
  const two = machine(device, one.memory)
  two.transport.restore(saved)
  expect(device.mac).toBe(GUEST_MAC)
  expect(there.offloads).toBe(from.offloads)
  expect(device.config[6]).toBe(3)
  expect(there.session!.receive(0, frame(60, 1, { to: "52:54:00:00:00:77" }))).toBe(true)
  for (const seed of [1, 2]) expect(there.session!.receive(0, frame(60, seed))).toBe(true)
  there.session!.received(0)
  one.driver.rings[RX]!.reap()
  expect(chains.map((chain) => received(chain).bytes)).toEqual([frame(60, 1), frame(60, 2)])
  expect(device.counters.rxFiltered).toBe(1)
  expect(two.errors).toEqual([])
})

it("resets a queue and goes on with it (RING_RESET)", async () => {
  const backend = recorder()
  const device = await net({ backend, mac: GUEST_MAC })
  const { driver, errors } = machine(device)
  const RING_RESET = 1n << 40n
  await driver.start({ features: driver.offeredFeatures() & ~(1n << 34n) })
  expect(driver.features & RING_RESET).toBe(RING_RESET)
  const old = driver.rings[RX]!.add({ writable: [2000] })
  driver.kick(RX)
  backend.session!.buffers(0)!.refill()
  await driver.resetQueue(RX)
  expect(backend.session!.receive(0, frame())).toBe(true)
  driver.setupQueue(RX, 8)
  const fresh = driver.rings[RX]!.add({ writable: [2000] })
  driver.kick(RX)
  expect(backend.session!.receive(0, frame(60, 3))).toBe(true)
  backend.session!.received(0)
  driver.rings[RX]!.reap()
  expect(old.written).toBeUndefined()
  expect(received(fresh).bytes).toEqual(frame(60, 3))
  expect(device.counters.rxDropped).toBe(1)
  expect(errors).toEqual([])
})
