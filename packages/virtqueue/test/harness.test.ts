import { DeviceHarness, EchoDevice } from "@virtkit/testkit"
import { createQueue } from "@virtkit/virtqueue"
import { expect, it } from "vitest"

it("the testkit's harness runs a device on these queues with no transport", async () => {
  const device = new EchoDevice({ queueMaxSizes: [4, 2] })
  const harness = new DeviceHarness({ device, createQueue })
  harness.start()
  expect(harness.queues.map((queue) => queue.size)).toEqual([4, 2])
  for (let round = 0; round < 9; round++) {
    const chain = await harness.request(1, {
      readable: [Uint8Array.of(round)],
      writable: [1],
      layout: "indirect",
    })
    expect(chain.data?.[0]).toBe(round)
  }
  expect(harness.interrupts).toEqual([0, 9])
  device.context?.updateConfig(() => {})
  device.context?.needsReset("why")
  harness.ring(0).setAvailIndex(100)
  device.notify(0)
  expect([harness.configChanges, harness.needsReset.length]).toEqual([1, 2])
  let ran = false
  device.context?.defer(() => {
    ran = true
  })
  await harness.reset()
  await new Promise((resolve) => setImmediate(resolve))
  expect([ran, device.calls.at(-1)]).toEqual([false, "reset"])
})
