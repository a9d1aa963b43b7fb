import type { VirtioDevice } from "@virtkit/interface"
import type { DeviceBench, DeviceBenchOptions } from "./device-bench.js"
import { deviceBench } from "./device-bench.js"
import { STARTED, type TestRunner } from "./fixture.js"
import type { RingKind } from "./raw-ring.js"

/** The kinds of ring that each suite of a device type runs over. */
export const KINDS: readonly RingKind[] = ["split", "packed"]

/** Runs a test with a started device, then sees that it is well, never threw, and closes it. */
export async function withStarted<Device extends VirtioDevice>(
  { expect }: TestRunner,
  options: DeviceBenchOptions,
  device: Device,
  kind: RingKind,
  body: (bench: DeviceBench<Device>) => Promise<void>,
): Promise<void> {
  const bench = deviceBench(options, device, kind)
  try {
    await bench.driver.start({ queueSize: 64 })
    await body(bench)
    expect([bench.driver.status, bench.errors]).toEqual([STARTED, []])
  } finally {
    await bench.transport.close()
  }
}

/** A list cut into pieces of these lengths, the rest as one more. */
export function cut(bytes: Uint8Array, ...lengths: number[]): Uint8Array[] {
  const pieces: Uint8Array[] = []
  let at = 0
  for (const length of lengths) {
    pieces.push(bytes.subarray(at, at + length))
    at += length
  }
  if (at < bytes.length) pieces.push(bytes.subarray(at))
  return pieces
}
