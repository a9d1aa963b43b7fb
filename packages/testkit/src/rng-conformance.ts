import type { VirtioDevice } from "@virtkit/interface"
import type { DeviceBench, DeviceBenchOptions } from "./conformance/device-bench.js"
import { KINDS, withStarted } from "./conformance/device-types.js"
import type { TestRunner } from "./conformance/fixture.js"

export interface RngConformanceOptions extends DeviceBenchOptions {
  /** An entropy device without a rate limit. */
  setup(): VirtioDevice | Promise<VirtioDevice>
}

/** What every entropy device does (5.4), with both kinds of ring. */
export function rngConformance(runner: TestRunner, options: RngConformanceOptions): void {
  const { describe, it, expect } = runner
  for (const kind of KINDS) {
    const run = async (body: (bench: DeviceBench) => Promise<void>): Promise<void> => {
      await withStarted(runner, options, await options.setup(), kind, body)
    }
    describe(`entropy device conformance, ${kind} rings (5.4)`, () => {
      it("5.4: it has one queue, no features and no configuration", () => {
        return run(async ({ device }) => {
          const { deviceType, queueMaxSizes, features, config } = device
          expect([deviceType, queueMaxSizes.length, features, config.length]).toEqual([4, 1, 0n, 0])
        })
      })

      it("5.4.6: what it fills is random, and of no two requests the same", () => {
        return run(async ({ driver }) => {
          const seen = new Set<string>()
          for (const layout of ["direct", "indirect", "mixed"] as const) {
            const { data, written } = await driver.request(0, { writable: [16, 48], layout })
            expect(written).toBe(64)
            const bytes = data ?? new Uint8Array(64)
            // 64 bytes have 57 different values on average; fewer than 32 come once in 10^20.
            expect(new Set(bytes).size > 32).toBe(true)
            seen.add(Buffer.from(bytes).toString("hex"))
          }
          expect(seen.size).toBe(3)
        })
      })

      it("5.4.6.1: one byte at least, and no more than there is room for", () => {
        return run(async ({ driver }) => {
          for (const room of [[1], [1, 1, 1], [3, 5000, 2], [100_000]]) {
            const total = room.reduce((sum, length) => sum + length, 0)
            const { written = 0 } = await driver.request(0, { writable: room })
            expect(written >= 1 && written <= total).toBe(true)
          }
        })
      })

      it("bad-input #21 (5.4.6): readable buffers are left alone, and a request of them alone goes back", () => {
        return run(async ({ driver }) => {
          const readable = [new Uint8Array(8).fill(7)]
          expect((await driver.request(0, { readable, writable: [4] })).written).toBe(4)
          expect((await driver.request(0, { readable })).written).toBe(0)
        })
      })
    })
  }
}
