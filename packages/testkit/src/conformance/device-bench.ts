import type { BusDevice, Stateful, VirtioDevice } from "@virtkit/interface"
import { FakeInterrupt } from "../interrupt.js"
import { TestMemory } from "../memory.js"
import { MmioDriver } from "../mmio-driver.js"
import { FEATURE } from "../spec.js"
import type { TransportSetup } from "./fixture.js"
import type { RingKind } from "./raw-ring.js"

/** What a transport around a device under test is made of. */
export interface DeviceTransportOptions extends TransportSetup {
  readonly device: VirtioDevice
  readonly interrupt: FakeInterrupt
  /** The device threw, against its contract. */
  readonly onError: (error: Error) => void
}

/** A virtio-mmio transport. */
export interface DeviceTransport extends BusDevice, Stateful {
  close(): Promise<void>
}

/** What device suites need beside the device itself. */
export interface DeviceBenchOptions {
  /** `(options) => new VirtioMmio(options)` of @virtkit/virtio. */
  transport(options: DeviceTransportOptions): DeviceTransport
  /** Guest memory of that many bytes at address 0. Default: on the heap, which system calls cannot reach. */
  memory?(size: number): TestMemory
}

/** A device with a transport around it and a driver. */
export interface DeviceBench<Device extends VirtioDevice = VirtioDevice> {
  readonly device: Device
  readonly transport: DeviceTransport
  readonly driver: MmioDriver
  readonly memory: TestMemory
  readonly interrupt: FakeInterrupt
  /** Messages of what the device threw. */
  readonly errors: string[]
}

const MEMORY_BYTES = 2 << 20

export function deviceBench<Device extends VirtioDevice>(
  options: DeviceBenchOptions,
  device: Device,
  kind: RingKind,
  existing?: TestMemory,
): DeviceBench<Device> {
  const memory =
    existing ??
    options.memory?.(MEMORY_BYTES) ??
    new TestMemory({ regions: [{ guestAddress: 0, size: MEMORY_BYTES }] })
  const interrupt = new FakeInterrupt()
  const errors: string[] = []
  const transport = options.transport({
    device,
    memory,
    interrupt,
    packed: kind === "packed",
    inOrder: false,
    onError: (error) => errors.push(error.message),
  })
  const driver = new MmioDriver({ device: transport, memory })
  if (kind === "packed") driver.wantedFeatures |= FEATURE.RING_PACKED
  return { device, transport, driver, memory, interrupt, errors }
}

/** Numbers that are the same in every run (xorshift). */
export class Seeded {
  #state: number

  constructor(seed: number) {
    this.#state = seed * 2654435769 || 1
  }

  /** From 0 to `bound` - 1. */
  below(bound: number): number {
    this.#state ^= this.#state << 13
    this.#state ^= this.#state >>> 17
    this.#state ^= this.#state << 5
    return (this.#state >>> 0) % bound
  }

  one<T>(values: readonly T[]): T {
    return values[this.below(values.length)]!
  }

  bytes(length: number): Uint8Array {
    const small = this.below(2) === 0
    return Uint8Array.from({ length }, () => this.below(small ? 4 : 256))
  }
}
