import type { VirtioDevice } from "@virtkit/interface"
import { EventFd } from "@virtkit/native"
import { VIRTIO_F_RING_PACKED } from "@virtkit/virtqueue"
import * as protocol from "./constants.js"
import { VhostUserError } from "./error.js"
import type { Handlers } from "./handler.js"
import { InflightRegion } from "./inflight-region.js"
import { type Reply, type Request, u64 } from "./message.js"
import * as payload from "./payload.js"
import type { Ring } from "./ring.js"
import type { Runner } from "./runner.js"

/** What requests about queues need beside the queues. */
export interface VringUser {
  /** Features of SET_FEATURES. */
  features(): bigint
  /** The kick descriptor of that queue is to be watched from now on, or no more. */
  watch(fd: number, queue: number): void
  unwatch(fd: number): void
}

/** The requests about queues, and about what is in flight in them. */
export class VringRequests {
  readonly handlers: Handlers
  readonly #device: VirtioDevice
  readonly #runner: Runner
  readonly #user: VringUser

  constructor(runner: Runner, user: VringUser) {
    this.#runner = runner
    this.#device = runner.device
    this.#user = user
    this.handlers = [
      [protocol.VHOST_USER_GET_QUEUE_NUM, () => ({ payload: u64(BigInt(this.#queueNumber)) })],
      [protocol.VHOST_USER_SET_VRING_NUM, (request) => this.#setVringNum(request)],
      [protocol.VHOST_USER_SET_VRING_ADDR, (request) => this.#setVringAddresses(request)],
      [protocol.VHOST_USER_SET_VRING_BASE, (request) => this.#setVringBase(request)],
      [protocol.VHOST_USER_GET_VRING_BASE, (request) => this.#getVringBase(request)],
      [protocol.VHOST_USER_SET_VRING_KICK, (request) => this.#setVringKick(request)],
      [protocol.VHOST_USER_SET_VRING_CALL, (request) => this.#setVringCall(request)],
      [protocol.VHOST_USER_SET_VRING_ERR, (request) => this.#setVringErr(request)],
      [protocol.VHOST_USER_SET_VRING_ENABLE, (request) => this.#setVringEnable(request)],
      [protocol.VHOST_USER_GET_INFLIGHT_FD, (request) => this.#getInflight(request)],
      [protocol.VHOST_USER_SET_INFLIGHT_FD, (request) => this.#setInflight(request)],
    ]
  }

  /** Watches no kick descriptor any more, and has none. */
  dropKicks(): void {
    for (const ring of this.#runner.rings) this.#dropKick(ring)
  }

  /** Front ends of network devices count pairs. */
  get #queueNumber(): number {
    const count = this.#runner.rings.length
    return this.#device.deviceType === protocol.VIRTIO_ID_NET ? Math.floor(count / 2) : count
  }

  get #isPacked(): boolean {
    return (this.#user.features() & VIRTIO_F_RING_PACKED) !== 0n
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
    if ((this.#user.features() & protocol.VHOST_USER_F_PROTOCOL_FEATURES) === 0n) ring.enabled = true
    this.#user.watch(kick.fd, index)
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

  #dropKick(ring: Ring): void {
    if (ring.kick === undefined) return
    this.#user.unwatch(ring.kick.fd)
    ring.kick.close()
    ring.kick = undefined
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
