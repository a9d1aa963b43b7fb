import type { GuestMemoryRegion } from "@virtkit/interface"
import {
  PackedRingDriver,
  type RingDriver,
  SplitRingDriver,
  TestAllocator,
  TestMemory,
} from "@virtkit/testkit"
import { createQueue, type DeviceQueue } from "@virtkit/virtqueue"

export interface DeviceSide {
  queue: DeviceQueue
  interrupts: () => number
  /** Reasons given to onBroken. */
  broken: string[]
}

export interface Setup<Driver extends RingDriver = SplitRingDriver> extends DeviceSide {
  memory: TestMemory
  allocator: TestAllocator
  driver: Driver
}

export interface SetupOptions {
  packed?: boolean
  inOrder?: boolean
  size?: number
  eventIdx?: boolean
  indirect?: boolean
  /** Split: both indexes. Packed: slot, and wrap counter in bit 15. */
  start?: number
  memory?: TestMemory
  onInterrupt?: () => void
}

export const RAM = 4 << 20

/** Both kinds of ring, with the options that make them, for suites that run over both. */
export const RINGS = [
  { ring: "split", packed: false },
  { ring: "packed", packed: true },
] as const

/** A driver and a device on the two ends of a split ring. */
export function setup(options: SetupOptions = {}): Setup {
  const { memory, allocator, ring } = driverSide(options)
  const driver = new SplitRingDriver({ ...ring, startIndex: options.start ?? 0 })
  return { memory, allocator, driver, ...started(driver, memory, options) }
}

/** A driver and a device on the two ends of a packed ring. */
export function setupPacked(options: SetupOptions = {}): Setup<PackedRingDriver> {
  const { memory, allocator, ring } = driverSide(options)
  const driver = new PackedRingDriver({ ...ring, startPosition: options.start ?? 0x8000 })
  return { memory, allocator, driver, ...started(driver, memory, { ...options, packed: true }) }
}

/** Either of the two. */
export function setupRing(options: SetupOptions = {}): Setup<RingDriver> {
  return options.packed ? setupPacked(options) : setup(options)
}

/** A new device side for rings that exist in `memory`. */
export function deviceSide(driver: RingDriver, memory: TestMemory, options: SetupOptions = {}): DeviceSide {
  let interrupts = 0
  const broken: string[] = []
  const made = createQueue({
    index: 0,
    size: driver.size,
    desc: driver.desc,
    avail: driver.avail,
    used: driver.used,
    memory,
    packed: options.packed ?? false,
    inOrder: options.inOrder ?? false,
    eventIdx: options.eventIdx ?? false,
    indirect: options.indirect ?? true,
    onInterrupt: () => {
      interrupts++
      options.onInterrupt?.()
    },
    onBroken: (reason) => {
      broken.push(reason)
    },
  })
  if (made.queue === undefined) throw new Error(made.reason)
  return { queue: made.queue, interrupts: () => interrupts, broken }
}

function driverSide(options: SetupOptions) {
  const { size = 8, eventIdx = false, inOrder = false } = options
  const memory = options.memory ?? new TestMemory({ regions: [{ guestAddress: 0, size: RAM }] })
  const allocator = new TestAllocator(4096, RAM - 4096)
  return { memory, allocator, ring: { memory, allocator, size, eventIdx, inOrder } }
}

function started(driver: RingDriver, memory: TestMemory, options: SetupOptions): DeviceSide {
  const device = deviceSide(driver, memory, options)
  if (options.start !== undefined) {
    const state = device.queue.state() as object
    device.queue.restore({ ...state, nextAvail: options.start, nextUsed: options.start })
  }
  device.queue.enableNotification()
  return device
}

export const bytes = (...values: number[]): Uint8Array => Uint8Array.from(values)

/** Claims to have more RAM than it has; nothing may touch what is not there. */
export class LargeMemory extends TestMemory {
  override readonly regions: readonly GuestMemoryRegion[]

  constructor(size: number) {
    super({ regions: [] })
    this.regions = [{ guestAddress: 0, size, buffer: new ArrayBuffer(RAM), byteOffset: 0, hostAddress: 0 }]
  }
}
