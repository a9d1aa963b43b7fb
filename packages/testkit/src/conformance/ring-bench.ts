import type { Chain, GuestMemoryRegion, Queue, Stateful } from "@virtkit/interface"
import { TestAllocator } from "../allocator.js"
import { EchoDevice } from "../echo-device.js"
import { TestMemory } from "../memory.js"
import { PackedRingDriver } from "../packed-ring.js"
import type { RingDriver } from "../ring-driver.js"
import { FEATURE, STATUS } from "../spec.js"
import { SplitRingDriver } from "../split-ring.js"
import type { TransportConformanceOptions } from "./fixture.js"
import { type RawRing, type RingKind, rawRing } from "./raw-ring.js"

/** Bytes of guest memory, if a test has no memory of its own. */
export const RAM: number = 4 << 20
/** Where tests put indirect tables and buffers by hand. Rings and what drivers allocate lie far below. */
export const TABLE = 0x20_0000
export const BUFFER = 0x30_0000

export interface BenchOptions {
  readonly kind: RingKind
  /** Default 8. */
  readonly size?: number
  /** Default true. */
  readonly indirect?: boolean
  /** Default false. */
  readonly eventIdx?: boolean
  readonly inOrder?: boolean
  readonly memory?: TestMemory
}

/** A ring with a driver that breaks any rule on its one side, and on the other a device that does as the test says. */
export interface RingBench {
  readonly kind: RingKind
  readonly memory: TestMemory
  readonly ring: RawRing
  readonly driver: RingDriver
  /** The device looks: it takes what it finds, publishes what it refused and asks for notifications. Returns the chains. */
  take(): Chain[]
  /** Chains that the device took since then, in later turns of the event loop. */
  late(): Chain[]
  /** Gives chains back, as one batch; unless `publish` is false, when the driver does not get to know. */
  give(chains: readonly Chain[], written: number, publish?: boolean): void
  /** The device said that the ring cannot be trusted any more. */
  readonly broken: boolean
  /** Interrupts so far. */
  readonly interrupts: number
}

/** Makes a bench with nothing done yet; it is the queue's only one. */
export type MakeBench = (options: BenchOptions) => Promise<RingBench>

/** What {@link ringConformance} asks of an implementation; `createQueue` of @virtkit/virtqueue fits. */
export interface RingQueueOptions {
  readonly index: number
  readonly size: number
  readonly desc: number
  readonly avail: number
  readonly used: number
  readonly memory: TestMemory
  readonly packed: boolean
  readonly inOrder: boolean
  readonly eventIdx: boolean
  readonly indirect: boolean
  readonly onInterrupt: () => void
  readonly onBroken: (reason: string) => void
}

/** The device side of a queue with what every transport needs of it. */
export interface QueueUnderTest extends Queue, Stateful {
  /** The device is reset: from now on nothing is popped and guest memory is not touched. */
  close(): void
}

/** A queue, or why size and addresses cannot make one. */
export interface MadeQueue {
  readonly queue?: QueueUnderTest | undefined
  readonly reason?: string | undefined
}

export type MakeQueue = (options: RingQueueOptions) => MadeQueue

/** A bench whose device side is a queue alone. */
export interface QueueBench extends RingBench {
  readonly queue: QueueUnderTest
  readonly allocator: TestAllocator
  /** Another device side for the same ring, to restore a state into. */
  another(memory?: TestMemory): { readonly queue: QueueUnderTest; readonly broken: () => boolean }
}

export interface QueueBenchOptions extends BenchOptions {
  /** Position of both sides: index of a split ring; slot, and wrap counter in bit 15, of a packed one. */
  readonly start?: number
  readonly onInterrupt?: () => void
}

export function queueBench(make: MakeQueue, options: QueueBenchOptions): QueueBench {
  const { kind, size = 8, eventIdx = false, inOrder = false, indirect = true } = options
  const packed = kind === "packed"
  const memory = options.memory ?? new TestMemory({ regions: [{ guestAddress: 0, size: RAM }] })
  const allocator = new TestAllocator(4096, TABLE - 4096)
  const common = { memory, allocator, size, eventIdx, inOrder }
  const driver = packed ? new PackedRingDriver(common) : new SplitRingDriver(common)
  let interrupts = 0
  const makeQueue = (where: TestMemory): { queue: QueueUnderTest; broken: () => boolean } => {
    let broken = 0
    const { desc, avail, used } = driver
    const made = make({
      index: 0,
      ...{ size, desc, avail, used, packed, inOrder, eventIdx, indirect },
      memory: where,
      onInterrupt: () => {
        interrupts++
        options.onInterrupt?.()
      },
      onBroken: () => {
        if (++broken > 1) throw new Error("onBroken was called twice")
      },
    })
    if (made.queue === undefined) throw new Error(made.reason)
    return { queue: made.queue, broken: () => broken > 0 }
  }
  const device = makeQueue(memory)
  const { queue } = device
  queue.enableNotification()
  const take = (): Chain[] => {
    const chains: Chain[] = []
    queue.disableNotification()
    const drain = (): void => {
      for (let chain = queue.pop(); chain !== undefined; chain = queue.pop()) chains.push(chain)
    }
    drain()
    // No further: a driver that refills without end must not keep it.
    if (queue.enableNotification()) drain()
    return chains
  }
  const give = (chains: readonly Chain[], written: number, publish = true): void => {
    for (const chain of chains) queue.push(chain, written)
    if (publish) queue.flush()
  }
  if (options.start !== undefined) moveTo(driver, options.start, take, give)
  interrupts = 0
  return {
    kind,
    memory,
    allocator,
    driver,
    ring: rawRing(driver),
    queue,
    another: (where = memory) => makeQueue(where),
    take,
    give,
    late: () => [],
    get broken() {
      return device.broken()
    },
    get interrupts() {
      return interrupts
    },
  }
}

/** Sends chains through until both sides are there. */
function moveTo(
  driver: SplitRingDriver | PackedRingDriver,
  position: number,
  take: () => Chain[],
  give: (chains: readonly Chain[], written: number) => void,
): void {
  const none = { address: 0, length: 0, flags: 0 }
  if (driver instanceof PackedRingDriver) {
    while (driver.availPosition !== position) {
      driver.add({ writable: [1] })
      driver.publish()
      give(take(), 0)
      driver.reap()
    }
    return
  }
  for (let head = 0; head < driver.size; head++) driver.writeDescriptor(head, none)
  while (driver.availIndex !== position) {
    const batch = Math.min(driver.size, position - driver.availIndex)
    for (let head = 0; head < batch; head++) driver.offerHead(head)
    driver.publish()
    give(take(), 0)
    driver.usedIndex = driver.publishedUsedIndex
  }
}

/** A bench whose device side is a device behind a transport. */
export async function transportBench(
  options: TransportConformanceOptions,
  bench: BenchOptions,
): Promise<RingBench> {
  const { kind, size = 8, eventIdx = false, inOrder = false, indirect = true } = bench
  const memory = bench.memory ?? new TestMemory({ regions: [{ guestAddress: 0, size: RAM }] })
  const device = new EchoDevice({ queueMaxSizes: [2 ** Math.ceil(Math.log2(size))] })
  const offers = { packed: kind === "packed", inOrder }
  const { driver, interrupt } = options.setup(device, { memory, ...offers })
  const unwanted =
    FEATURE.RING_RESET |
    (eventIdx ? 0n : FEATURE.RING_EVENT_IDX) |
    (indirect ? 0n : FEATURE.RING_INDIRECT_DESC)
  await driver.start({ features: ~unwanted, queueSize: size })
  device.holds = true
  const late = (): Chain[] => device.held.splice(0).map(({ chain }) => chain)
  return {
    kind,
    memory,
    driver: driver.ring(0),
    ring: rawRing(driver.packedRings[0] ?? driver.rings[0]!),
    late,
    take: () => {
      driver.notify(0)
      return late()
    },
    give: (chains, written, publish = true) => {
      const queue = device.context?.queues[0]
      for (const chain of chains) queue?.push(chain, written)
      if (publish) queue?.flush()
    },
    get broken() {
      return (driver.status & STATUS.DEVICE_NEEDS_RESET) !== 0
    },
    get interrupts() {
      return interrupt.count
    },
  }
}

/** Claims to have more RAM than it has; nothing may touch what is not there. */
export class LargeMemory extends TestMemory {
  override readonly regions: readonly GuestMemoryRegion[]

  constructor(size: number) {
    super({ regions: [] })
    this.regions = [{ guestAddress: 0, size, buffer: new ArrayBuffer(RAM), byteOffset: 0, hostAddress: 0 }]
  }
}
