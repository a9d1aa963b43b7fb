import { SharedLimit } from "@virtkit/virtqueue"
import type { BlockBackendInfo } from "../backend.js"
import type { DiskOptions } from "../device.js"
import { type BlockLimits, rateOf } from "../limits.js"
import { SharedCounters } from "./counters.js"
import type { Command, DiskSource } from "./messages.js"
import { QueueEvents } from "./queue-events.js"
import { DiskThreadHandle } from "./thread.js"

export interface PoolOptions {
  readonly disk: DiskOptions
  /** For each thread. */
  readonly sources: readonly DiskSource[]
  /** Closes what the threads have in common. */
  readonly release: () => Promise<void>
  /** A thread's part of the device cannot go on, or the thread has died. Must not throw. */
  readonly onNeedsReset: (reason: string) => void
}

/** The threads of a disk, and the memory and eventfds that they share: queue n is worked on by thread n modulo their number. */
export class DiskThreads {
  readonly counters: SharedCounters
  readonly events: QueueEvents
  readonly #options: PoolOptions
  readonly #limit = new SharedLimit()
  #limits: BlockLimits | undefined
  #threads: readonly DiskThreadHandle[] = []
  #info!: BlockBackendInfo

  /** Starts them. Takes over what `release` closes, also when it throws: ConfigError, ImageError, SystemError. */
  static async open(options: PoolOptions): Promise<DiskThreads> {
    const pool = new DiskThreads(options)
    try {
      pool.setLimits(options.disk.limits)
      // One after the other: they all compile the same modules, and the first may fail.
      for (const thread of options.sources.keys()) {
        pool.#threads = [...pool.#threads, await pool.#start(thread)]
      }
      return pool
    } catch (error) {
      await pool.close()
      throw error
    }
  }

  private constructor(options: PoolOptions) {
    const { queues, limits } = options.disk
    this.#options = options
    this.#limits = limits
    this.counters = new SharedCounters(options.sources.length, queues)
    this.events = new QueueEvents(queues)
  }

  get count(): number {
    return this.#threads.length
  }

  /** What they found of the disk when they opened it. */
  get info(): BlockBackendInfo {
    return this.#info
  }

  threadOf(queue: number): number {
    return queue % this.#options.sources.length
  }

  /** Starts others in the place of those that have died. Throws as {@link open}. */
  async revive(): Promise<void> {
    for (const [index, thread] of this.#threads.entries()) {
      if (!thread.isDead) continue
      const started = await this.#start(index)
      this.#threads = this.#threads.with(index, started)
    }
  }

  post(thread: number, command: Command): void {
    this.#threads[thread]!.post(command)
  }

  /** Rejects with what went wrong in that thread; when it has died nothing of it is in flight. */
  call(thread: number, command: Command): Promise<number | undefined> {
    return this.#threads[thread]!.call(command)
  }

  /** Resolves when all have done it, or have died. */
  async callAll(command: Command): Promise<void> {
    await Promise.allSettled(this.#threads.map((thread) => thread.call(command)))
  }

  /** For all threads together. Throws ConfigError. */
  setLimits(limits: BlockLimits | undefined): void {
    const rate = rateOf(this.#options.disk.name, limits)
    if (rate !== undefined) this.#limit.fill(rate)
    this.#limits = limits
    for (const thread of this.#threads) thread.post({ kind: "setLimits", limits })
  }

  async close(): Promise<void> {
    await Promise.all(this.#threads.map((thread) => thread.close()))
    this.events.close()
    await this.#options.release()
  }

  async #start(index: number): Promise<DiskThreadHandle> {
    const { disk, sources, onNeedsReset } = this.#options
    const queues = this.events.queues.flatMap(({ kick, call }, queue) =>
      this.threadOf(queue) === index ? [{ index: queue, kick: kick.fd, call: call.fd }] : [],
    )
    const setup = {
      disk: { ...disk, limits: this.#limits },
      source: sources[index]!,
      thread: index,
      threads: sources.length,
      queues,
      counters: this.counters.buffer,
      limit: this.#limit.buffer,
    }
    const { thread, info } = await DiskThreadHandle.start(setup, {
      needsReset: onNeedsReset,
      died: (error) => {
        for (const queue of queues) this.counters.inFlight[queue.index] = 0
        onNeedsReset(error.message)
      },
    })
    this.#info = info
    return thread
  }
}
