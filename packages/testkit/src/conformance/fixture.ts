import type { VirtioDevice } from "@virtkit/interface"
import { EchoDevice, type EchoDeviceOptions } from "../echo-device.js"
import type { FakeInterrupt } from "../interrupt.js"
import { STATUS } from "../spec.js"
import type { TransportDriver } from "../transport-driver.js"

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

export interface TransportConformanceOptions {
  /** A transport around `device`, freshly made, with a driver on its other side. */
  setup(device: VirtioDevice): TransportUnderTest
  /** What it offers besides VERSION_1, indirect descriptors, EVENT_IDX and what the device offers. Default: nothing. */
  readonly features?: bigint
}

/** What each test starts with: nothing has happened yet. */
export interface Fixture extends TransportUnderTest {
  readonly device: EchoDevice
  readonly transportFeatures: bigint
}

export type MakeFixture = (options?: EchoDeviceOptions) => Fixture

export function fixtures(options: TransportConformanceOptions): MakeFixture {
  return (deviceOptions) => {
    const device = new EchoDevice(deviceOptions)
    return { device, transportFeatures: options.features ?? 0n, ...options.setup(device) }
  }
}

/** The status of a device that was started and is well. */
export const STARTED: number = STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.FEATURES_OK | STATUS.DRIVER_OK

/** One turn of the event loop. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}
