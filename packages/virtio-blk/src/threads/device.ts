import {
  type DeviceContext,
  type ExternalQueue,
  type ExternalQueues,
  type GuestMemory,
  RestoreError,
  StateError,
} from "@virtkit/interface"
import type { SharedMemory } from "@virtkit/memory"
import {
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_RING_EVENT_IDX,
  VIRTIO_F_RING_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
} from "@virtkit/virtqueue"
import type { BlockDevice } from "../block-device.js"
import { blockConfig, blockFeatures, setCapacity } from "../config.js"
import { CONFIG, VIRTIO_ID_BLOCK } from "../constants.js"
import type { BlockCounters } from "../counters.js"
import { checkNewSize, type DiskOptions, segMaxOf, writtenCacheMode } from "../device.js"
import type { BlockLimits } from "../limits.js"
import type { QueuePlace } from "./messages.js"
import { DiskThreads, type PoolOptions } from "./pool.js"

const RING_FEATURES =
  VIRTIO_F_RING_INDIRECT_DESC | VIRTIO_F_RING_EVENT_IDX | VIRTIO_F_RING_PACKED | VIRTIO_F_IN_ORDER

/** What a driver has activated. */
interface Activation {
  readonly context: DeviceContext
  /** By queue, what the threads were told of. */
  readonly queues: (ExternalQueue | undefined)[]
}

/**
 * A disk whose queues are worked on by threads of their own. What is not about requests is here: configuration space,
 * activation, resets, and interrupts that the kernel cannot send by itself.
 */
export class ThreadedBlockDevice implements BlockDevice {
  readonly name: string
  readonly deviceType: number = VIRTIO_ID_BLOCK
  readonly features: bigint
  readonly queueMaxSizes: readonly number[]
  readonly config: Uint8Array
  readonly external: ExternalQueues
  readonly counters: Readonly<BlockCounters>
  readonly readonly: boolean
  readonly engine: string | undefined
  readonly #disk: DiskOptions
  readonly #pool: DiskThreads
  #size: number
  #active: Activation | undefined
  /** What is asked of the threads is asked one after the other. Never rejects. */
  #work: Promise<unknown> = Promise.resolve()
  #closed: Promise<void> | undefined

  /** Starts the threads. Throws as `block`. */
  static async open(options: Omit<PoolOptions, "onNeedsReset">): Promise<ThreadedBlockDevice> {
    let device: ThreadedBlockDevice | undefined
    const onNeedsReset = (reason: string): void => {
      if (device !== undefined) device.#giveUp(reason)
    }
    device = new ThreadedBlockDevice(options.disk, await DiskThreads.open({ ...options, onNeedsReset }))
    return device
  }

  private constructor(disk: DiskOptions, pool: DiskThreads) {
    const { queues, queueSize } = disk
    const { info, counters, events } = pool
    this.#disk = disk
    this.#pool = pool
    this.name = disk.name
    this.queueMaxSizes = new Array<number>(queues).fill(queueSize)
    this.features = blockFeatures(info, queues)
    this.config = blockConfig(info, queues, segMaxOf(queueSize), this.#writesBack)
    this.counters = counters.total()
    this.readonly = info.readonly
    this.engine = info.engine
    this.#size = info.size
    this.external = {
      sameProcess: true,
      ringFeatures: RING_FEATURES,
      kicks: events.queues.map(({ kick }) => kick.fd),
      counters: events.queues.map((_, queue) => counters.ofQueue(queue)),
    }
  }

  get size(): number {
    return this.#size
  }

  get inFlight(): number {
    return this.#pool.counters.inFlight.reduce((sum, count) => sum + count, 0)
  }

  get threads(): number {
    return this.#pool.count
  }

  /** Complete when all threads know. */
  writeConfig(offset: number, data: Uint8Array): void | Promise<void> {
    const writeback = writtenCacheMode(offset, data)
    if (writeback === undefined) return undefined
    this.config[CONFIG.writeback] = writeback
    // Those of a device that is not active are told when it is.
    if (this.#active === undefined) return undefined
    const copy = data.slice()
    return this.#run(() => this.#pool.callAll({ kind: "writeConfig", offset, data: copy }))
  }

  activate(context: DeviceContext): void {
    const { external } = context
    if (external === undefined) {
      context.needsReset(`${this.name}: this transport cannot hand over its queues to threads`)
      return
    }
    const memory = shareMemory(context.memory)
    if (typeof memory === "string") {
      context.needsReset(`${this.name}: ${memory}`)
      return
    }
    const active: Activation = { context, queues: [...external] }
    this.#active = active
    for (const [index, queue] of external.entries()) {
      if (queue !== undefined) this.#pool.events.connect(index, queue)
    }
    // As of now: what changes meanwhile is told after this.
    const places = external.flatMap((queue, index) => placeOf(index, queue) ?? [])
    void this.#run(async () => {
      if (await this.#revive()) this.#start(active, memory, places)
    })
  }

  notify(queueIndex: number): void {
    const active = this.#active
    const queue = active?.context.external?.[queueIndex]
    if (active === undefined || queue === undefined) return
    if (active.queues[queueIndex] === queue) this.#pool.events.kick(queueIndex)
    else this.#startQueue(active, queueIndex, queue)
  }

  resetQueue(queueIndex: number): void | Promise<void> {
    const active = this.#active
    if (active === undefined) return undefined
    active.queues[queueIndex] = undefined
    this.#pool.events.disconnect(queueIndex)
    return this.#ask(queueIndex, { kind: "resetQueue", index: queueIndex })
  }

  async reset(): Promise<void> {
    const wasActive = this.#active !== undefined
    this.#active = undefined
    this.config[CONFIG.writeback] = this.#writesBack ? 1 : 0
    if (!wasActive) return
    for (const index of this.queueMaxSizes.keys()) this.#pool.events.disconnect(index)
    await this.#run(() => this.#pool.callAll({ kind: "reset" }))
  }

  close(): Promise<void> {
    this.#closed ??= this.reset()
      .then(() => this.#work)
      .then(() => this.#pool.close())
    return this.#closed
  }

  resize(size?: number): Promise<void> {
    return this.#run(async () => {
      if (this.#closed !== undefined) throw new StateError(`disk ${this.name} is closed`)
      checkNewSize(this.name, this.#size, size)
      await this.#pool.revive()
      // The first does it, the others look what it has become.
      for (const thread of Array(this.threads).keys()) {
        const change = thread === 0 ? size : undefined
        this.#size = (await this.#pool.call(thread, { kind: "resize", size: change })) ?? this.#size
      }
      const update = () => setCapacity(this.config, this.#size)
      if (this.#active === undefined) update()
      else this.#active.context.updateConfig(update)
    })
  }

  setLimits(limits: BlockLimits | undefined): void {
    this.#pool.setLimits(limits)
  }

  state(): never {
    throw new StateError(
      `${this.name}: a disk on threads of its own cannot be saved; make it without "thread" for that`,
    )
  }

  restore(): never {
    throw new RestoreError(`${this.name}: a disk on threads of its own cannot be restored`)
  }

  get #writesBack(): boolean {
    return this.#disk.cache !== "writethrough"
  }

  /** Runs it after what was begun before. */
  #run<T>(task: () => Promise<T>): Promise<T> {
    const done = this.#work.then(task)
    this.#work = done.catch(() => {})
    return done
  }

  /** Never rejects: a thread that has died has nothing in hand. */
  #ask(queue: number, command: Parameters<DiskThreads["call"]>[1]): Promise<void> {
    return this.#run(async () => {
      await this.#pool.call(this.#pool.threadOf(queue), command).catch(() => {})
    })
  }

  /** False when there is a thread that cannot be had any more. */
  async #revive(): Promise<boolean> {
    try {
      await this.#pool.revive()
      return true
    } catch (error) {
      this.#giveUp((error as Error).message)
      return false
    }
  }

  #start(active: Activation, memory: SharedMemory, places: readonly QueuePlace[]): void {
    // A reset that came meanwhile is next.
    if (this.#active !== active) return
    const writeback = this.config[CONFIG.writeback]!
    const { features } = active.context
    for (const thread of Array(this.threads).keys()) {
      const queues = places.filter(({ index }) => this.#pool.threadOf(index) === thread)
      this.#pool.post(thread, { kind: "activate", memory, features, writeback, queues })
    }
  }

  /** The driver has enabled it again after a reset of that queue. */
  #startQueue(active: Activation, index: number, queue: ExternalQueue): void {
    active.queues[index] = queue
    this.#pool.events.connect(index, queue)
    void this.#ask(index, { kind: "startQueue", queue: placeOf(index, queue)! })
  }

  #giveUp(reason: string): void {
    this.#active?.context.needsReset(`${this.name}: ${reason}`)
  }
}

function placeOf(index: number, queue: ExternalQueue | undefined): QueuePlace | undefined {
  if (queue === undefined) return undefined
  const { size, desc, avail, used } = queue
  return { index, size, desc, avail, used }
}

/** As a message to the threads, or why it cannot be one. */
function shareMemory({ regions, dirtyTracking }: GuestMemory): SharedMemory | string {
  if (dirtyTracking === true) return "what threads write to guest memory is not tracked"
  const shared: SharedMemory["regions"][number][] = []
  for (const { guestAddress, size, buffer, byteOffset, hostAddress } of regions) {
    if (!(buffer instanceof SharedArrayBuffer)) return "threads need guest memory in SharedArrayBuffers"
    shared.push({ guestAddress, size, buffer, byteOffset, hostAddress })
  }
  return { version: 1, regions: shared }
}
