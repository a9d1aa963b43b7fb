import type { GuestMemory } from "@virtkit/interface"
import { TestAllocator } from "./allocator.js"
import { PackedRingDriver, type PackedRingOptions } from "./packed-ring.js"
import type { ChainRequest, DriverChain, RingDriver } from "./ring-driver.js"
import { FEATURE, STATUS } from "./spec.js"
import { SplitRingDriver, type SplitRingOptions } from "./split-ring.js"
import type { RingAddresses, StartOptions, TransportDriver } from "./transport-driver.js"
import { until } from "./wait.js"

export interface VirtioDriverOptions {
  readonly memory: GuestMemory
  /** Where rings and buffers go. Default: the memory's first region without its first page. */
  readonly allocator?: TestAllocator
}

/** What the drivers of all transports do alike: everything but single registers. */
export abstract class VirtioDriver implements TransportDriver {
  readonly memory: GuestMemory
  readonly allocator: TestAllocator
  /** By queue index, those that were set up: split rings. */
  readonly rings: SplitRingDriver[] = []
  /** By queue index, those that were set up, if VIRTIO_F_RING_PACKED was negotiated. */
  readonly packedRings: PackedRingDriver[] = []
  /** Features that both sides accepted, after {@link negotiate}. */
  features = 0n
  wantedFeatures: bigint = ~(FEATURE.RING_PACKED | FEATURE.RING_RESET)

  constructor(options: VirtioDriverOptions) {
    this.memory = options.memory
    const region = options.memory.regions[0]
    if (region === undefined) throw new Error("the memory has no region")
    this.allocator = options.allocator ?? new TestAllocator(region.guestAddress + 4096, region.size - 4096)
  }

  abstract readonly status: number
  abstract writeStatus(value: number): void | Promise<void>
  /** A word of 32 feature bits. */
  protected abstract readDeviceFeatures(word: number): number
  protected abstract writeDriverFeatures(word: number, value: number): void
  abstract queueSizeMax(index: number): number
  abstract queueReady(index: number): boolean
  abstract writeQueue(index: number, size: number, at: RingAddresses): void
  abstract queueResetting(index: number): boolean
  abstract writeQueueReset(index: number): void | Promise<void>
  abstract notify(index: number): void
  abstract handleInterrupt(): { usedBuffer: boolean; configChange: boolean }
  abstract readonly configGeneration: number
  abstract readConfigAt(offset: number, size: 1 | 2 | 4): number
  abstract writeConfig(offset: number, value: number, size: 1 | 2 | 4): void

  /** Sets further status bits, keeping those that are set. */
  addStatus(bits: number): void {
    void this.writeStatus(this.status | bits)
  }

  /** Writes 0 to the status and waits as long as the vCPU would. */
  async reset(): Promise<void> {
    await this.writeStatus(0)
    if (this.status !== 0) throw new Error(`status is ${this.status} after a reset`)
    this.rings.length = 0
    this.packedRings.length = 0
  }

  /** 3.1.1 steps 1 to 3. */
  async begin(): Promise<void> {
    await this.reset()
    this.addStatus(STATUS.ACKNOWLEDGE)
    this.addStatus(STATUS.DRIVER)
  }

  offeredFeatures(): bigint {
    let features = 0n
    for (let word = 0; word < 4; word++) {
      features |= BigInt(this.readDeviceFeatures(word)) << BigInt(32 * word)
    }
    return features
  }

  writeFeatures(features: bigint): void {
    for (let word = 0; word < 4; word++) {
      this.writeDriverFeatures(word, Number((features >> BigInt(32 * word)) & 0xffffffffn))
    }
  }

  /** 3.1.1 steps 4 to 6; returns whether the device kept FEATURES_OK. */
  negotiate(wanted?: bigint): boolean {
    const offered = this.offeredFeatures()
    this.features = offered & (wanted ?? this.wantedFeatures)
    this.writeFeatures(this.features)
    this.addStatus(STATUS.FEATURES_OK)
    return (this.status & STATUS.FEATURES_OK) !== 0
  }

  /** Makes a ring of the kind that was negotiated, tells the device where it is and enables it. */
  setupQueue(index: number, size: number): RingDriver {
    const options = this.#ringOptions(size)
    const packed = (this.features & FEATURE.RING_PACKED) !== 0n
    const ring = packed ? new PackedRingDriver(options) : new SplitRingDriver(options)
    if (ring instanceof PackedRingDriver) this.packedRings[index] = ring
    else this.rings[index] = ring
    this.writeQueue(index, size, ring)
    return ring
  }

  /** The ring of a queue that was set up, of whichever kind. */
  ring(index: number): RingDriver {
    const ring = this.packedRings[index] ?? this.rings[index]
    if (ring === undefined) throw new Error(`queue ${index} is not set up`)
    return ring
  }

  /** 2.9: what a notification says of a queue that goes by `name`; with NOTIFICATION_DATA also where its next chain goes. */
  protected notification(index: number, name: number): number {
    if ((this.features & FEATURE.NOTIFICATION_DATA) === 0n) return name
    const next = this.packedRings[index]?.availPosition ?? this.rings[index]?.availIndex ?? 0
    return (name & 0xffff) + next * 0x1_0000
  }

  #ringOptions(size: number): SplitRingOptions & PackedRingOptions {
    return {
      memory: this.memory,
      allocator: this.allocator,
      size,
      eventIdx: (this.features & FEATURE.RING_EVENT_IDX) !== 0n,
      inOrder: (this.features & FEATURE.IN_ORDER) !== 0n,
    }
  }

  /** 2.6.1: the ring is the driver's own again when this settles. */
  async resetQueue(index: number): Promise<void> {
    await this.writeQueueReset(index)
    await until(() => !this.queueResetting(index), `the reset of queue ${index}`)
    if (this.queueReady(index)) throw new Error(`queue ${index} is enabled after its reset`)
    delete this.rings[index]
    delete this.packedRings[index]
  }

  /** The whole of 3.1.1: reset, negotiation, queues, DRIVER_OK. Throws when the device refuses a step. */
  async start(options: StartOptions = {}): Promise<void> {
    await this.begin()
    if (!this.negotiate(options.features)) throw new Error("the device refused the features")
    for (let index = 0; index < (options.queues ?? Number.POSITIVE_INFINITY); index++) {
      const max = this.queueSizeMax(index)
      if (max === 0) break
      this.setupQueue(index, Math.min(options.queueSize ?? 16, max))
    }
    this.addStatus(STATUS.DRIVER_OK)
    if (this.status & STATUS.DEVICE_NEEDS_RESET) throw new Error("the device needs a reset")
  }

  /** Publishes what was added to the ring and notifies the device if it wants to know. */
  kick(index: number): void {
    if (this.ring(index).publish()) this.notify(index)
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

  /** 2.5.1: bytes of the device configuration space, read again while the generation changes. */
  readConfig(offset: number, length: number): Uint8Array {
    const bytes = new Uint8Array(length)
    let generation: number
    do {
      generation = this.configGeneration
      for (let i = 0; i < length; i++) bytes[i] = this.readConfigAt(offset + i, 1)
    } while (generation !== this.configGeneration)
    return bytes
  }
}
