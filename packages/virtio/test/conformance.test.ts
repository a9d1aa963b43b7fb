import { FakeInterrupt, MmioDriver, transportConformance } from "@virtkit/testkit"
import { VirtioMmio } from "@virtkit/virtio"
import { describe, expect, it } from "vitest"

describe("VirtioMmio", () => {
  transportConformance(
    { describe, it, expect },
    {
      setup: (device, options) => {
        const interrupt = new FakeInterrupt()
        const transport = new VirtioMmio({ device, interrupt, ...options })
        return { driver: new MmioDriver({ device: transport, memory: options.memory }), interrupt }
      },
    },
  )
})
