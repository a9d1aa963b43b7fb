import type { VirtioDevice } from "@virtkit/interface"
import { EventFd, UnixSocket } from "@virtkit/native"
import { type RingOffers, ringOffers, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1 } from "@virtkit/virtio"
import { VIRTIO_F_RING_PACKED } from "@virtkit/virtqueue"
import * as protocol from "./constants.js"
import { DirtyLog } from "./dirty-log.js"
import { VhostUserError } from "./error.js"
import { FrontEndMemory } from "./guest-memory.js"
import { InflightRegion } from "./inflight-region.js"
import { encodeMessage, neededFeature, type Reply, type Request, u64 } from "./message.js"
import * as payload from "./payload.js"
import type { Ring } from "./ring.js"
import { Runner, type RunnerEvents } from "./runner.js"
import { type MappedFile, mapFile } from "./shared-file.js"

/** What a session tells whoever runs it. None of these may throw. */
export interface SessionEvents extends Omit<RunnerEvents, "configChanged"> {
  /** The kick descriptor of that queue is to be watched from now on, or no more. */
  watch(fd: number, queue: number): void
  unwatch(fd: number): void
}

/** Feature bits that are of the protocol, not of the device. */
const NOT_THE_DEVICES = protocol.VHOST_F_LOG_ALL | protocol.VHOST_USER_F_PROTOCOL_FEATURES

type Handler = (request: Request) => Reply | undefined | Promise<Reply | undefined>

/**
 * What one front end has set up of a device: the state machine of the protocol, without its socket. Requests come one after
 * the other; the next one not before the promise of the last has settled.
 */
export class Session {
  readonly #device: VirtioDevice
  readonly #events: SessionEvents
  readonly #runner: Runner
  readonly #memory: FrontEndMemory
  readonly #offered: bigint
  /** As SET_FEATURES gave them. */
  #features = 0n
  #protocolFeatures = 0n
  #status = 0
  #log: MappedFile | undefined
  #backEndChannel: UnixSocket | undefined
  #ended = false
  readonly #handlers: ReadonlyMap<number, Handler>

  constructor(device: VirtioDevice, rings: RingOffers, events: SessionEvents) {
    this.#device = device
    this.#events = events
    this.#memory = new FrontEndMemory((region, fd) => ({
      guestAddress: region.guestAddress,
      ...mapFile(fd, region.fileOffset, region.size, "memory table"),
    }))
    this.#offered = device.features | VIRTIO_F_VERSION_1 | ringOffers(rings) | NOT_THE_DEVICES
    this.#runner = new Runner(device, this.#memory, {
      queuesChanged: (running) => events.queuesChanged(running),
      resumed: (queue, requests) => events.resumed(queue, requests),
      needsReset: (reason) => {
        events.needsReset(reason)
        this.#tellConfigChange()
      },
      configChanged: () => this.#tellConfigChange(),
      error: (error) => events.error(error),
    })
    this.#handlers = this.#makeHandlers()
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
    for (const ring of this.#runner.rings) this.#dropKick(ring)
    await this.#runner.end()
    this.#setLog(undefined)
    this.#backEndChannel?.close()
    this.#memory.close()
  }

  #has(protocolFeatures: bigint): boolean {
    return (this.#protocolFeatures & protocolFeatures) === protocolFeatures
  }

  #makeHandlers(): Map<number, Handler> {
    return new Map<number, Handler>([
      [protocol.VHOST_USER_GET_FEATURES, () => ({ payload: u64(this.#offered) })],
      [protocol.VHOST_USER_SET_FEATURES, (request) => this.#setFeatures(request)],
      // There is one owner: who is connected.
      [protocol.VHOST_USER_SET_OWNER, () => undefined],
      // "No longer used"; back ends are asked to ignore it.
      [protocol.VHOST_USER_RESET_OWNER, () => undefined],
      [protocol.VHOST_USER_GET_PROTOCOL_FEATURES, () => ({ payload: u64(protocol.PROTOCOL_FEATURES) })],
      [protocol.VHOST_USER_SET_PROTOCOL_FEATURES, (request) => this.#setProtocolFeatures(request)],
      [protocol.VHOST_USER_GET_QUEUE_NUM, () => ({ payload: u64(BigInt(this.#queueNumber)) })],
      [protocol.VHOST_USER_SET_MEM_TABLE, (request) => this.#setMemoryTable(request)],
      [protocol.VHOST_USER_GET_MAX_MEM_SLOTS, () => ({ payload: u64(BigInt(protocol.MAX_MEM_SLOTS)) })],
      [protocol.VHOST_USER_ADD_MEM_REG, (request) => this.#addRegion(request)],
      [protocol.VHOST_USER_REM_MEM_REG, (request) => this.#removeRegion(request)],
      [protocol.VHOST_USER_SET_LOG_BASE, (request) => this.#setLogBase(request)],
      // It would be signalled when the log was written to; front ends look at the log when they want to know.
      [protocol.VHOST_USER_SET_LOG_FD, () => undefined],
      [protocol.VHOST_USER_SET_VRING_NUM, (request) => this.#setVringNum(request)],
      [protocol.VHOST_USER_SET_VRING_ADDR, (request) => this.#setVringAddresses(request)],
      [protocol.VHOST_USER_SET_VRING_BASE, (request) => this.#setVringBase(request)],
      [protocol.VHOST_USER_GET_VRING_BASE, (request) => this.#getVringBase(request)],
      [protocol.VHOST_USER_SET_VRING_KICK, (request) => this.#setVringKick(request)],
      [protocol.VHOST_USER_SET_VRING_CALL, (request) => this.#setVringCall(request)],
      [protocol.VHOST_USER_SET_VRING_ERR, (request) => this.#setVringErr(request)],
      [protocol.VHOST_USER_SET_VRING_ENABLE, (request) => this.#setVringEnable(request)],
      [protocol.VHOST_USER_SET_BACKEND_REQ_FD, (request) => this.#setBackEndChannel(request)],
      [protocol.VHOST_USER_GET_CONFIG, (request) => this.#getConfig(request)],
      [protocol.VHOST_USER_SET_CONFIG, (request) => this.#setConfig(request)],
      [protocol.VHOST_USER_GET_INFLIGHT_FD, (request) => this.#getInflight(request)],
      [protocol.VHOST_USER_SET_INFLIGHT_FD, (request) => this.#setInflight(request)],
      [protocol.VHOST_USER_RESET_DEVICE, () => this.#reset()],
      [protocol.VHOST_USER_SET_STATUS, (request) => this.#setStatus(request)],
      [protocol.VHOST_USER_GET_STATUS, () => ({ payload: u64(BigInt(this.#statusBits)) })],
    ])
  }

  /** Front ends of network devices count pairs. */
  get #queueNumber(): number {
    const count = this.#runner.rings.length
    return this.#device.deviceType === protocol.VIRTIO_ID_NET ? Math.floor(count / 2) : count
  }

  get #isPacked(): boolean {
    return (this.#features & VIRTIO_F_RING_PACKED) !== 0n
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
    this.#chooseLog()
  }

  #setProtocolFeatures(request: Request): undefined {
    const features = payload.parseU64(request)
    const unknown = features & ~protocol.PROTOCOL_FEATURES
    if (unknown !== 0n) {
      throw new VhostUserError(`SET_PROTOCOL_FEATURES: 0x${unknown.toString(16)} were not offered`)
    }
    this.#protocolFeatures = features
  }

  async #setMemoryTable(request: Request): Promise<undefined> {
    const regions = payload.parseMemoryTable(request)
    await this.#runner.paused(() => this.#memory.replace(regions, request.fds))
  }

  /** Queues know the regions of when they were made, so they are made again. */
  async #addRegion(request: Request): Promise<undefined> {
    const region = payload.parseSingleRegion(request)
    const add = () => this.#memory.add(region, request.fds[0]!)
    if (this.#memory.has(region)) add()
    else await this.#runner.paused(add)
  }

  async #removeRegion(request: Request): Promise<undefined> {
    const region = payload.parseSingleRegion(request)
    if (this.#memory.isLastUse(region)) await this.#runner.paused(() => this.#memory.remove(region))
    else this.#memory.remove(region)
  }

  #setLogBase(request: Request): Reply {
    const { size, offset } = payload.parseLogBase(request)
    this.#setLog(mapFile(request.fds[0]!, offset, size, "SET_LOG_BASE"))
    return { payload: u64(0n) }
  }

  #setLog(log: MappedFile | undefined): void {
    this.#log?.release()
    this.#log = log
    this.#chooseLog()
  }

  #chooseLog(): void {
    const log = this.#log
    const wanted = (this.#features & protocol.VHOST_F_LOG_ALL) !== 0n
    this.#memory.log =
      wanted && log !== undefined
        ? new DirtyLog(new Uint8Array(log.buffer, log.byteOffset, log.size))
        : undefined
  }

  #ring(index: number): Ring {
    return this.#runner.rings[index]!
  }

  #setVringNum(request: Request): undefined {
    const { index, num } = payload.parseVringState(request, this.#runner.rings.length)
    const most = this.#device.queueMaxSizes[index]!
    const wrong = num < 1 || num > most
    if (wrong || (!this.#isPacked && (num & (num - 1)) !== 0)) {
      const what = `${this.#isPacked ? "a number" : "a power of two"} up to ${most}`
      throw new VhostUserError(`SET_VRING_NUM: queue ${index} cannot have ${num} descriptors, ${what}`)
    }
    const ring = this.#ring(index)
    if (ring.running !== undefined && num !== ring.size) throw whileRunning(request, index)
    ring.size = num
  }

  /** Comes while a ring runs, too, with the same addresses: for the flag, which is not needed, since all writes are logged. */
  #setVringAddresses(request: Request): undefined {
    const addresses = payload.parseVringAddresses(request, this.#runner.rings.length)
    const ring = this.#ring(addresses.index)
    const { addresses: old } = ring
    const same =
      old !== undefined &&
      old.desc === addresses.desc &&
      old.avail === addresses.avail &&
      old.used === addresses.used
    // bad-input #1: what a running ring uses does not change.
    if (ring.running !== undefined && !same) throw whileRunning(request, addresses.index)
    ring.addresses = addresses
  }

  #setVringBase(request: Request): undefined {
    const { index, num } = payload.parseVringState(request, this.#runner.rings.length)
    const ring = this.#ring(index)
    if (ring.running !== undefined) throw whileRunning(request, index)
    if (num > 0xffff && !this.#isPacked) {
      throw new VhostUserError(`SET_VRING_BASE: queue ${index}: ${num} is above 65535`)
    }
    ring.base = num
  }

  async #getVringBase(request: Request): Promise<Reply> {
    const { index } = payload.parseVringState(request, this.#runner.rings.length)
    const ring = this.#ring(index)
    await this.#runner.stop(ring)
    this.#dropKick(ring)
    const answer = new Uint8Array(8)
    new DataView(answer.buffer).setUint32(0, index, true)
    new DataView(answer.buffer).setUint32(4, ring.base, true)
    return { payload: answer }
  }

  async #setVringKick(request: Request): Promise<undefined> {
    const { index, fd } = payload.parseVringFd(request, this.#runner.rings.length)
    // Busy polling on behalf of one guest would take the thread from all others.
    if (fd === undefined) throw new VhostUserError(`SET_VRING_KICK: queue ${index}: polling is not supported`)
    const ring = this.#ring(index)
    const kick = takeEvent(request)
    if (ring.kick !== undefined) this.#dropKick(ring)
    ring.kick = kick
    // "If VHOST_USER_F_PROTOCOL_FEATURES has not been negotiated, the ring starts directly in the enabled state."
    if ((this.#features & protocol.VHOST_USER_F_PROTOCOL_FEATURES) === 0n) ring.enabled = true
    this.#events.watch(kick.fd, index)
    await this.#runner.update(ring)
  }

  #setVringCall(request: Request): undefined {
    const { index, fd } = payload.parseVringFd(request, this.#runner.rings.length)
    const ring = this.#ring(index)
    const call = fd === undefined ? undefined : takeEvent(request)
    ring.call?.close()
    ring.call = call
    // One that was due on the old descriptor may have been lost; one too many does no harm.
    if (ring.running !== undefined) ring.interrupt()
  }

  #setVringErr(request: Request): undefined {
    const { index, fd } = payload.parseVringFd(request, this.#runner.rings.length)
    const ring = this.#ring(index)
    const err = fd === undefined ? undefined : takeEvent(request)
    ring.err?.close()
    ring.err = err
  }

  async #setVringEnable(request: Request): Promise<undefined> {
    const { index, num } = payload.parseVringState(request, this.#runner.rings.length)
    if (num > 1) throw new VhostUserError(`SET_VRING_ENABLE: queue ${index}: ${num} is neither 0 nor 1`)
    const ring = this.#ring(index)
    ring.enabled = num === 1
    await this.#runner.update(ring)
  }

  #setBackEndChannel(request: Request): undefined {
    let channel: UnixSocket
    try {
      channel = new UnixSocket(request.fds[0]!)
    } catch (error) {
      throw new VhostUserError(`SET_BACKEND_REQ_FD: ${(error as Error).message}`, { cause: error })
    }
    request.fds[0] = -1
    this.#backEndChannel?.close()
    this.#backEndChannel = channel
  }

  /** What lies past the end of the device's configuration space reads as zeros (bad-input #5). */
  #getConfig(request: Request): Reply {
    const { offset, size } = payload.parseConfig(request)
    const answer = new Uint8Array(12 + size)
    const view = new DataView(answer.buffer)
    view.setUint32(0, offset, true)
    view.setUint32(4, size, true)
    answer.set(this.#device.config.subarray(offset, offset + size), 12)
    return { payload: answer }
  }

  /** A write that reaches past the end is dropped (bad-input #5). */
  #setConfig(request: Request): undefined {
    const { offset, size, data } = payload.parseConfig(request)
    if (offset + size <= this.#device.config.length) this.#runner.writeConfig(offset, data.slice())
  }

  #getInflight(request: Request): Reply {
    const description = payload.parseInflight(request, this.#runner.rings.length)
    const { fd, size } = InflightRegion.create(description)
    // Not of the request, but closed as those are, after the answer has gone.
    request.fds.push(fd)
    const answer = new Uint8Array(request.payload.byteLength)
    const view = new DataView(answer.buffer)
    view.setBigUint64(0, BigInt(size), true)
    view.setUint16(16, description.numQueues, true)
    view.setUint16(18, description.queueSize, true)
    return { payload: answer, fds: [fd] }
  }

  #setInflight(request: Request): undefined {
    const description = payload.parseInflight(request, this.#runner.rings.length)
    if (this.#runner.isRunning) throw new VhostUserError("SET_INFLIGHT_FD: queues run already")
    const region = new InflightRegion(description, request.fds[0]!)
    this.#runner.inflight?.close()
    this.#runner.inflight = region
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
    for (const ring of this.#runner.rings) this.#dropKick(ring)
    this.#status = 0
  }

  #dropKick(ring: Ring): void {
    if (ring.kick === undefined) return
    this.#events.unwatch(ring.kick.fd)
    ring.kick.close()
    ring.kick = undefined
  }

  /** The front end reads configuration and status again. */
  #tellConfigChange(): void {
    const message = encodeMessage(protocol.VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, 0, new Uint8Array(0))
    try {
      // A front end that does not read its channel has unread ones in it already.
      this.#backEndChannel?.send(message, 0, message.length)
    } catch {
      // Its end is closed; the connection itself will say so.
    }
  }
}

/** Takes the descriptor of the request over. Throws {@link VhostUserError}. */
function takeEvent(request: Request): EventFd {
  try {
    const event = new EventFd(request.fds[0]!)
    request.fds[0] = -1
    return event
  } catch (error) {
    throw new VhostUserError(`${request.name}: ${(error as Error).message}`, { cause: error })
  }
}

function whileRunning(request: Request, index: number): VhostUserError {
  return new VhostUserError(`${request.name}: queue ${index} runs`)
}
