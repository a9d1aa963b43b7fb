import { EventEmitter } from "node:events"
import {
  type DeviceContext,
  type ExternalQueues,
  RestoreError,
  StateError,
  type VirtioDevice,
} from "@virtkit/interface"
import { VhostUserError } from "../error.js"
import { closeFds } from "../message-reader.js"
import { completeConfig, configIs, hasNetControl, missingFeatures, ownFeatures } from "./config-space.js"
import { type DeviceLayout, layOut } from "./layout.js"
import { serveNetControl, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_MQ } from "./net-control.js"
import type { VhostUserSettings } from "./options.js"
import { QueueEvents } from "./queue-events.js"
import { BackEndSession, type InflightKeeper, type KeptInflight } from "./session.js"

export interface VhostUserDeviceEvents {
  /** The back end is there again. */
  connected: []
  /** It has gone; the reason is what it did wrong, undefined when it just ended. */
  disconnected: [reason: string | undefined]
}

/** First and longest wait before the next attempt to connect, in ms. */
const RETRY_MS = [50, 1000] as const

const CONTROL_QUEUE_SIZE = 64
const CONTROL = VIRTIO_NET_F_CTRL_VQ | VIRTIO_NET_F_MQ

/** What a driver has activated. */
interface Activation extends InflightKeeper {
  readonly context: DeviceContext
  /** What the next back end has to know of this driver's requests. */
  inflight: KeptInflight | undefined
  /** A back end had its queues before. */
  started: boolean
  /** Of a card with several: how many pairs of queues the driver uses. */
  pairs: number
}

/** A virtio device that another process is the back end of. Made by `vhostUser`. */
export class VhostUserDevice extends EventEmitter<VhostUserDeviceEvents> implements VirtioDevice {
  readonly name: string
  readonly deviceType: number
  readonly features: bigint
  readonly queueMaxSizes: readonly number[]
  readonly config: Uint8Array
  readonly external: ExternalQueues
  readonly #settings: VhostUserSettings
  /** Of those that there can be several of. */
  readonly #units: number
  readonly #events: QueueEvents
  #session: BackEndSession | undefined
  #active: Activation | undefined
  /** What is done with the back end is done one after the other. Never rejects. */
  #work: Promise<void> = Promise.resolve()
  #retry: NodeJS.Timeout | undefined
  #closed: Promise<void> | undefined

  /**
   * Connects; see `vhostUser` for what it throws.
   * @internal
   */
  static async open(settings: VhostUserSettings): Promise<VhostUserDevice> {
    let device: VhostUserDevice | undefined
    const session = await BackEndSession.connect(settings, {
      closed: (error) => {
        if (device !== undefined) device.#disconnected(session, error)
      },
      configChanged: () => {
        if (device !== undefined) device.#configChanged()
      },
    })
    try {
      const layout = await layOut(settings, session)
      if (session.isClosed) throw new VhostUserError("it has gone")
      device = new VhostUserDevice(settings, session, layout)
      return device
    } catch (error) {
      session.close()
      throw error
    }
  }

  private constructor(settings: VhostUserSettings, session: BackEndSession, layout: DeviceLayout) {
    super()
    const { kind } = settings
    this.#settings = settings
    this.#session = session
    this.#units = layout.units
    this.name = settings.name
    this.deviceType = kind.deviceType
    const missing = missingFeatures(settings, session.hasConfig)
    this.features = (session.deviceFeatures & ~missing) | ownFeatures(settings)
    this.config = layout.config
    const own = hasNetControl(settings) ? [CONTROL_QUEUE_SIZE] : []
    this.queueMaxSizes = [...new Array<number>(layout.queues).fill(settings.queueSize), ...own]
    this.#events = new QueueEvents(layout.queues, (queue) => {
      if (this.#active !== undefined) this.#giveUp(this.#active, `queue ${queue}: the back end cannot go on`)
    })
    this.external = {
      ringFeatures: session.ringFeatures,
      kicks: [...this.#events.queues.map(({ kick }) => kick.fd), ...own.map(() => undefined)],
    }
  }

  /** Whether the back end is there. */
  get connected(): boolean {
    return this.#session !== undefined
  }

  writeConfig(offset: number, data: Uint8Array): Promise<void> | void {
    if (!this.#readsConfig(this.#session)) return undefined
    const copy = data.slice()
    return this.#enqueue(async (session) => {
      await session.writeConfig(offset, copy)
      // The driver did that, and waits for it.
      await this.#readConfig(session, "never")
    })
  }

  activate(context: DeviceContext): void {
    if (context.external === undefined) {
      context.needsReset(`${this.name}: this transport cannot hand over its queues`)
      return
    }
    if (hasNetControl(this.#settings) && (context.features & CONTROL) === VIRTIO_NET_F_CTRL_VQ) {
      // The control queue is another one then.
      context.needsReset(`${this.name}: a driver that takes CTRL_VQ has to take MQ, too`)
      return
    }
    const active: Activation = { context, inflight: undefined, started: false, pairs: 1 }
    this.#active = active
    this.#events.connect(context.external)
    this.#run(async () => {
      if (this.#session === undefined && this.#retry === undefined) await this.#connect()
      if (this.#session !== undefined) await this.#start(active)
      else if (!this.#settings.reconnect) this.#giveUp(active, "the back end has gone")
      else if (this.#retry === undefined) this.#retryAfter(RETRY_MS[0])
    })
  }

  notify(queueIndex: number): void {
    if (queueIndex < this.#events.queues.length) this.#events.kick(queueIndex)
    else this.#control()
  }

  async reset(): Promise<void> {
    const active = this.#active
    this.#active = undefined
    if (active === undefined) return
    this.#events.disconnect()
    await this.#enqueue((session) => session.stop())
    forget(active)
  }

  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  state(): never {
    throw new StateError(`${this.name}: what another process has in hand cannot be saved`)
  }

  restore(): never {
    throw new RestoreError(`${this.name}: a device of another process cannot be restored`)
  }

  async #close(): Promise<void> {
    clearTimeout(this.#retry)
    await this.reset()
    this.#session?.close()
    await this.#work
    this.#session?.close()
    clearTimeout(this.#retry)
    this.#events.close()
  }

  /** Runs it after what was begun before. */
  #run(task: () => Promise<void>): Promise<void> {
    this.#work = this.#work.then(task)
    return this.#work
  }

  /** Asks something of the back end, if it is there. What it does wrong ends the connection. Never rejects. */
  #enqueue(task: (session: BackEndSession) => Promise<void>): Promise<void> {
    return this.#run(async () => {
      const session = this.#session
      if (session === undefined) return
      try {
        await task(session)
      } catch (error) {
        session.close(error as VhostUserError)
      }
    })
  }

  /** `active` may be reset meanwhile; then that waits for the end of this, and stops what this has started. */
  async #start(active: Activation): Promise<void> {
    const session = this.#session
    if (session === undefined || this.#active !== active) return
    const { context } = active
    const lost = context.features & this.#wanted & ~session.features & ~ownFeatures(this.#settings)
    try {
      if (lost !== 0n) throw new VhostUserError(`it has lost the features 0x${lost.toString(16)}`)
      await session.start(context, this.#events.queues, active, (queue) => this.#isUsed(active, queue))
    } catch (error) {
      session.close(error as VhostUserError)
      return
    }
    this.#events.started(active.started)
    active.started = true
  }

  /** Only the driver of a card says which it uses, if it can. */
  #isUsed({ context, pairs }: Activation, queue: number): boolean {
    return (context.features & CONTROL) !== CONTROL || queue < 2 * pairs
  }

  /** What the driver asks of the front end. */
  #control(): void {
    const active = this.#active
    const queue = active?.context.queues[this.#events.queues.length]
    if (active === undefined || queue === undefined) return
    const again = serveNetControl(queue, this.#units, (pairs) => this.#setPairs(active, pairs))
    if (again) active.context.defer(() => this.#control())
  }

  #setPairs(active: Activation, pairs: number): void {
    const before = active.pairs
    if (pairs === before) return
    active.pairs = pairs
    void this.#enqueue(async (session) => {
      if (this.#active !== active) return
      const [from, to] = pairs > before ? [before, pairs] : [pairs, before]
      for (let queue = 2 * from; queue < 2 * to; queue++)
        await session.enable(queue, this.#isUsed(active, queue))
    })
  }

  /** Features that the back end has to have if the driver took them. */
  get #wanted(): bigint {
    return this.features | this.external.ringFeatures
  }

  /** Never rejects: without a back end there is no session afterwards. */
  async #connect(): Promise<void> {
    let session: BackEndSession | undefined
    try {
      session = await BackEndSession.connect(this.#settings, {
        closed: (error) => this.#disconnected(session, error),
        configChanged: () => this.#configChanged(),
      })
      if (this.#closed !== undefined) return session.close()
      this.#session = session
      this.emit("connected")
      if (this.#readsConfig(session)) await this.#readConfig(session, "changed")
    } catch (error) {
      // Not there yet, or not fit to be: whoever waits for it goes on doing so.
      session?.close(error instanceof VhostUserError ? error : undefined)
    }
  }

  #disconnected(session: BackEndSession | undefined, error: VhostUserError | undefined): void {
    if (session === undefined || this.#session !== session) return
    this.#session = undefined
    if (this.#closed !== undefined) return
    this.emit("disconnected", error?.message)
    // One that breaks the protocol would do so again.
    if (this.#settings.reconnect && error === undefined) this.#retryAfter(RETRY_MS[0])
    else if (this.#active !== undefined) this.#giveUp(this.#active, error?.message ?? "the back end has gone")
  }

  #retryAfter(ms: number): void {
    this.#retry = setTimeout(() => {
      this.#run(async () => {
        this.#retry = undefined
        if (this.#closed !== undefined || this.#session !== undefined) return
        await this.#connect()
        if (this.#closed !== undefined) return
        if (this.#session === undefined) this.#retryAfter(Math.min(2 * ms, RETRY_MS[1]))
        else if (this.#active !== undefined) await this.#start(this.#active)
      })
    }, ms).unref()
  }

  #giveUp(active: Activation, reason: string): void {
    active.context.needsReset(`${this.name}: ${reason}`)
  }

  #configChanged(): void {
    void this.#enqueue(async (session) => {
      if (this.#readsConfig(session)) await this.#readConfig(session, "always")
      if (this.#active !== undefined && (await session.needsReset())) {
        this.#giveUp(this.#active, "the back end says so")
      }
    })
  }

  #readsConfig(session: BackEndSession | undefined): boolean {
    return session?.hasConfig === true && configIs(this.#settings).theirs
  }

  /** `tell`: when the driver is to read it again. */
  async #readConfig(session: BackEndSession, tell: "always" | "changed" | "never"): Promise<void> {
    const config = new Uint8Array(this.config.length)
    await session.readConfig(config)
    completeConfig(config, this.#settings, this.#units)
    const changed = config.some((byte, index) => byte !== this.config[index])
    const update = () => this.config.set(config)
    if (this.#active !== undefined && (tell === "always" || (tell === "changed" && changed)))
      this.#active.context.updateConfig(update)
    else update()
  }
}

function forget(active: Activation): void {
  if (active.inflight !== undefined) closeFds([active.inflight.fd])
  active.inflight = undefined
}
