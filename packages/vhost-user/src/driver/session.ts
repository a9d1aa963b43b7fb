import type { DeviceContext, ExternalQueue, GuestMemory, GuestMemoryRegion } from "@virtkit/interface"
import { UnixSocket, unixConnect } from "@virtkit/native"
import {
  VIRTIO_CONFIG_S_ACKNOWLEDGE,
  VIRTIO_CONFIG_S_DRIVER,
  VIRTIO_CONFIG_S_DRIVER_OK,
  VIRTIO_CONFIG_S_FEATURES_OK,
  VIRTIO_CONFIG_S_NEEDS_RESET,
  VIRTIO_F_VERSION_1,
} from "@virtkit/virtio"
import { VIRTIO_F_RING_EVENT_IDX, VIRTIO_F_RING_INDIRECT_DESC } from "@virtkit/virtqueue"
import * as protocol from "../constants.js"
import { VhostUserError } from "../error.js"
import { u64 } from "../message.js"
import { closeFds } from "../message-reader.js"
import { BackEnd, type BackEndEvents } from "./back-end.js"
import type { VhostUserSettings } from "./options.js"
import * as payloads from "./payloads.js"
import type { EventsOfQueue } from "./queue-events.js"
import { MAX_QUEUES } from "./types.js"

/** What rings can have here. Where a packed ring is at, only its back end knows, and could not be asked when it died. */
const RING_FEATURES: bigint = VIRTIO_F_RING_INDIRECT_DESC | VIRTIO_F_RING_EVENT_IDX
/** Bits 0 to 23 and from 50 on are a device's own (virtio 1.3, section 2.2). */
const DEVICE_FEATURES = 0xff_ffffn | (0x3fffn << 50n)

const WANTED: bigint =
  protocol.VHOST_USER_PROTOCOL_F_MQ |
  protocol.VHOST_USER_PROTOCOL_F_REPLY_ACK |
  protocol.VHOST_USER_PROTOCOL_F_CONFIG |
  protocol.VHOST_USER_PROTOCOL_F_RESET_DEVICE |
  protocol.VHOST_USER_PROTOCOL_F_STATUS

/** The in-flight memory that the front end keeps for the next back end. */
export interface KeptInflight extends payloads.InflightMemory {
  readonly fd: number
}

export interface InflightKeeper {
  inflight: KeptInflight | undefined
}

/** A connected back end and what it said of itself. */
export class BackEndSession {
  /** All feature bits that it offers. */
  readonly features: bigint
  /** How many queues it has; for a network device, pairs. */
  readonly queueCount: number
  readonly #backEnd: BackEnd
  /** Queues that were started. */
  #started: number[] = []

  /** Connects and negotiates. Throws what the system says of the socket, {@link VhostUserError} for a back end that cannot be. */
  static async connect(settings: VhostUserSettings, events: BackEndEvents): Promise<BackEndSession> {
    const backEnd = new BackEnd(new UnixSocket(unixConnect(settings.socket)), settings.timeoutMs, events)
    try {
      const features = await backEnd.askU64("GET_FEATURES")
      if ((features & VIRTIO_F_VERSION_1) === 0n) throw new VhostUserError("it has no VIRTIO_F_VERSION_1")
      if ((features & protocol.VHOST_USER_F_PROTOCOL_FEATURES) !== 0n) await negotiate(backEnd, settings)
      await backEnd.tell("SET_OWNER")
      const hasMany = backEnd.has(protocol.VHOST_USER_PROTOCOL_F_MQ)
      const count = hasMany ? await backEnd.askU64("GET_QUEUE_NUM") : BigInt(MAX_QUEUES)
      if (backEnd.has(protocol.VHOST_USER_PROTOCOL_F_BACKEND_REQ)) await backEnd.openChannel()
      return new BackEndSession(backEnd, features, Number(count < MAX_QUEUES ? count : MAX_QUEUES))
    } catch (error) {
      backEnd.close(error instanceof VhostUserError ? error : undefined)
      throw error
    }
  }

  private constructor(backEnd: BackEnd, features: bigint, queueCount: number) {
    this.#backEnd = backEnd
    this.features = features
    this.queueCount = queueCount
  }

  get deviceFeatures(): bigint {
    return this.features & DEVICE_FEATURES
  }

  get ringFeatures(): bigint {
    return this.features & RING_FEATURES
  }

  get hasConfig(): boolean {
    return this.#backEnd.has(protocol.VHOST_USER_PROTOCOL_F_CONFIG)
  }

  get isClosed(): boolean {
    return this.#backEnd.isClosed
  }

  close(error?: VhostUserError): void {
    this.#backEnd.close(error)
  }

  /** Reads the first bytes of the configuration space into `target`. */
  async readConfig(target: Uint8Array): Promise<void> {
    const request = payloads.configRange(0, new Uint8Array(target.length))
    const { payload, fds } = await this.#backEnd.ask("GET_CONFIG", request, request.length)
    closeFds(fds)
    if (payload.getUint32(0, true) !== 0 || payload.getUint32(4, true) !== target.length) {
      throw new VhostUserError("GET_CONFIG: an answer about other bytes than those asked for")
    }
    target.set(new Uint8Array(payload.buffer, payload.byteOffset + 12, target.length))
  }

  async writeConfig(offset: number, data: Uint8Array): Promise<void> {
    await this.#backEnd.tell("SET_CONFIG", payloads.configRange(offset, data))
  }

  /** Whether the device says that only a reset heals it. */
  async needsReset(): Promise<boolean> {
    if (!this.#backEnd.has(protocol.VHOST_USER_PROTOCOL_F_STATUS)) return false
    return (Number(await this.#backEnd.askU64("GET_STATUS")) & VIRTIO_CONFIG_S_NEEDS_RESET) !== 0
  }

  /**
   * Hands the queues over, of which it looks at those that `isEnabled`. `keeper` has what an earlier back end left, and gets what to keep for the next one.
   */
  async start(
    context: Pick<DeviceContext, "memory" | "features" | "external">,
    events: readonly EventsOfQueue[],
    keeper: InflightKeeper,
    isEnabled: (queue: number) => boolean,
  ): Promise<void> {
    const backEnd = this.#backEnd
    const protocolBit = this.features & protocol.VHOST_USER_F_PROTOCOL_FEATURES
    await backEnd.tell("SET_FEATURES", u64((context.features & this.features) | protocolBit))
    const regions = sharedRegions(context.memory)
    const fds = regions.map(({ file }) => file!.fd)
    await backEnd.tell("SET_MEM_TABLE", payloads.memoryTable(regions), fds)
    const queues = (context.external ?? []).flatMap((queue, index) => (queue ? [{ queue, index }] : []))
    await this.#shareInflight(queues, keeper)
    for (const { queue, index } of queues) {
      this.#started.push(index)
      await this.#setUp(index, queue, context.memory, events[index]!)
    }
    // "If VHOST_USER_F_PROTOCOL_FEATURES has not been negotiated, the ring starts directly in the enabled state."
    if (protocolBit !== 0n) {
      for (const { index } of queues) if (isEnabled(index)) await this.enable(index, true)
    }
    await this.#setStatus(RUNNING)
  }

  /** Whether the back end is to look at a queue that it has. */
  async enable(index: number, enabled: boolean): Promise<void> {
    if (!this.#started.includes(index)) return
    await this.#backEnd.tell("SET_VRING_ENABLE", payloads.vringState(index, enabled ? 1 : 0))
  }

  /** Takes the queues back: when it resolves the back end touches neither them nor what they lead to. */
  async stop(): Promise<void> {
    const started = this.#started
    this.#started = []
    for (const index of started) {
      const { fds } = await this.#backEnd.ask("GET_VRING_BASE", payloads.vringState(index, 0), 8)
      closeFds(fds)
    }
    if (this.#backEnd.has(protocol.VHOST_USER_PROTOCOL_F_STATUS)) await this.#setStatus(0)
    else if (this.#backEnd.has(protocol.VHOST_USER_PROTOCOL_F_RESET_DEVICE)) {
      await this.#backEnd.tell("RESET_DEVICE")
    }
  }

  async #setUp(
    index: number,
    queue: ExternalQueue,
    memory: GuestMemory,
    events: EventsOfQueue,
  ): Promise<void> {
    const backEnd = this.#backEnd
    const { size, desc, avail, used } = queue
    await backEnd.tell("SET_VRING_NUM", payloads.vringState(index, size))
    // What is used is done; what was in flight beyond that is taken again, or known from the in-flight memory.
    const usedIndex = memory.readUint16(used + 2)
    await backEnd.tell("SET_VRING_BASE", payloads.vringState(index, usedIndex))
    const [userDesc, userUsed, userAvail] = [desc, used, avail].map((each) => memory.hostAddress(each, 1))
    const addresses = payloads.vringAddresses(index, userDesc!, userUsed!, userAvail!)
    await backEnd.tell("SET_VRING_ADDR", addresses)
    await backEnd.tell("SET_VRING_ERR", payloads.vringFd(index), [events.err.fd])
    await backEnd.tell("SET_VRING_CALL", payloads.vringFd(index), [events.call.fd])
    await backEnd.tell("SET_VRING_KICK", payloads.vringFd(index), [events.kick.fd])
  }

  async #shareInflight(
    queues: readonly { readonly queue: ExternalQueue; readonly index: number }[],
    keeper: InflightKeeper,
  ): Promise<void> {
    if (!this.#backEnd.has(protocol.VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD) || queues.length === 0) return
    keeper.inflight ??= await this.#newInflight(queues)
    const { inflight } = keeper
    await this.#backEnd.tell("SET_INFLIGHT_FD", payloads.inflight(inflight), [inflight.fd])
  }

  async #newInflight(
    queues: readonly { readonly queue: ExternalQueue; readonly index: number }[],
  ): Promise<KeptInflight> {
    const numQueues = 1 + Math.max(...queues.map(({ index }) => index))
    const queueSize = Math.max(...queues.map(({ queue }) => queue.size))
    const request = payloads.inflight({ size: 0, offset: 0, numQueues, queueSize })
    const { payload, fds } = await this.#backEnd.ask("GET_INFLIGHT_FD", request, request.length)
    const size = payload.getBigUint64(0, true)
    const offset = payload.getBigUint64(8, true)
    const [fd, ...others] = fds
    if (fd === undefined || others.length > 0 || size === 0n || size >= 2n ** 53n || offset >= 2n ** 53n) {
      closeFds(fds)
      throw new VhostUserError("GET_INFLIGHT_FD: an answer without memory")
    }
    return { fd, size: Number(size), offset: Number(offset), numQueues, queueSize }
  }

  async #setStatus(status: number): Promise<void> {
    if (!this.#backEnd.has(protocol.VHOST_USER_PROTOCOL_F_STATUS)) return
    await this.#backEnd.tell("SET_STATUS", u64(BigInt(status)))
  }
}

const RUNNING =
  VIRTIO_CONFIG_S_ACKNOWLEDGE |
  VIRTIO_CONFIG_S_DRIVER |
  VIRTIO_CONFIG_S_FEATURES_OK |
  VIRTIO_CONFIG_S_DRIVER_OK

async function negotiate(backEnd: BackEnd, { reconnect }: VhostUserSettings): Promise<void> {
  const offered = await backEnd.askU64("GET_PROTOCOL_FEATURES")
  let features = offered & WANTED
  if (reconnect) features |= offered & protocol.VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD
  // What it says by itself is that its configuration has changed.
  if ((features & protocol.VHOST_USER_PROTOCOL_F_CONFIG) !== 0n) {
    features |= offered & protocol.VHOST_USER_PROTOCOL_F_BACKEND_REQ
  }
  await backEnd.tell("SET_PROTOCOL_FEATURES", u64(features))
  backEnd.protocolFeatures = features
}

/** Throws {@link VhostUserError} for memory that cannot be handed over. */
function sharedRegions({ regions }: GuestMemory): readonly GuestMemoryRegion[] {
  if (regions.some(({ file }) => file === undefined)) {
    throw new VhostUserError("guest memory is of this process alone: it has to be a memfd")
  }
  if (regions.length > protocol.VHOST_MEMORY_BASELINE_NREGIONS) {
    throw new VhostUserError(
      `guest memory has ${regions.length} regions, vhost-user takes ${protocol.VHOST_MEMORY_BASELINE_NREGIONS}`,
    )
  }
  return regions
}
