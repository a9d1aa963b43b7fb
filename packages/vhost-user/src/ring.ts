import type { EventFd } from "@virtkit/native"
import {
  createQueue,
  type DeviceQueue,
  type QueueOptions,
  type QueueState,
  type RingFeatures,
  ringFeatures,
} from "@virtkit/virtqueue"
import { VhostUserError } from "./error.js"
import type { FrontEndMemory } from "./guest-memory.js"
import { PackedLog, splitLog } from "./inflight-log.js"
import type { InflightRegion } from "./inflight-region.js"
import type { VringAddresses } from "./payload.js"
import { takenChains, whereToGoOn } from "./recover.js"
import { advance, isTail, isUsed, packedStart, takenPackedChains, twice } from "./recover-packed.js"
import { RunningQueue } from "./ring-queue.js"

/** What is needed to run a ring. */
export interface RingEnvironment {
  readonly memory: FrontEndMemory
  /** Negotiated features. */
  readonly features: bigint
  /** Where to write down what is in flight, if the front end wants that. */
  readonly inflight: InflightRegion | undefined
  onBroken(reason: string): void
}

/** How a queue was made. */
type MadeOptions = QueueOptions & Required<RingFeatures> & { readonly memory: FrontEndMemory }

/** A vring: what the front end said of it, and while it runs the queue over it. */
export class Ring {
  readonly index: number
  /** Number of descriptors; 0: not said yet. */
  size = 0
  addresses: VringAddresses | undefined
  /**
   * Where the front end wants to go on. Of a split ring, 16 bits: only the ring itself is believed, see {@link run}. Of a
   * packed one, where the next chain is taken, with the wrap counter in bit 15, and above it where the next is given back.
   */
  base = 0
  /** Set while the ring is "started". */
  kick: EventFd | undefined
  call: EventFd | undefined
  err: EventFd | undefined
  enabled = false
  running: RunningQueue | undefined

  constructor(index: number) {
    this.index = index
  }

  /** Everything is there, and the front end wants it to be looked at. */
  get isReady(): boolean {
    return this.kick !== undefined && this.enabled
  }

  /**
   * Makes the queue. What is in flight according to the environment is popped first; then what the ring has from used.idx
   * on: a base that differs would lose or repeat requests. Throws {@link VhostUserError}.
   */
  run(environment: RingEnvironment): RunningQueue {
    const { memory, features, inflight } = environment
    const name = `queue ${this.index}`
    if (this.size === 0) throw new VhostUserError(`${name} was started without SET_VRING_NUM`)
    if (this.addresses === undefined) throw new VhostUserError(`${name} was started without SET_VRING_ADDR`)
    const options = {
      index: this.index,
      size: this.size,
      desc: translate(memory, this.addresses.desc, `the descriptor table of ${name}`),
      avail: translate(memory, this.addresses.avail, `the available ring of ${name}`),
      used: translate(memory, this.addresses.used, `the used ring of ${name}`),
      memory,
      ...ringFeatures(features),
      onInterrupt: () => this.interrupt(),
      onBroken: environment.onBroken,
    }
    const { queue, reason } = createQueue(options)
    if (queue === undefined) throw new VhostUserError(reason)
    this.running = options.packed
      ? this.#runPacked(queue, options, inflight)
      : this.#runSplit(queue, options, inflight)
    return this.running
  }

  #runSplit(queue: DeviceQueue, options: MadeOptions, region: InflightRegion | undefined): RunningQueue {
    const { memory } = options
    const inflight = region?.split(this.index)
    const usedIndex = () => memory.readUint16(options.used + 2)
    const nextUsed = usedIndex()
    const heads = (inflight?.begin(nextUsed) ?? []).filter((head) => head < this.size)
    const inFlight = takenChains(options, memory.borrowed, heads)
    const nextAvail = (nextUsed + inFlight.length) & 0xffff
    this.#restore(queue, { ...stateOf(options), nextAvail, nextUsed, inFlight })
    const tail = () => whereToGoOn(queue.state() as QueueState, memory)
    const log = inflight && splitLog(inflight, usedIndex)
    return new RunningQueue(queue, { log, inOrder: options.inOrder, usedIndex, tail })
  }

  /**
   * Nothing in guest memory says where a packed ring goes on: what an earlier process wrote down does, or else the front end has
   * to be believed.
   */
  #runPacked(queue: DeviceQueue, options: MadeOptions, region: InflightRegion | undefined): RunningQueue {
    const { memory } = options
    const start = packedStart(this.base)
    const inflight = region?.packed(this.index)
    const isShown = (position: number) => isUsed(options, position)
    const { position, taken } = inflight?.begin(start, isShown) ?? { position: start, taken: [] }
    const inFlight = takenPackedChains(options, memory.borrowed, taken)
    const nextAvail = advance(position, inFlight, this.size)
    this.#restore(queue, { ...stateOf(options), nextAvail, nextUsed: position, inFlight })
    const state = () => queue.state() as QueueState
    const usedIndex = () => twice(state().nextUsed)
    const tail = () => (isTail(state(), memory) ? usedIndex() : undefined)
    const entries = taken.map(({ entry }) => entry)
    const log = inflight && new PackedLog(inflight, queue, options, entries)
    return new RunningQueue(queue, { log, inOrder: options.inOrder, usedIndex, tail })
  }

  #restore(queue: DeviceQueue, state: QueueState): void {
    const name = `queue ${this.index}`
    try {
      queue.restore(state)
    } catch (error) {
      // More in flight than the ring has room for, a slot that it does not have, or other things that no honest back end wrote
      // down.
      throw new VhostUserError(`${name}: what is in flight cannot be: ${(error as Error).message}`, {
        cause: error,
      })
    }
  }

  /** Stops it so that it can run again later, there or elsewhere. */
  async stop(): Promise<void> {
    const { running } = this
    if (running === undefined) return
    this.base = await running.stop()
    this.running = undefined
  }

  /** Tells the driver that it has got chains back. */
  interrupt(): void {
    this.call?.signal()
  }

  /** Back to how it was when the front end came, with no descriptor open. */
  reset(): void {
    this.running?.abandon()
    this.running = undefined
    for (const fd of [this.kick, this.call, this.err]) fd?.close()
    this.kick = undefined
    this.call = undefined
    this.err = undefined
    this.size = 0
    this.base = 0
    this.addresses = undefined
    this.enabled = false
  }
}

function translate(memory: FrontEndMemory, userAddress: number, what: string): number {
  const address = memory.guestAddressOf(userAddress)
  if (address === undefined) {
    throw new VhostUserError(
      `${what} at user address 0x${userAddress.toString(16)} is not in the memory table`,
    )
  }
  return address
}

/** What of its state follows from how a queue was made. */
function stateOf({ packed, inOrder, size, desc, avail, used }: MadeOptions) {
  const ring = packed ? ("packed" as const) : ("split" as const)
  return { version: 1, ring, inOrder, size, desc, avail, used, broken: null } as const
}
