import { SplitRingDriver, TestAllocator, TestMemory } from "@virtkit/testkit"
import { createQueue, type DeviceQueue } from "@virtkit/virtqueue"

export interface Setup {
  memory: TestMemory
  allocator: TestAllocator
  driver: SplitRingDriver
  queue: DeviceQueue
  interrupts: () => number
  /** Reasons given to onBroken. */
  broken: string[]
}

export interface SetupOptions {
  size?: number
  eventIdx?: boolean
  indirect?: boolean
  startIndex?: number
  memory?: TestMemory
  onInterrupt?: () => void
}

export const RAM = 4 << 20

/** A driver and a device on the two ends of one ring. */
export function setup(options: SetupOptions = {}): Setup {
  const { size = 8, eventIdx = false, startIndex = 0 } = options
  const memory = options.memory ?? new TestMemory({ regions: [{ guestAddress: 0, size: RAM }] })
  const allocator = new TestAllocator(4096, RAM - 4096)
  const driver = new SplitRingDriver({ memory, allocator, size, eventIdx, startIndex })
  const device = deviceSide(driver, memory, options)
  if (startIndex !== 0) {
    device.queue.restore({
      ...(device.queue.state() as object),
      nextAvail: startIndex,
      nextUsed: startIndex,
    })
  }
  device.queue.enableNotification()
  return { memory, allocator, driver, ...device }
}

/** A new device side for rings that exist in `memory`. */
export function deviceSide(
  driver: SplitRingDriver,
  memory: TestMemory,
  options: SetupOptions = {},
): Pick<Setup, "queue" | "interrupts" | "broken"> {
  let interrupts = 0
  const broken: string[] = []
  const made = createQueue({
    index: 0,
    size: driver.size,
    desc: driver.desc,
    avail: driver.avail,
    used: driver.used,
    memory,
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

export const bytes = (...values: number[]): Uint8Array => Uint8Array.from(values)
