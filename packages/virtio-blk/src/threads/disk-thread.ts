import type { DeviceContext, GuestMemory, Queue } from "@virtkit/interface"
import { fromShared } from "@virtkit/memory"
import { EventFd, Poller } from "@virtkit/native"
import { createQueue, type DeviceQueue, ringFeatures, SharedLimit } from "@virtkit/virtqueue"
import type { BlockBackend, BlockBackendInfo } from "../backend.js"
import { CONFIG } from "../constants.js"
import { LocalBlockDevice } from "../device.js"
import { SharedCounters } from "./counters.js"
import type { Command, DiskSource, QueuePlace, ThreadSetup } from "./messages.js"

/** Between "activate" and "reset". */
interface Activation {
  readonly memory: GuestMemory
  readonly features: bigint
  /** By queue, as a device is given them. */
  readonly queues: (Queue | undefined)[]
  /** The same queues. */
  readonly open: Map<number, DeviceQueue>
  /** The device gave up, or a ring broke: nothing more is begun. */
  broken: boolean
}

/** A thread's part of a disk: the device as it is anywhere, with some of the queues, and the transport that it needs here. */
export class DiskThread {
  readonly info: BlockBackendInfo
  readonly #device: LocalBlockDevice
  readonly #counters: SharedCounters
  readonly #kicks: ReadonlyMap<number, number>
  readonly #calls: ReadonlyMap<number, EventFd>
  /** Watches the kicks of queues in use; the token is the queue's index. */
  readonly #poller: Poller
  readonly #needsReset: (reason: string) => void
  #active: Activation | undefined

  /** Opens what has to be opened. Throws ConfigError, ImageError, SystemError. */
  static async open(setup: ThreadSetup, needsReset: (reason: string) => void): Promise<DiskThread> {
    return new DiskThread(setup, await openBackend(setup.source), needsReset)
  }

  private constructor(setup: ThreadSetup, backend: BlockBackend, needsReset: (reason: string) => void) {
    const { disk, queues, thread, threads } = setup
    this.info = backend.info
    this.#needsReset = needsReset
    this.#counters = new SharedCounters(threads, disk.queues, setup.counters)
    this.#device = new LocalBlockDevice({
      ...disk,
      backend,
      shared: {
        counters: this.#counters.ofThread(thread),
        inFlight: this.#counters.inFlight,
        limit: new SharedLimit(setup.limit),
        depth: queues.length * disk.queueSize,
      },
    })
    this.#kicks = new Map(queues.map(({ index, kick }) => [index, kick]))
    this.#calls = new Map(queues.map(({ index, call }) => [index, new EventFd(call, true)]))
    this.#poller = new Poller((count) => this.#kicked(count))
  }

  /** Carries it out; resolves when that is complete, after "resize" to the size of the disk. */
  handle(command: Command): void | Promise<void> | Promise<number> {
    switch (command.kind) {
      case "activate":
        return this.#activate(command)
      case "reset":
        return this.#reset()
      case "startQueue":
        return this.#startQueue(command.queue)
      case "resetQueue":
        return this.#resetQueue(command.index)
      case "writeConfig":
        return this.#device.writeConfig(command.offset, command.data)
      case "resize":
        return this.#resize(command.size)
      case "setLimits":
        return this.#device.setLimits(command.limits)
      case "close":
        return this.#close()
    }
  }

  #activate({ memory, features, writeback, queues }: Command & { kind: "activate" }): void {
    const active: Activation = {
      memory: fromShared(memory),
      features,
      queues: this.#device.queueMaxSizes.map(() => undefined),
      open: new Map(),
      broken: false,
    }
    this.#active = active
    for (const place of queues) this.#open(active, place)
    this.#device.writeConfig(CONFIG.writeback, Uint8Array.of(writeback))
    this.#device.activate(this.#contextOf(active))
    for (const { index } of queues) this.#watch(index)
  }

  async #reset(): Promise<void> {
    const active = this.#active
    this.#active = undefined
    for (const index of active?.open.keys() ?? []) this.#shut(active!, index)
    await this.#device.reset()
  }

  #startQueue(place: QueuePlace): void {
    const active = this.#active
    if (active === undefined) return
    this.#open(active, place)
    active.open.get(place.index)?.enableNotification()
    this.#watch(place.index)
    this.#device.notify(place.index)
  }

  #resetQueue(index: number): void | Promise<void> {
    if (this.#active === undefined) return undefined
    this.#shut(this.#active, index)
    return this.#device.resetQueue(index)
  }

  async #resize(size: number | undefined): Promise<number> {
    await this.#device.resize(size)
    return this.#device.size
  }

  async #close(): Promise<void> {
    await this.#reset()
    this.#poller.close()
    for (const call of this.#calls.values()) call.close()
    await this.#device.close()
  }

  #open(active: Activation, place: QueuePlace): void {
    const { index } = place
    const call = this.#calls.get(index)!
    const { queue, reason } = createQueue({
      ...place,
      memory: active.memory,
      ...ringFeatures(active.features),
      counters: this.#counters.ofQueue(index),
      onInterrupt: () => call.signal(),
      onBroken: (why) => this.#giveUp(active, `queue ${index}: ${why}`),
    })
    if (queue === undefined) {
      this.#giveUp(active, reason)
      return
    }
    active.queues[index] = queue
    active.open.set(index, queue)
  }

  /** From here on nothing of that queue is touched. */
  #shut(active: Activation, index: number): void {
    this.#poller.remove(this.#kicks.get(index)!)
    active.open.get(index)?.close()
    active.open.delete(index)
    active.queues[index] = undefined
  }

  /** Kicks that came before are reported. */
  #watch(index: number): void {
    if (this.#active?.open.has(index)) this.#poller.add(this.#kicks.get(index)!, index)
  }

  #kicked(count: number): void {
    const { tokens } = this.#poller
    for (let i = 0; i < count; i++) {
      const index = tokens[i]!
      const active = this.#active
      const queue = active?.open.get(index)
      if (active === undefined || queue === undefined || active.broken) continue
      queue.counters.notifications++
      this.#device.notify(index)
    }
  }

  #giveUp(active: Activation, reason: string): void {
    if (this.#active !== active || active.broken) return
    active.broken = true
    this.#needsReset(reason)
  }

  #contextOf(active: Activation): DeviceContext {
    return {
      memory: active.memory,
      features: active.features,
      queues: active.queues,
      // The configuration space that the driver reads is another thread's.
      updateConfig: (update) => update(),
      needsReset: (reason) => this.#giveUp(active, reason),
      defer: (task) => {
        setImmediate(() => {
          if (this.#active === active && !active.broken) task()
        })
      },
    }
  }
}

/** Loads what that format needs, and nothing else. */
async function openBackend(source: DiskSource): Promise<BlockBackend> {
  if (source.format === "qcow2") {
    return (await import("../backends/qcow2/index.js")).qcow2Backend(source.options)
  }
  return (await import("../backends/file.js")).fileBackendOn(source.file, source.options)
}
