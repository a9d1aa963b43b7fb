import { FakeInterrupt, MmioDriver, TestMemory, transportConformance } from "@virtkit/testkit"
import { VirtioMmio } from "@virtkit/virtio"
import { describe, expect, it } from "vitest"

describe("VirtioMmio", () => {
  transportConformance(
    { describe, it, expect },
    {
      setup: (device) => {
        const memory = new TestMemory()
        const interrupt = new FakeInterrupt()
        const transport = new VirtioMmio({ device, memory, interrupt })
        return { driver: new MmioDriver({ device: transport, memory }), interrupt }
      },
    },
  )
})
