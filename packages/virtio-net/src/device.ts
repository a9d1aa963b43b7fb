import { EventEmitter } from "node:events"
import { type DeviceContext, StateError, type VirtioDevice } from "@virtkit/interface"
import { Limiter } from "@virtkit/virtqueue"
import type { NetBackend } from "./backend.js"
import type { Capture, CaptureFile } from "./capture.js"
import { type NetConfig, netConfigSpace, netFeatures, setStatus } from "./config.js"
import {
  CONFIG,
  MAC_BYTES,
  VIRTIO_ID_NET,
  VIRTIO_NET_F_CTRL_VLAN,
  VIRTIO_NET_F_CTRL_VQ,
  VIRTIO_NET_F_GUEST_ANNOUNCE,
  VIRTIO_NET_F_MQ,
  VIRTIO_NET_F_MRG_RXBUF,
  VIRTIO_NET_S_ANNOUNCE,
  VIRTIO_NET_S_LINK_UP,
} from "./constants.js"
import type { ControlCommand } from "./control.js"
import { ControlQueue } from "./control-queue.js"
import type { NetCore } from "./core.js"
import { type NetCounters, newCounters } from "./counters.js"
import { ReceiveFilter } from "./filter.js"
import { formatMac } from "./mac.js"
import { GUEST_OFFLOAD_FEATURES, receiveOffloads, transmitOffloads } from "./offloads.js"
import { type RateLimit, rateOf } from "./rate.js"
import { ReceiveQueue } from "./receive.js"
import { Session } from "./session.js"
import { filterState, type NetState, parseNetState, restoreFilter } from "./state.js"
import { TransmitQueue } from "./transmit.js"

/** 5.1.2: a receive and a transmit queue for each pair. */
const QUEUES_OF_PAIR = 2

export interface NetEvents {
  /** The link came or went; `reason` is for people. */
  link: [up: boolean, reason: string]
}

export interface NetDeviceOptions {
  readonly name: string
  readonly backend: NetBackend
  readonly config: NetConfig
  /** OFFLOAD_ bits that may be offered, if the backend can. */
  readonly offloads: number
  readonly queueSize: number
  readonly receiveLimit: RateLimit | undefined
  readonly transmitLimit: RateLimit | undefined
  readonly capture: CaptureFile | undefined
}

/** The virtio network device (virtio 1.3, section 5.1). Made by `net`. */
export class NetDevice extends EventEmitter<NetEvents> implements VirtioDevice {
  readonly name: string
  readonly deviceType: number = VIRTIO_ID_NET
  readonly features: bigint
  readonly queueMaxSizes: readonly number[]
  readonly config: Uint8Array
  readonly counters: Readonly<NetCounters>

  readonly #counters: NetCounters
  readonly #backend: NetBackend
  readonly #initial: NetConfig
  readonly #receiveLimiter: Limiter
  readonly #transmitLimiter: Limiter
  #filter: ReceiveFilter
  #core: NetCore | undefined
  #session: Session | undefined
  #control: ControlQueue | undefined
  /** Queue of commands; it depends on whether MQ was negotiated. */
  #controlIndex = -1
  /** As the user set it; the guest sees a link if the backend has one too. */
  #linkWanted = true
  #backendUp: boolean
  #capture: Capture | undefined
  /** The one that was asked for with the device. */
  readonly #ownCapture: CaptureFile | undefined
  #restored: NetState | undefined
  #closed: Promise<void> | undefined

  constructor(options: NetDeviceOptions) {
    super()
    const { backend, config, queueSize } = options
    this.name = options.name
    this.features = netFeatures(backend.info, config, options.offloads)
    this.queueMaxSizes = new Array<number>(QUEUES_OF_PAIR * config.queuePairs).fill(queueSize).concat(64)
    this.config = netConfigSpace(config)
    this.#counters = newCounters(config.queuePairs)
    this.counters = this.#counters
    this.#backend = backend
    this.#initial = config
    this.#filter = new ReceiveFilter(this.config)
    this.#backendUp = backend.info.linkUp
    this.#ownCapture = options.capture
    this.#capture = options.capture
    this.#receiveLimiter = new Limiter(rateOf(options.receiveLimit), () => this.#resumeReceiving())
    this.#transmitLimiter = new Limiter(rateOf(options.transmitLimit), () => this.#resumeTransmitting())
    setStatus(this.config, VIRTIO_NET_S_LINK_UP, this.linkUp)
  }

  /** The address that the guest uses; the driver may change it. */
  get mac(): string {
    return formatMac(this.config)
  }

  /** Whether the guest sees a link: it was not taken down, and the backend has its other end. */
  get linkUp(): boolean {
    return this.#linkWanted && this.#backendUp
  }

  /** Pairs of queues that the driver uses at present. */
  get queuePairs(): number {
    return this.#core?.queuePairs ?? 1
  }

  /** Pulls the cable, or puts it back. Frames are dropped in both directions while it is out. */
  setLink(up: boolean): void {
    this.#linkWanted = up
    this.#showLink(up ? "set up" : "set down")
  }

  /** Changes the rate limits while the guest runs; undefined: none. */
  setLimits(limits: { receive?: RateLimit | undefined; transmit?: RateLimit | undefined }): void {
    if ("receive" in limits) this.#receiveLimiter.set(rateOf(limits.receive))
    if ("transmit" in limits) this.#transmitLimiter.set(rateOf(limits.transmit))
  }

  /** From now on copies of all frames go to `capture`, those of before no more. Undefined: none. */
  setCapture(capture: Capture | undefined): void {
    this.#capture = capture
    if (this.#core !== undefined) this.#core.capture = capture
  }

  /**
   * Asks the guest to tell the network where it is (gratuitous ARP), as after a move to another host. False when the
   * driver cannot. After a restore it is done without being asked for.
   */
  announce(): boolean {
    const core = this.#core
    if (core === undefined || !this.#negotiated(VIRTIO_NET_F_GUEST_ANNOUNCE)) return false
    core.context.updateConfig(() => setStatus(this.config, VIRTIO_NET_S_ANNOUNCE, true))
    return true
  }

  /**
   * Uses so many pairs of queues, as the driver asks for by a command; for a front end that carries such commands out by
   * itself (vhost-user). False when the driver did not negotiate MQ, or for a number of pairs that there are not.
   */
  setQueuePairs(pairs: number): boolean {
    // 5.1.6.5.5: from 1 to max_virtqueue_pairs.
    if (!this.#negotiated(VIRTIO_NET_F_MQ) || pairs < 1 || pairs > this.#initial.queuePairs) return false
    this.#core!.queuePairs = pairs
    this.#backend.setQueuePairs?.(pairs)
    return true
  }

  activate(context: DeviceContext): void {
    const negotiated = context.features
    const restored = this.#restored
    this.#restored = undefined
    const mq = (negotiated & VIRTIO_NET_F_MQ) !== 0n
    const core: NetCore = {
      context,
      backend: this.#backend,
      counters: this.#counters,
      filter: this.#filter,
      receiveLimiter: this.#receiveLimiter,
      transmitLimiter: this.#transmitLimiter,
      mergeable: (negotiated & VIRTIO_NET_F_MRG_RXBUF) !== 0n,
      transmitOffloads: transmitOffloads(negotiated),
      receiveOffloads: receiveOffloads(negotiated) & (restored?.receiveOffloads ?? -1),
      queuePairs: mq ? (restored?.queuePairs ?? 1) : 1,
      linkUp: this.linkUp,
      capture: this.#capture,
    }
    this.#core = core
    this.#filter.vlanFiltering = (negotiated & VIRTIO_NET_F_CTRL_VLAN) !== 0n
    this.#session = new Session(core, (up, reason) => this.#backendLink(up, reason))
    // 5.1.2: without MQ there is one pair, and the control queue follows it.
    this.#controlIndex = QUEUES_OF_PAIR * (mq ? this.#initial.queuePairs : 1)
    if ((negotiated & VIRTIO_NET_F_CTRL_VQ) !== 0n) {
      this.#control = new ControlQueue(this.#controlIndex, core, (command) => this.#execute(command))
    }
    this.#setUpQueues()
    this.#backend.start(this.#session, core.receiveOffloads)
    if (core.queuePairs !== 1) this.#backend.setQueuePairs?.(core.queuePairs)
    this.#backendLink(this.#backend.info.linkUp, this.#backend.info.description)
    if (restored !== undefined) this.announce()
    this.#control?.notify()
    for (const queue of this.#session.transmitQueues) queue?.notify()
  }

  notify(queueIndex: number): void {
    if (queueIndex === this.#controlIndex) {
      this.#control?.notify()
      return
    }
    const session = this.#session
    if (session === undefined || queueIndex > this.#controlIndex) return
    const pair = queueIndex >> 1
    const queues = (queueIndex & 1) === 0 ? session.receiveQueues : session.transmitQueues
    const queue = queues[pair]
    if (queue !== undefined) {
      queue.notify()
      return
    }
    // Enabled after a reset of the queue: what came meanwhile may wait at the backend.
    this.#setUpQueue(queueIndex)
    if (queues === session.receiveQueues) session.receiveQueues[pair]?.ready()
    else session.transmitQueues[pair]?.notify()
  }

  resetQueue(queueIndex: number): void {
    const session = this.#session
    if (session === undefined || queueIndex >= this.#controlIndex) return
    const queues = (queueIndex & 1) === 0 ? session.receiveQueues : session.transmitQueues
    // Nothing is in flight: frames are moved within the calls of notify and of the backend.
    queues[queueIndex >> 1]?.close()
    queues[queueIndex >> 1] = undefined
  }

  reset(): Promise<void> {
    if (this.#session !== undefined) this.#backend.stop()
    this.#session?.close()
    this.#session = undefined
    this.#core = undefined
    this.#control = undefined
    this.#controlIndex = -1
    this.#restored = undefined
    this.#receiveLimiter.stop()
    this.#transmitLimiter.stop()
    this.config.set(this.#initial.mac, CONFIG.mac)
    setStatus(this.config, VIRTIO_NET_S_ANNOUNCE, false)
    this.#filter = new ReceiveFilter(this.config)
    return Promise.resolve()
  }

  close(): Promise<void> {
    this.#closed ??= this.reset()
      .then(() => this.#backend.close())
      .finally(() => this.#ownCapture?.close())
    return this.#closed
  }

  state(): NetState {
    return {
      version: 1,
      mac: this.config.slice(CONFIG.mac, CONFIG.mac + MAC_BYTES),
      maxQueuePairs: this.#initial.queuePairs,
      queuePairs: this.queuePairs,
      receiveOffloads: this.#core?.receiveOffloads ?? null,
      filter: filterState(this.#filter),
    }
  }

  restore(state: unknown): void {
    if (this.#core !== undefined) throw new StateError(`network device ${this.name} is in use`)
    const saved = parseNetState(state, this.#initial.queuePairs)
    this.config.set(saved.mac, CONFIG.mac)
    restoreFilter(this.#filter, saved.filter)
    this.#restored = saved.receiveOffloads === null ? undefined : saved
  }

  #setUpQueues(): void {
    for (let index = 0; index < this.#controlIndex; index++) this.#setUpQueue(index)
  }

  #setUpQueue(index: number): void {
    const core = this.#core!
    const session = this.#session!
    const queue = core.context.queues[index]
    if (queue === undefined) return
    const pair = index >> 1
    if ((index & 1) === 0) session.receiveQueues[pair] = new ReceiveQueue(pair, queue, core)
    else session.transmitQueues[pair] = new TransmitQueue(pair, queue, core)
  }

  #negotiated(feature: bigint): boolean {
    return this.#core !== undefined && (this.#core.context.features & feature) !== 0n
  }

  /** Carries out a command; false when it cannot be (5.1.6.5). */
  #execute(command: ControlCommand): boolean {
    const filter = this.#filter
    switch (command.kind) {
      case "mode":
        filter.modes[command.mode] = command.on
        return true
      case "macTable":
        filter.unicast = command.unicast
        filter.multicast = command.multicast
        return true
      case "mac":
        // The driver knows it, so it is not told of the change.
        this.config.set(command.mac, CONFIG.mac)
        return true
      case "vlan":
        filter.setVlan(command.vlan, command.on)
        return true
      case "announced":
        return setStatus(this.config, VIRTIO_NET_S_ANNOUNCE, false)
      case "queuePairs":
        return this.setQueuePairs(command.pairs)
      case "offloads":
        return this.#setOffloads(command.features)
    }
  }

  #setOffloads(features: bigint): boolean {
    const core = this.#core!
    // 5.1.6.5.6.1: only what was negotiated.
    if ((features & ~(core.context.features & GUEST_OFFLOAD_FEATURES)) !== 0n) return false
    core.receiveOffloads = receiveOffloads(features)
    this.#backend.setOffloads?.(core.receiveOffloads)
    return true
  }

  #backendLink(up: boolean, reason: string): void {
    this.#backendUp = up
    this.#showLink(reason)
  }

  #showLink(reason: string): void {
    const up = this.linkUp
    const core = this.#core
    if (core !== undefined) core.linkUp = up
    const shown = (this.config[CONFIG.status]! & VIRTIO_NET_S_LINK_UP) !== 0
    if (up === shown) return
    const update = () => void setStatus(this.config, VIRTIO_NET_S_LINK_UP, up)
    if (core === undefined) update()
    else core.context.updateConfig(update)
    if (!up) this.#counters.linkDowns++
    this.emit("link", up, reason)
  }

  #resumeReceiving(): void {
    for (const queue of this.#session?.receiveQueues ?? []) queue?.notify()
  }

  #resumeTransmitting(): void {
    for (const queue of this.#session?.transmitQueues ?? []) queue?.ready()
  }
}
