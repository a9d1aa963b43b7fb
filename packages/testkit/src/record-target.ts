import type { GuestMemory, Queue, VirtioDevice } from "@virtkit/interface"
import { TestAllocator } from "./allocator.js"
import { TestMemory } from "./memory.js"
import type { TraceRecord } from "./record-format.js"
import { ReplayRing } from "./record-rings.js"
import { FEATURE } from "./spec.js"

/** What a player drives: a device by its own methods, or the transport that is around one. */
export interface ReplayTarget {
  /** By queue, those that are set up. */
  readonly rings: ReadonlyMap<number, ReplayRing>
  /** Comes before the chains of an act are made available: sets up the rings that it is about. */
  prepare(record: TraceRecord): void
  /** The driver acts as it did in the trace. Gives what is different in that. */
  act(record: TraceRecord): Promise<string | undefined>
  /** The rings are the driver's own again: that of a queue that was reset, or all. */
  forget(queue?: number): void
  /** Notifies the device of a queue. */
  kick(queue: number): void
  /** The device announced a configuration, asked for a reset, interrupted: takes what is there since the last call. */
  readonly announced: DeviceAnnouncements
}

/** What a device told its driver by other means than rings. */
export interface DeviceAnnouncements {
  /** Configurations, in the order in which the device announced them; undefined where they are read as registers. */
  readonly configs: Uint8Array[] | undefined
  /** How often it asked for a reset; undefined where that is read as a register. */
  readonly needsReset: string[] | undefined
  /** Interrupts by vector. Undefined: there are none to see. */
  readonly interrupts: Map<number, number> | undefined
}

/** Room for the player's buffers, in bytes. The host gives what is used of it. */
const MEMORY_BYTES = 256 * 2 ** 20

/** What a `deviceTarget` asks of the queue implementation; `createQueue` of @virtkit/virtqueue fits. */
export interface ReplayQueueOptions {
  readonly index: number
  readonly size: number
  readonly desc: number
  readonly avail: number
  readonly used: number
  readonly memory: GuestMemory
  readonly packed: boolean
  readonly inOrder: boolean
  readonly eventIdx: boolean
  readonly indirect: boolean
  readonly onInterrupt: () => void
  readonly onBroken: (reason: string) => void
}

export interface DeviceTargetOptions {
  readonly device: VirtioDevice
  /** Makes the device side of a queue. Injected, since the testkit depends on no implementation. */
  readonly createQueue: (options: ReplayQueueOptions) => {
    readonly queue?: Queue | undefined
    readonly reason?: string | undefined
  }
  /** Its first region is used without its first page. Default: a `TestMemory` of 256 MiB. */
  readonly memory?: GuestMemory
}

/** The player calls the device itself, as a transport would. Any trace can be replayed so. */
export class DeviceTarget implements ReplayTarget {
  readonly rings: Map<number, ReplayRing> = new Map()
  readonly announced: DeviceAnnouncements & { configs: Uint8Array[]; needsReset: string[] }
  readonly #options: DeviceTargetOptions
  readonly #memory: GuestMemory
  readonly #allocator: TestAllocator
  #queues: (Queue | undefined)[] = []
  #features = 0n
  /** Changes at each activation and reset. */
  #generation = 0

  constructor(options: DeviceTargetOptions) {
    const regions = [{ guestAddress: 0, size: MEMORY_BYTES }]
    this.#options = options
    this.#memory = options.memory ?? new TestMemory({ regions })
    const region = this.#memory.regions[0]!
    this.#allocator = new TestAllocator(region.guestAddress + 4096, region.size - 4096)
    this.announced = { configs: [], needsReset: [], interrupts: new Map() }
  }

  /** Sets up the queues of an activation before the device sees them: chains may be in them already. */
  prepare(record: TraceRecord): void {
    if (record.kind === "activate") {
      this.#generation++
      this.#features = record.features
      this.#queues = record.queueSizes.map((size, index) =>
        size === 0 ? undefined : this.#makeQueue(index, size),
      )
    } else if (record.kind === "queue-start") {
      this.#queues[record.queue] = this.#makeQueue(record.queue, record.size)
    }
  }

  async act(record: TraceRecord): Promise<string | undefined> {
    const { device } = this.#options
    switch (record.kind) {
      case "activate":
        device.activate(this.#context())
        break
      case "notify":
        device.notify(record.queue)
        break
      case "write-config":
        device.writeConfig?.(record.offset, record.data)
        break
      case "queue-reset":
        this.#queues[record.queue] = undefined
        await device.resetQueue?.(record.queue)
        break
      case "reset":
        this.#generation++
        await device.reset()
        break
    }
    return undefined
  }

  forget(queue?: number): void {
    if (queue === undefined) this.rings.clear()
    else this.rings.delete(queue)
  }

  kick(queue: number): void {
    this.#options.device.notify(queue)
  }

  #makeQueue(index: number, size: number): Queue {
    const ring = new ReplayRing(this.#memory, this.#allocator, size, this.#features)
    const { desc, avail, used } = ring.ring
    const has = (feature: bigint) => (this.#features & feature) !== 0n
    const { queue, reason } = this.#options.createQueue({
      ...{ index, size, desc, avail, used },
      memory: this.#memory,
      packed: has(FEATURE.RING_PACKED),
      inOrder: has(FEATURE.IN_ORDER),
      eventIdx: has(FEATURE.RING_EVENT_IDX),
      indirect: has(FEATURE.RING_INDIRECT_DESC),
      onInterrupt: () => {
        const { interrupts } = this.announced
        interrupts?.set(index, (interrupts.get(index) ?? 0) + 1)
      },
      onBroken: (why) => this.announced.needsReset.push(why),
    })
    if (queue === undefined) throw new Error(`queue ${index}: ${reason}`)
    this.rings.set(index, ring)
    return queue
  }

  #context(): Parameters<VirtioDevice["activate"]>[0] {
    const generation = this.#generation
    const { device } = this.#options
    return {
      memory: this.#memory,
      features: this.#features,
      queues: this.#queues,
      updateConfig: (update) => {
        update()
        this.announced.configs.push(device.config.slice())
      },
      needsReset: (reason) => {
        this.announced.needsReset.push(reason)
      },
      defer: (task) => {
        setImmediate(() => {
          if (this.#generation === generation) task()
        })
      },
    }
  }
}
