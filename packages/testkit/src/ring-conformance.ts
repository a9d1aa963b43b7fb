import type { TestRunner } from "./conformance/fixture.js"
import type { RingKind } from "./conformance/raw-ring.js"
import { type MakeQueue, queueBench } from "./conformance/ring-bench.js"
import { chainTests } from "./conformance/ring-chains.js"
import { eventTests } from "./conformance/ring-events.js"
import { layoutTests, type MakeQueueBench } from "./conformance/ring-layouts.js"
import { orderTests } from "./conformance/ring-order.js"
import { placeTests } from "./conformance/ring-places.js"
import { closeTests, dirtyTests, stateTests, type WrongStates } from "./conformance/ring-state.js"
import { trustTests } from "./conformance/ring-trust.js"

export interface RingConformanceOptions {
  /** Makes the device side of a queue: `createQueue` of @virtkit/virtqueue, or another of that kind. */
  setup: MakeQueue
  /** Kinds of ring that it has. Default: both. */
  readonly kinds?: readonly RingKind[]
  /** Whether it has VIRTIO_F_IN_ORDER. Default true. */
  readonly inOrder?: boolean
  /** Further states that it has to refuse. */
  readonly wrongStates?: WrongStates
}

/**
 * The rules of virtio 1.3 for the device side of a virtqueue (2.7 split, 2.8 packed), against drivers that keep all of
 * them in every legal way and drivers that break each.
 */
export function ringConformance(runner: TestRunner, options: RingConformanceOptions): void {
  const { setup, kinds = ["split", "packed"], wrongStates = () => [] } = options
  for (const kind of kinds) {
    const make: MakeQueueBench = (wanted) => queueBench(setup, { kind, ...wanted })
    const bench = async (wanted: Parameters<MakeQueueBench>[0]) => make(wanted)
    runner.describe(`ring conformance: ${kind} (${kind === "split" ? 2.7 : 2.8})`, () => {
      runner.describe("layouts", () => layoutTests(runner, kind, make))
      runner.describe("notifications", () => eventTests(runner, kind, make))
      if (options.inOrder ?? true) runner.describe("in order", () => orderTests(runner, kind, make))
      runner.describe("chains that break a rule", () => chainTests(runner, bench, { kind }))
      runner.describe("rings that break a rule", () => trustTests(runner, bench, { kind }))
      runner.describe("rings in impossible places", () => placeTests(runner, kind, setup))
      runner.describe("state", () => stateTests(runner, kind, make, wrongStates))
      runner.describe("after a reset", () => closeTests(runner, make))
      runner.describe("dirty tracking", () => dirtyTests(runner, make))
    })
  }
}
