import type { VirtioDevice } from "@virtkit/interface"
import { type RingOffers, ringOffers, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1 } from "@virtkit/virtio"
import { ConfigRequests } from "./config-requests.js"
import * as protocol from "./constants.js"
import { VhostUserError } from "./error.js"
import type { Handler, Handlers } from "./handler.js"
import { MemoryRequests } from "./memory-requests.js"
import { neededFeature, type Reply, type Request, u64 } from "./message.js"
import * as payload from "./payload.js"
import { Runner, type RunnerEvents } from "./runner.js"
import { VringRequests } from "./vring-requests.js"

/** What a session tells whoever runs it. None of these may throw. */
export interface SessionEvents extends Omit<RunnerEvents, "configChanged"> {
  /** The kick descriptor of that queue is to be watched from now on, or no more. */
  watch(fd: number, queue: number): void
  unwatch(fd: number): void
}

/** Feature bits that are of the protocol, not of the device. */
const NOT_THE_DEVICES = protocol.VHOST_F_LOG_ALL | protocol.VHOST_USER_F_PROTOCOL_FEATURES

/**
 * What one front end has set up of a device: the state machine of the protocol, without its socket. Requests come one after
 * the other; the next one not before the promise of the last has settled.
 */
export class Session {
  readonly #runner: Runner
  readonly #memory: MemoryRequests
  readonly #vrings: VringRequests
  readonly #config: ConfigRequests
  readonly #offered: bigint
  /** As SET_FEATURES gave them. */
  #features = 0n
  #protocolFeatures = 0n
  #status = 0
  #ended = false
  readonly #handlers: ReadonlyMap<number, Handler>

  constructor(device: VirtioDevice, rings: RingOffers, events: SessionEvents) {
    const user = {
      features: () => this.#features,
      paused: (change: () => void) => this.#runner.paused(change),
      watch: (fd: number, queue: number) => events.watch(fd, queue),
      unwatch: (fd: number) => events.unwatch(fd),
    }
    this.#memory = new MemoryRequests(user)
    this.#offered = device.features | VIRTIO_F_VERSION_1 | ringOffers(rings) | NOT_THE_DEVICES
    this.#runner = new Runner(device, this.#memory.memory, {
      queuesChanged: (running) => events.queuesChanged(running),
      resumed: (queue, requests) => events.resumed(queue, requests),
      needsReset: (reason) => {
        events.needsReset(reason)
        this.#config.tellChange()
      },
      configChanged: () => this.#config.tellChange(),
      error: (error) => events.error(error),
    })
    this.#vrings = new VringRequests(this.#runner, user)
    this.#config = new ConfigRequests(this.#runner)
    const groups = [this.#ownHandlers(), this.#memory.handlers, this.#vrings.handlers, this.#config.handlers]
    this.#handlers = new Map(groups.flat())
  }

  /** Whether requests that ask for it are acknowledged. */
  get acknowledges(): boolean {
    return this.#has(protocol.VHOST_USER_PROTOCOL_F_REPLY_ACK)
  }

  /**
   * Carries out a request; resolves to its answer, if it is of those that have one. Rejects with {@link VhostUserError} when it
   * breaks the protocol, after which {@link end} is due.
   */
  async handle(request: Request): Promise<Reply | undefined> {
    const needed = neededFeature(request.code)
    if (!this.#has(needed)) {
      throw new VhostUserError(`${request.name}: its protocol feature was not negotiated`)
    }
    return this.#handlers.get(request.code)!(request)
  }

  /** The front end made buffers available in that queue. */
  kicked(index: number): void {
    this.#runner.kicked(index)
  }

  /** The connection is gone: quiesces the device and lets go of everything. What is in flight stays written down. */
  async end(): Promise<void> {
    if (this.#ended) return
    this.#ended = true
    this.#vrings.dropKicks()
    await this.#runner.end()
    this.#config.close()
    this.#memory.close()
  }

  #has(protocolFeatures: bigint): boolean {
    return (this.#protocolFeatures & protocolFeatures) === protocolFeatures
  }

  #ownHandlers(): Handlers {
    return [
      [protocol.VHOST_USER_GET_FEATURES, () => ({ payload: u64(this.#offered) })],
      [protocol.VHOST_USER_SET_FEATURES, (request) => this.#setFeatures(request)],
      // There is one owner: who is connected.
      [protocol.VHOST_USER_SET_OWNER, () => undefined],
      // "No longer used"; back ends are asked to ignore it.
      [protocol.VHOST_USER_RESET_OWNER, () => undefined],
      [protocol.VHOST_USER_GET_PROTOCOL_FEATURES, () => ({ payload: u64(protocol.PROTOCOL_FEATURES) })],
      [protocol.VHOST_USER_SET_PROTOCOL_FEATURES, (request) => this.#setProtocolFeatures(request)],
      [protocol.VHOST_USER_RESET_DEVICE, () => this.#reset()],
      [protocol.VHOST_USER_SET_STATUS, (request) => this.#setStatus(request)],
      [protocol.VHOST_USER_GET_STATUS, () => ({ payload: u64(BigInt(this.#statusBits)) })],
    ]
  }

  get #statusBits(): number {
    return this.#status | (this.#runner.needsReset ? VIRTIO_CONFIG_S_NEEDS_RESET : 0)
  }

  /** Comes while rings run, too: that is how a front end switches the log on and off. */
  #setFeatures(request: Request): undefined {
    const features = payload.parseU64(request)
    const unknown = features & ~this.#offered
    if (unknown !== 0n) {
      throw new VhostUserError(`SET_FEATURES: 0x${unknown.toString(16)} were not offered`)
    }
    const forTheDevice = features & ~NOT_THE_DEVICES
    if (forTheDevice !== this.#runner.features && this.#runner.isRunning) {
      throw new VhostUserError("SET_FEATURES: other features while queues run")
    }
    this.#features = features
    this.#runner.features = forTheDevice
    this.#memory.chooseLog()
  }

  #setProtocolFeatures(request: Request): undefined {
    const features = payload.parseU64(request)
    const unknown = features & ~protocol.PROTOCOL_FEATURES
    if (unknown !== 0n) {
      throw new VhostUserError(`SET_PROTOCOL_FEATURES: 0x${unknown.toString(16)} were not offered`)
    }
    this.#protocolFeatures = features
  }

  async #setStatus(request: Request): Promise<undefined> {
    const status = payload.parseU64(request)
    if (status > 0xffn) throw new VhostUserError(`SET_STATUS: 0x${status.toString(16)} is no status`)
    if (status === 0n) await this.#reset()
    this.#status = Number(status) & ~VIRTIO_CONFIG_S_NEEDS_RESET
  }

  /** RESET_DEVICE, or status 0: the device is as at the start, the connection and its memory table stay. */
  async #reset(): Promise<undefined> {
    await this.#runner.reset()
    this.#vrings.dropKicks()
    this.#status = 0
  }
}
