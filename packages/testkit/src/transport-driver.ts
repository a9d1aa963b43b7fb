import type { GuestMemory } from "@virtkit/interface"
import type { TestAllocator } from "./allocator.js"
import type { PackedRingDriver } from "./packed-ring.js"
import type { ChainRequest, DriverChain, RingDriver } from "./ring-driver.js"
import type { SplitRingDriver } from "./split-ring.js"

/** Guest addresses of the three parts of a ring: descriptors, driver area, device area. */
export interface RingAddresses {
  readonly desc: number
  readonly avail: number
  readonly used: number
}

export interface StartOptions {
  /** Features to accept if offered. Default: `wantedFeatures` of the driver. */
  readonly features?: bigint
  /** Size of every queue, at most its maximum. Default 16. */
  readonly queueSize?: number
  /** Number of queues to enable. Default: all. */
  readonly queues?: number
}

/** The driver side of a virtio transport, by whatever registers it does so. What {@link transportConformance} drives. */
export interface TransportDriver {
  readonly memory: GuestMemory
  readonly allocator: TestAllocator
  /** By queue index, those that were set up: split rings, or packed ones if VIRTIO_F_RING_PACKED was negotiated. */
  readonly rings: readonly SplitRingDriver[]
  readonly packedRings: readonly PackedRingDriver[]
  /** What {@link negotiate} accepts if offered. At first: all but packed rings and queue reset. */
  wantedFeatures: bigint
  /** Features that both sides accepted. */
  readonly features: bigint

  readonly status: number
  writeStatus(value: number): void | Promise<void>
  /** Sets further status bits, keeping those that are set. */
  addStatus(bits: number): void
  /** Writes 0 to the status and waits as long as the vCPU would. */
  reset(): Promise<void>
  /** 3.1.1 steps 1 to 3. */
  begin(): Promise<void>

  offeredFeatures(): bigint
  writeFeatures(features: bigint): void
  /** 3.1.1 steps 4 to 6; returns whether the device kept FEATURES_OK. */
  negotiate(wanted?: bigint): boolean

  /** 0 where there is no queue. */
  queueSizeMax(index: number): number
  queueReady(index: number): boolean
  /** Writes size and addresses of a queue and enables it. */
  writeQueue(index: number, size: number, at: RingAddresses): void
  /** Makes a ring of the kind that was negotiated and writes it. */
  setupQueue(index: number, size: number): RingDriver
  /** The ring of a queue that was set up, of either kind. Throws if there is none. */
  ring(index: number): RingDriver
  /** Whether the device is at resetting that queue. */
  queueResetting(index: number): boolean
  /** Asks for a reset of one queue (2.6.1); settles when the vCPU that asked goes on. */
  writeQueueReset(index: number): void | Promise<void>
  /** Resets one queue and waits until that is complete. */
  resetQueue(index: number): Promise<void>
  /** The whole of 3.1.1. */
  start(options?: StartOptions): Promise<void>

  notify(index: number): void
  /** Publishes what was added to the ring and notifies the device if it wants to know. */
  kick(index: number): void
  /** Adds one chain, kicks and waits until the device gave it back. */
  request(index: number, request: ChainRequest): Promise<DriverChain>
  /** Reads and acknowledges the interrupt causes, as an interrupt handler does. */
  handleInterrupt(): { usedBuffer: boolean; configChange: boolean }

  /** Changes with the device configuration space. */
  readonly configGeneration: number
  readConfigAt(offset: number, size: 1 | 2 | 4): number
  writeConfig(offset: number, value: number, size: 1 | 2 | 4): void
}
