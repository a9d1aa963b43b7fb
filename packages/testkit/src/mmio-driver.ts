import type { BusDevice, GuestMemory } from "@virtkit/interface"
import { TestAllocator } from "./allocator.js"
import { FEATURE, INTERRUPT, MMIO, MMIO_MAGIC, STATUS } from "./spec.js"
import { type ChainRequest, type DriverChain, SplitRingDriver } from "./split-ring.js"
import type { RingAddresses, StartOptions, TransportDriver } from "./transport-driver.js"
import { until } from "./wait.js"

export interface MmioDriverOptions {
  /** The transport, as the bus sees it. */
  readonly device: BusDevice
  readonly memory: GuestMemory
  /** Where rings and buffers go. Default: the memory's first region without its first page. */
  readonly allocator?: TestAllocator
}

/** The driver side of virtio over MMIO (virtio 1.3, section 4.2), through the register interface alone. */
export class MmioDriver implements TransportDriver {
  readonly memory: GuestMemory
  readonly allocator: TestAllocator
  /** By queue index, after {@link start}. */
  readonly rings: SplitRingDriver[] = []
  /** Features that both sides accepted, after {@link negotiate}. */
  features = 0n
  readonly #device: BusDevice

  constructor(options: MmioDriverOptions) {
    this.#device = options.device
    this.memory = options.memory
    const region = options.memory.regions[0]
    if (region === undefined) throw new Error("the memory has no region")
    this.allocator = options.allocator ?? new TestAllocator(region.guestAddress + 4096, region.size - 4096)
  }

  read32(register: number): number {
    return this.#device.read(register, 4)
  }

  write32(register: number, value: number): void | Promise<void> {
    return this.#device.write(register, 4, value >>> 0)
  }

  get status(): number {
    return this.read32(MMIO.STATUS)
  }

  writeStatus(value: number): void | Promise<void> {
    return this.write32(MMIO.STATUS, value)
  }

  /** Sets further status bits, keeping those that are set. */
  addStatus(bits: number): void {
    void this.writeStatus(this.status | bits)
  }

  /** Writes 0 to the status and waits as long as the vCPU would. */
  async reset(): Promise<void> {
    await this.writeStatus(0)
    if (this.status !== 0) throw new Error(`status is ${this.status} after a reset`)
    this.rings.length = 0
  }

  /** 3.1.1 steps 1 to 3. Throws when there is no device. */
  async begin(): Promise<void> {
    if (this.read32(MMIO.MAGIC_VALUE) !== MMIO_MAGIC) throw new Error("no virtio magic value")
    if (this.read32(MMIO.VERSION) !== 2) throw new Error("not a version 2 device")
    if (this.read32(MMIO.DEVICE_ID) === 0) throw new Error("no device behind the transport")
    await this.reset()
    this.addStatus(STATUS.ACKNOWLEDGE)
    this.addStatus(STATUS.DRIVER)
  }

  offeredFeatures(): bigint {
    let features = 0n
    for (let word = 0; word < 4; word++) {
      void this.write32(MMIO.DEVICE_FEATURES_SEL, word)
      features |= BigInt(this.read32(MMIO.DEVICE_FEATURES)) << BigInt(32 * word)
    }
    return features
  }

  writeFeatures(features: bigint): void {
    for (let word = 0; word < 4; word++) {
      void this.write32(MMIO.DRIVER_FEATURES_SEL, word)
      void this.write32(MMIO.DRIVER_FEATURES, Number((features >> BigInt(32 * word)) & 0xffffffffn))
    }
  }

  /** 3.1.1 steps 4 to 6; returns whether the device kept FEATURES_OK. */
  negotiate(wanted?: bigint): boolean {
    const offered = this.offeredFeatures()
    this.features = offered & (wanted ?? ~(FEATURE.RING_PACKED | FEATURE.RING_RESET))
    this.writeFeatures(this.features)
    this.addStatus(STATUS.FEATURES_OK)
    return (this.status & STATUS.FEATURES_OK) !== 0
  }

  queueSizeMax(index: number): number {
    void this.write32(MMIO.QUEUE_SEL, index)
    return this.read32(MMIO.QUEUE_SIZE_MAX)
  }

  queueReady(index: number): boolean {
    void this.write32(MMIO.QUEUE_SEL, index)
    return this.read32(MMIO.QUEUE_READY) === 1
  }

  /** 4.2.3.2: makes a ring, tells the device where it is and sets it ready. */
  setupQueue(index: number, size: number): SplitRingDriver {
    const ring = new SplitRingDriver({
      memory: this.memory,
      allocator: this.allocator,
      size,
      eventIdx: (this.features & FEATURE.RING_EVENT_IDX) !== 0n,
    })
    this.rings[index] = ring
    this.writeQueue(index, size, ring)
    return ring
  }

  /** The register writes of {@link setupQueue}, with any values. */
  writeQueue(index: number, size: number, at: RingAddresses): void {
    void this.write32(MMIO.QUEUE_SEL, index)
    void this.write32(MMIO.QUEUE_SIZE, size)
    this.write64(MMIO.QUEUE_DESC_LOW, at.desc)
    this.write64(MMIO.QUEUE_DRIVER_LOW, at.avail)
    this.write64(MMIO.QUEUE_DEVICE_LOW, at.used)
    void this.write32(MMIO.QUEUE_READY, 1)
  }

  write64(lowRegister: number, value: number): void {
    void this.write32(lowRegister, value >>> 0)
    void this.write32(lowRegister + 4, Math.floor(value / 2 ** 32))
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

  notify(index: number): void {
    void this.write32(MMIO.QUEUE_NOTIFY, index)
  }

  /** Publishes what was added to the ring and notifies the device if it wants to know. */
  kick(index: number): void {
    const ring = this.rings[index]
    if (ring === undefined) throw new Error(`queue ${index} is not set up`)
    if (ring.publish()) this.notify(index)
  }

  /** Adds one chain, kicks and waits until the device gave back every chain in flight; returns that chain. */
  async request(index: number, request: ChainRequest): Promise<DriverChain> {
    const ring = this.rings[index]
    if (ring === undefined) throw new Error(`queue ${index} is not set up`)
    const chain = ring.add(request)
    this.kick(index)
    await until(() => {
      ring.reap()
      return chain.written !== undefined
    }, `a chain of queue ${index}`)
    return chain
  }

  /** Reads InterruptStatus and acknowledges what it shows, as an interrupt handler does. */
  handleInterrupt(): { usedBuffer: boolean; configChange: boolean } {
    const status = this.read32(MMIO.INTERRUPT_STATUS)
    void this.write32(MMIO.INTERRUPT_ACK, status)
    return {
      usedBuffer: (status & INTERRUPT.USED_BUFFER) !== 0,
      configChange: (status & INTERRUPT.CONFIG_CHANGE) !== 0,
    }
  }

  get configGeneration(): number {
    return this.read32(MMIO.CONFIG_GENERATION)
  }

  readConfigAt(offset: number, size: 1 | 2 | 4): number {
    return this.#device.read(MMIO.CONFIG + offset, size)
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

  writeConfig(offset: number, value: number, size: 1 | 2 | 4): void {
    void this.#device.write(MMIO.CONFIG + offset, size, value)
  }
}
