import { configTests } from "./conformance/config.js"
import { featureTests } from "./conformance/features.js"
import { fixtures, type TestRunner, type TransportConformanceOptions } from "./conformance/fixture.js"
import { queueResetTests } from "./conformance/queue-reset.js"
import { queueTests } from "./conformance/queues.js"
import type { RingKind } from "./conformance/raw-ring.js"
import { resetTests } from "./conformance/reset.js"
import { transportBench } from "./conformance/ring-bench.js"
import { chainTests } from "./conformance/ring-chains.js"
import { trustTests } from "./conformance/ring-trust.js"
import { statusTests } from "./conformance/status.js"

/**
 * The rules of virtio 1.3 that every transport keeps, whatever its registers: status, features, queues, configuration
 * space, notifications and reset, with drivers that keep the rules and drivers that do not, and with both kinds of ring.
 */
export function transportConformance(runner: TestRunner, options: TransportConformanceOptions): void {
  const kinds: RingKind[] = (options.packed ?? true) ? ["split", "packed"] : ["split"]
  runner.describe("transport conformance", () => {
    const make = fixtures(options)
    runner.describe("device status (2.1, 3.1.1)", () => statusTests(runner, make))
    runner.describe("features (2.2)", () => featureTests(runner, make))
    runner.describe("configuration space (2.5)", () => configTests(runner, make))
    for (const kind of kinds) {
      const common = { kind }
      const makeRing = fixtures(options, kind)
      runner.describe(`${kind} rings`, () => {
        runner.describe("queues (2.6)", () => queueTests(runner, makeRing))
        runner.describe("reset of a queue (2.6.1)", () => queueResetTests(runner, makeRing))
        runner.describe("reset (2.4)", () => resetTests(runner, makeRing))
        const bench: Parameters<typeof chainTests>[1] = (wanted) => transportBench(options, wanted)
        runner.describe("chains that break a rule", () => chainTests(runner, bench, common))
        runner.describe("rings that break a rule", () => trustTests(runner, bench, common))
      })
    }
  })
}
