import fc from "fast-check"
import type { Nic } from "./helpers.js"

export const MEMORY = 1 << 20
/** The rings are above, at addresses that random buffers may reach too. */
const descriptor = fc.record({
  address: fc.oneof(fc.nat(MEMORY), fc.constantFrom(0, MEMORY - 1, MEMORY, 2 ** 32, 2 ** 53)),
  length: fc.oneof(fc.nat(64), fc.nat(5000), fc.constantFrom(0, 11, 12, 26, 65_565, 2 ** 31, 2 ** 32 - 1)),
  flags: fc.nat(7),
  next: fc.nat(20),
})
/** What a hostile driver does next. */
const step = fc.record({
  queue: fc.nat(2),
  descriptors: fc.array(fc.tuple(fc.nat(15), descriptor), { maxLength: 6 }),
  heads: fc.array(fc.nat(16), { maxLength: 4 }),
  jump: fc.option(fc.nat(0xffff), { freq: 20 }),
  kick: fc.boolean(),
})

export const randomSteps = fc.array(step, { maxLength: 30 })

/** So many runs, or as many as VIRTKIT_TEST_STORM_SECONDS leaves time for. */
export function runsOrSeconds(numRuns: number): fc.Parameters<unknown> {
  const seconds = Number(process.env.VIRTKIT_TEST_STORM_SECONDS ?? 0)
  if (seconds === 0) return { numRuns }
  return { numRuns: 1e9, interruptAfterTimeLimit: seconds * 1000 }
}

/** Milliseconds that such a test may take. */
export const STORM_TIMEOUT: number = 20_000 + 2000 * Number(process.env.VIRTKIT_TEST_STORM_SECONDS ?? 0)

/** Carries steps out, `pause` after each of those that notify. */
export async function misbehave(
  n: Nic,
  steps: Parameters<Parameters<typeof randomSteps.map>[0]>[0],
  pause: () => Promise<void>,
): Promise<void> {
  for (const { queue, descriptors, heads, jump, kick } of steps) {
    const ring = n.harness.ring(queue)
    for (const [index, fields] of descriptors) ring.writeDescriptor(index, fields)
    for (const head of heads) ring.offerHead(head)
    if (jump !== null) ring.setAvailIndex(jump)
    ring.publish()
    if (!kick) continue
    n.device.notify(queue)
    await pause()
  }
}
