import type { DeviceContext, Queue, VirtioDevice } from "@virtkit/interface"
import { TestAllocator } from "./allocator.js"
import { TestMemory } from "./memory.js"
import type { ChainRequest, DriverChain } from "./ring-driver.js"
import { FEATURE } from "./spec.js"
import { SplitRingDriver } from "./split-ring.js"
import { until } from "./wait.js"

/** What {@link DeviceHarness} asks of the queue implementation; `createQueue` of @virtkit/virtqueue fits. */
export interface HarnessQueueOptions {
  readonly index: number
  readonly size: number
  readonly desc: number
  readonly avail: number
  readonly used: number
  readonly memory: TestMemory
  readonly eventIdx: boolean
  readonly indirect: boolean
  readonly onInterrupt: () => void
  readonly onBroken: (reason: string) => void
}

export interface DeviceHarnessOptions {
  readonly device: VirtioDevice
  /** Makes the device side of a queue. Injected, since the testkit depends on no implementation. */
  readonly createQueue: (options: HarnessQueueOptions) => {
    readonly queue?: Queue | undefined
    readonly reason?: string | undefined
  }
  /** Default: 4 MiB at address 0. */
  readonly memory?: TestMemory
  /** Size of every queue, at most its maximum. Default 16. */
  readonly queueSize?: number
  /** Negotiated features. Default: the device's, VERSION_1, indirect descriptors and EVENT_IDX. */
  readonly features?: bigint
}

/** Runs a virtio device with no transport: the test is the driver and sees what the device tells its transport. */
export class DeviceHarness {
  readonly device: VirtioDevice
  readonly memory: TestMemory
  readonly allocator: TestAllocator
  readonly features: bigint
  /** Driver and device side of each queue, after {@link start}. */
  rings: SplitRingDriver[] = []
  queues: Queue[] = []
  /** Interrupts by queue index. */
  interrupts: number[] = []
  /** Number of configuration changes that the device announced. */
  configChanges = 0
  /** Reasons for which the device or a queue asked for a reset. */
  needsReset: string[] = []
  readonly #options: DeviceHarnessOptions
  #generation = 0

  constructor(options: DeviceHarnessOptions) {
    this.#options = options
    this.device = options.device
    this.memory = options.memory ?? new TestMemory({ regions: [{ guestAddress: 0, size: 4 << 20 }] })
    const region = this.memory.regions[0]!
    this.allocator = new TestAllocator(region.guestAddress + 4096, region.size - 4096)
    this.features =
      options.features ??
      options.device.features | FEATURE.VERSION_1 | FEATURE.RING_INDIRECT_DESC | FEATURE.RING_EVENT_IDX
  }

  /** Sets up all queues and activates the device. */
  start(): void {
    this.rings = []
    this.queues = []
    this.interrupts = this.device.queueMaxSizes.map(() => 0)
    this.device.queueMaxSizes.forEach((max, index) => {
      this.#setupQueue(index, Math.min(this.#options.queueSize ?? 16, max))
    })
    this.device.activate(this.#context())
  }

  ring(index: number): SplitRingDriver {
    const ring = this.rings[index]
    if (ring === undefined) throw new Error(`queue ${index} is not set up`)
    return ring
  }

  /** Publishes what was added to the ring and notifies the device if it wants to know. */
  kick(index: number): void {
    if (this.ring(index).publish()) this.device.notify(index)
  }

  /** Adds one chain, kicks and waits until the device gave it back. */
  async request(index: number, request: ChainRequest): Promise<DriverChain> {
    const ring = this.ring(index)
    const chain = ring.add(request)
    this.kick(index)
    await until(() => {
      ring.reap()
      return chain.written !== undefined
    }, `a chain of queue ${index}`)
    return chain
  }

  /** Resets the device; deferred tasks of before are dropped, as a transport does. */
  async reset(): Promise<void> {
    this.#generation++
    await this.device.reset()
  }

  #setupQueue(index: number, size: number): void {
    const eventIdx = (this.features & FEATURE.RING_EVENT_IDX) !== 0n
    const ring = new SplitRingDriver({ memory: this.memory, allocator: this.allocator, size, eventIdx })
    const made = this.#options.createQueue({
      index,
      size,
      desc: ring.desc,
      avail: ring.avail,
      used: ring.used,
      memory: this.memory,
      eventIdx,
      indirect: (this.features & FEATURE.RING_INDIRECT_DESC) !== 0n,
      onInterrupt: () => {
        this.interrupts[index] = (this.interrupts[index] ?? 0) + 1
      },
      onBroken: (reason) => {
        this.needsReset.push(reason)
      },
    })
    if (made.queue === undefined) throw new Error(`queue ${index}: ${made.reason}`)
    this.rings[index] = ring
    this.queues[index] = made.queue
  }

  #context(): DeviceContext {
    const generation = this.#generation
    return {
      memory: this.memory,
      features: this.features,
      queues: this.queues,
      updateConfig: (update) => {
        update()
        this.configChanges++
      },
      needsReset: (reason) => {
        this.needsReset.push(reason)
      },
      defer: (task) => {
        setImmediate(() => {
          if (this.#generation === generation) task()
        })
      },
    }
  }
}
