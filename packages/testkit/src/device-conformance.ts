import type { VirtioDevice } from "@virtkit/interface"
import { deviceStateTests, identityTests, lifeTests, type WithDevice } from "./conformance/device-basics.js"
import { type DeviceBenchOptions, deviceBench } from "./conformance/device-bench.js"
import { deviceRingTests } from "./conformance/device-rings.js"
import type { TestRunner } from "./conformance/fixture.js"
import type { RingKind } from "./conformance/raw-ring.js"

export interface DeviceConformanceOptions extends DeviceBenchOptions {
  /** A device, freshly made of the same options each time. The suite closes it. */
  setup(): VirtioDevice | Promise<VirtioDevice>
  /** Whether it can be saved at all: `state` throws otherwise. Default true. */
  saves?: boolean
}

/**
 * What every virtio device does, whatever it is for, behind a transport and with both kinds of ring: features,
 * configuration space, resets, states, and drivers that put anything on its queues.
 */
export function deviceConformance(runner: TestRunner, options: DeviceConformanceOptions): void {
  for (const kind of ["split", "packed"] as const) {
    const withDevice = deviceRunner(runner, options, kind)
    runner.describe(`device conformance, ${kind} rings (${kind === "split" ? 2.7 : 2.8})`, () => {
      if (kind === "split") {
        runner.describe("identity and configuration", () => identityTests(runner, withDevice))
        if (options.saves !== false)
          runner.describe("state", () => deviceStateTests(runner, withDevice, options))
      }
      runner.describe("life", () => lifeTests(runner, withDevice))
      runner.describe("queues", () => deviceRingTests(runner, kind, withDevice, options))
    })
  }
}

function deviceRunner({ expect }: TestRunner, options: DeviceConformanceOptions, kind: RingKind): WithDevice {
  return async (body) => {
    const bench = deviceBench(options, await options.setup(), kind)
    try {
      await body(bench)
      expect(bench.errors).toEqual([])
    } finally {
      await bench.transport.close()
    }
  }
}
