import { configTests } from "./conformance/config.js"
import { featureTests } from "./conformance/features.js"
import { fixtures, type TestRunner, type TransportConformanceOptions } from "./conformance/fixture.js"
import { queueResetTests } from "./conformance/queue-reset.js"
import { queueTests } from "./conformance/queues.js"
import { resetTests } from "./conformance/reset.js"
import { statusTests } from "./conformance/status.js"

/**
 * The rules of virtio 1.3 that every transport keeps, whatever its registers: status, features, queues, configuration
 * space, notifications and reset, with drivers that keep the rules and drivers that do not.
 */
export function transportConformance(runner: TestRunner, options: TransportConformanceOptions): void {
  const make = fixtures(options)
  runner.describe("transport conformance", () => {
    runner.describe("device status (2.1, 3.1.1)", () => statusTests(runner, make))
    runner.describe("features (2.2)", () => featureTests(runner, make))
    runner.describe("queues (2.6)", () => queueTests(runner, make))
    runner.describe("reset of a queue (2.6.1)", () => queueResetTests(runner, make))
    runner.describe("configuration space (2.5)", () => configTests(runner, make))
    runner.describe("reset (2.4)", () => resetTests(runner, make))
  })
}
