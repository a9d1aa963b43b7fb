import { ConfigError, type DeviceContext, StateError } from "@virtkit/interface"
import { Limiter, type SharedLimit } from "@virtkit/virtqueue"
import type { BlockBackend } from "./backend.js"
import type { BlockDevice, CacheMode } from "./block-device.js"
import { blockConfig, blockFeatures, setCapacity } from "./config.js"
import {
  CONFIG,
  ID_BYTES,
  SECTOR_BYTES,
  VIRTIO_BLK_F_CONFIG_WCE,
  VIRTIO_BLK_F_DISCARD,
  VIRTIO_BLK_F_FLUSH,
  VIRTIO_BLK_F_WRITE_ZEROES,
  VIRTIO_ID_BLOCK,
} from "./constants.js"
import { type BlockCounters, newCounters } from "./counters.js"
import { Executor } from "./executor.js"
import { type BlockLimits, rateOf } from "./limits.js"
import type { DiskLimits } from "./request.js"
import { type BlockState, parseBlockState } from "./state.js"

/** What a disk is for its driver, wherever it is worked on. */
export interface DiskOptions {
  readonly name: string
  readonly cache: CacheMode
  readonly queues: number
  readonly queueSize: number
  readonly serial: string
  readonly limits: BlockLimits | undefined
  /** Microseconds. */
  readonly poll: number
}

export interface BlockDeviceOptions extends DiskOptions {
  readonly backend: BlockBackend
  /** Where other threads look, if the device has a part of the queues only. */
  readonly shared?: SharedParts
}

/** What several devices that are one disk have in common. */
export interface SharedParts {
  readonly counters: BlockCounters
  /** By queue, requests that the backend has. */
  readonly inFlight: Int32Array
  readonly limit: SharedLimit
  /** Most requests in flight: the largest sizes of the queues that this one has. */
  readonly depth: number
}

/** 5.2.4: seg_max counts the data segments; header and status need a descriptor each. */
export function segMaxOf(queueSize: number): number {
  return Math.max(1, Math.min(queueSize - 2, 254))
}

/** Whether the driver wrote the only field that it may write, if CONFIG_WCE is offered, as it always is (5.2.4): to what. */
export function writtenCacheMode(offset: number, data: Uint8Array): number | undefined {
  const at = CONFIG.writeback - offset
  return at < 0 || at >= data.length ? undefined : data[at]! & 1
}

/** Throws ConfigError unless a disk of `now` bytes can be made `size` bytes long. */
export function checkNewSize(name: string, now: number, size: number | undefined): void {
  if (size === undefined || (Number.isSafeInteger(size) && size % SECTOR_BYTES === 0 && size >= now)) return
  throw new ConfigError(
    `disk ${name} has ${now} bytes; it can grow to a multiple of ${SECTOR_BYTES}, not to ${size}`,
  )
}

/** The virtio block device (virtio 1.3, section 5.2) that works on the thread that made it. */
export class LocalBlockDevice implements BlockDevice {
  readonly name: string
  readonly deviceType: number = VIRTIO_ID_BLOCK
  readonly features: bigint
  readonly queueMaxSizes: readonly number[]
  readonly config: Uint8Array
  readonly counters: Readonly<BlockCounters>

  readonly #counters: BlockCounters
  readonly #shared: SharedParts | undefined
  readonly #backend: BlockBackend
  readonly #cache: CacheMode
  readonly #id: Uint8Array = new Uint8Array(ID_BYTES)
  readonly #limits: DiskLimits
  readonly #limiter: Limiter
  readonly #poll: number
  #context: DeviceContext | undefined
  #executor: Executor | undefined
  #closed: Promise<void> | undefined

  constructor(options: BlockDeviceOptions) {
    const { backend, queues, queueSize } = options
    this.name = options.name
    this.#shared = options.shared
    this.#counters = options.shared?.counters ?? newCounters()
    this.counters = this.#counters
    this.#backend = backend
    this.#cache = options.cache
    this.#poll = options.poll
    this.queueMaxSizes = new Array<number>(queues).fill(queueSize)
    this.features = blockFeatures(backend.info, queues)
    this.config = blockConfig(backend.info, queues, segMaxOf(queueSize), options.cache !== "writethrough")
    const resume = () => this.#executor?.resume()
    this.#limiter = new Limiter(rateOf(options.name, options.limits), resume, options.shared?.limit)
    this.#id.set(new TextEncoder().encode(options.serial).subarray(0, ID_BYTES))
    this.#limits = {
      capacity: backend.info.size / SECTOR_BYTES,
      readonly: backend.info.readonly,
      maxDiscardSectors: 0,
      maxWriteZeroesSectors: 0,
    }
  }

  get size(): number {
    return this.#limits.capacity * SECTOR_BYTES
  }

  get readonly(): boolean {
    return this.#limits.readonly
  }

  get engine(): string | undefined {
    return this.#backend.info.engine
  }

  get inFlight(): number {
    return this.#executor?.inFlight ?? 0
  }

  writeConfig(offset: number, data: Uint8Array): void {
    const writeback = writtenCacheMode(offset, data)
    if (writeback === undefined) return
    this.config[CONFIG.writeback] = writeback
    this.#chooseCache()
  }

  activate(context: DeviceContext): void {
    const { maxDiscard, maxWriteZeroes } = this.#backend.info
    this.#context = context
    this.#limits.maxDiscardSectors = this.#has(VIRTIO_BLK_F_DISCARD) ? maxDiscard / SECTOR_BYTES : 0
    this.#limits.maxWriteZeroesSectors = this.#has(VIRTIO_BLK_F_WRITE_ZEROES)
      ? maxWriteZeroes / SECTOR_BYTES
      : 0
    this.#executor = new Executor({
      backend: this.#backend,
      context,
      limits: this.#limits,
      counters: this.#counters,
      limiter: this.#limiter,
      depth: this.#shared?.depth ?? this.queueMaxSizes.reduce((sum, size) => sum + size, 0),
      queueInFlight: this.#shared?.inFlight ?? this.queueMaxSizes.map(() => 0),
      id: this.#id,
      poll: this.#poll,
    })
    this.#chooseCache()
    this.#executor.start()
  }

  notify(queueIndex: number): void {
    this.#executor?.notify(queueIndex)
  }

  resetQueue(queueIndex: number): void | Promise<void> {
    return this.#executor?.resetQueue(queueIndex)
  }

  async reset(): Promise<void> {
    this.#executor?.stop()
    this.#limiter.stop()
    this.#executor = undefined
    this.#context = undefined
    this.config[CONFIG.writeback] = this.#cache === "writethrough" ? 0 : 1
    await this.#backend.idle()
  }

  close(): Promise<void> {
    this.#closed ??= this.reset().then(() => this.#backend.close())
    return this.#closed
  }

  async resize(size?: number): Promise<void> {
    if (this.#closed !== undefined) throw new StateError(`disk ${this.name} is closed`)
    checkNewSize(this.name, this.size, size)
    await this.#backend.resize(size)
    const bytes = this.#backend.info.size
    this.#limits.capacity = bytes / SECTOR_BYTES
    const update = () => setCapacity(this.config, bytes)
    if (this.#context === undefined) update()
    else this.#context.updateConfig(update)
  }

  setLimits(limits: BlockLimits | undefined): void {
    this.#limiter.set(rateOf(this.name, limits))
  }

  state(): BlockState {
    const writeback = this.config[CONFIG.writeback] === 1
    return { version: 1, size: this.size, readonly: this.readonly, writeback }
  }

  restore(state: unknown): void {
    const saved = parseBlockState(state, this.size, this.readonly)
    this.config[CONFIG.writeback] = saved.writeback ? 1 : 0
    this.#chooseCache()
  }

  #has(feature: bigint): boolean {
    return this.#context !== undefined && (this.#context.features & feature) !== 0n
  }

  /**
   * 5.2.6.2: with CONFIG_WCE the writeback field decides; without it, a driver that took FLUSH flushes what it needs
   * flushed, unless the user wants more than that, and one that did not expects every write to be durable.
   */
  #chooseCache(): void {
    if (this.#executor === undefined) return
    this.#executor.writethrough = this.#has(VIRTIO_BLK_F_CONFIG_WCE)
      ? this.config[CONFIG.writeback] === 0
      : this.#cache === "writethrough" || !this.#has(VIRTIO_BLK_F_FLUSH)
  }
}
