import { FakeInterrupt, MmioDriver, TestMemory } from "@virtkit/testkit"
import { VirtioMmio } from "@virtkit/virtio"
import { rng } from "@virtkit/virtio-rng"
import { expect, it } from "vitest"

it("fills requests behind virtio-mmio, over resets in a storm (bad-input #34), and needs one when its source fails", async () => {
  const memory = new TestMemory({ regions: [{ guestAddress: 0, size: 16 << 20 }] })
  const interrupt = new FakeInterrupt()
  const reasons: string[] = []
  let broken = false
  const device = rng({
    source: (buffer) => {
      if (broken) throw new Error("no entropy")
      buffer.fill(0x5a)
    },
  })
  const transport = new VirtioMmio({
    device,
    memory,
    interrupt,
    onNeedsReset: (reason) => reasons.push(reason),
    onError: (error) => reasons.push(String(error)),
  })
  const driver = new MmioDriver({ device: transport, memory })
  for (let round = 0; round < 50; round++) {
    await driver.start()
    for (let i = 0; i < 10; i++) driver.rings[0]!.add({ writable: [20_000] })
    for (let i = 0; i < 20; i++) driver.kick(0)
  }
  await driver.start()
  const chain = await driver.request(0, { writable: [3, 40] })
  expect([...chain.data!]).toEqual(Array<number>(43).fill(0x5a))
  expect(driver.handleInterrupt().usedBuffer).toBe(true)
  expect(reasons).toEqual([])

  broken = true
  driver.rings[0]!.add({ writable: [8] })
  driver.kick(0)
  expect(driver.status & 0x40).toBe(0x40)
  expect(driver.handleInterrupt().configChange).toBe(true)
  expect(reasons).toEqual(["rng0: the entropy source failed: Error: no entropy"])
  broken = false
  await driver.start()
  expect((await driver.request(0, { writable: [8] })).written).toBe(8)
  await transport.close()
})
