import type { VirtioDevice } from "@virtkit/interface"
import { EchoDevice, type EchoDeviceOptions } from "../echo-device.js"
import type { FakeInterrupt } from "../interrupt.js"
import { TestMemory } from "../memory.js"
import type { RingDriver } from "../ring-driver.js"
import { FEATURE, STATUS } from "../spec.js"
import type { TransportDriver } from "../transport-driver.js"
import type { RingKind } from "./raw-ring.js"

/** What the suites need of a test runner; vitest's and jest's functions fit. */
export interface TestRunner {
  describe(name: string, body: () => void): unknown
  it(name: string, body: () => void | Promise<void>): unknown
  expect(actual: unknown): { toBe(expected: unknown): void; toEqual(expected: unknown): void }
}

export interface TransportUnderTest {
  readonly driver: TransportDriver
  /** Signalled for used buffers and for configuration changes. */
  readonly interrupt: FakeInterrupt
}

/** How a suite wants a transport. */
export interface TransportSetup {
  /** Guest memory of device and driver. */
  readonly memory: TestMemory
  /** Whether it is to offer VIRTIO_F_RING_PACKED and VIRTIO_F_IN_ORDER. */
  readonly packed: boolean
  readonly inOrder: boolean
}

export interface TransportConformanceOptions {
  /** A transport around `device`, freshly made, with a driver on its other side. */
  setup(device: VirtioDevice, options: TransportSetup): TransportUnderTest
  /**
   * What it always offers besides VERSION_1, indirect descriptors, EVENT_IDX and what the device offers. Default:
   * nothing.
   */
  readonly features?: bigint
  /** Whether it can offer packed rings. Default true. */
  readonly packed?: boolean
}

/** What each test starts with: nothing has happened yet. */
export interface Fixture extends TransportUnderTest {
  readonly device: EchoDevice
  readonly transportFeatures: bigint
}

export type MakeFixture = (options?: EchoDeviceOptions) => Fixture

/** Fixtures whose driver takes rings of that kind. */
export function fixtures(options: TransportConformanceOptions, kind: RingKind = "split"): MakeFixture {
  return (deviceOptions) => {
    const device = new EchoDevice(deviceOptions)
    const packed = kind === "packed"
    const under = options.setup(device, { memory: new TestMemory(), packed, inOrder: false })
    if (packed) under.driver.wantedFeatures |= FEATURE.RING_PACKED
    const offered = packed ? FEATURE.RING_PACKED : 0n
    return { device, transportFeatures: (options.features ?? 0n) | offered, ...under }
  }
}

/** The status of a device that was started and is well. */
export const STARTED: number = STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.FEATURES_OK | STATUS.DRIVER_OK

/** One turn of the event loop. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}

/** Writes over the parts of a ring that a device may write; the result tells whether they are as they were then. */
export function fillRing({ memory }: TransportDriver, { desc, used, size }: RingDriver): () => boolean {
  const parts = [
    { address: desc, bytes: 16 * size },
    { address: used, bytes: 4 },
  ]
  for (const { address, bytes } of parts) memory.fill(address, bytes, 0x55)
  return () =>
    parts.every(({ address, bytes }) => {
      const now = new Uint8Array(bytes)
      memory.read(address, now)
      return now.every((byte) => byte === 0x55)
    })
}
