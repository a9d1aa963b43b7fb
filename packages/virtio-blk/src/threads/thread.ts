import { Worker } from "node:worker_threads"
import { VirtkitError } from "@virtkit/interface"
import type { BlockBackendInfo } from "../backend.js"
import type { Command, CommandMessage, ThreadMessage, ThreadSetup } from "./messages.js"
import { errorOf } from "./plain-error.js"

/** What a thread tells its disk. None of these may throw. */
export interface ThreadEvents {
  /** Its part of the device cannot go on. */
  needsReset(reason: string): void
  /** It ended by itself; nothing of it is in flight any more. */
  died(error: Error): void
}

interface Pending {
  readonly resolve: (value: number | undefined) => void
  readonly reject: (error: Error) => void
}

/** A thread that works on queues of a disk, seen from the thread that owns the disk. */
export class DiskThreadHandle {
  readonly #worker: Worker
  readonly #events: ThreadEvents
  readonly #pending = new Map<number, Pending>()
  #lastId = 0
  /** Why it ends, before it has ended. */
  #error: Error | undefined
  #dead: Error | undefined
  #closed: Promise<void> | undefined
  readonly #exited: Promise<void>
  #ready: ((result: BlockBackendInfo | Error) => void) | undefined

  /** Resolves when the disk is open in it. Throws ConfigError, ImageError, SystemError, VirtkitError when it died before. */
  static async start(
    setup: ThreadSetup,
    events: ThreadEvents,
  ): Promise<{ thread: DiskThreadHandle; info: BlockBackendInfo }> {
    const thread = new DiskThreadHandle(setup, events)
    const info = await new Promise<BlockBackendInfo | Error>((resolve) => {
      thread.#ready = resolve
    })
    if (!(info instanceof Error)) return { thread, info }
    thread.#closed = thread.#exited
    await thread.#worker.terminate()
    throw info
  }

  private constructor(setup: ThreadSetup, events: ThreadEvents) {
    this.#events = events
    this.#worker = new Worker(new URL("./block-worker.js", import.meta.url), {
      workerData: setup,
      // Options of this process, such as --input-type or a loader of its own, are not for that file.
      execArgv: [],
      name: setup.disk.name,
    })
    this.#worker.on("message", (message: ThreadMessage) => this.#hear(message))
    this.#worker.on("error", (error: unknown) => {
      this.#error = error instanceof Error ? error : new Error(String(error))
    })
    this.#exited = new Promise((resolve) => {
      this.#worker.once("exit", (status) => {
        this.#end(this.#error ?? new Error(`it ended with status ${status}`))
        resolve()
      })
    })
  }

  /** Nothing of it is in flight. */
  get isDead(): boolean {
    return this.#dead !== undefined
  }

  /** Without an answer: what goes wrong ends the thread. */
  post(command: Command): void {
    this.#send({ id: 0, command })
  }

  /** Rejects with the error that the thread met, or when it is dead: nothing of it is in flight then. */
  call(command: Command): Promise<number | undefined> {
    if (this.#dead !== undefined) return Promise.reject(this.#dead)
    const id = ++this.#lastId
    // Somebody waits: that may be all that keeps the process.
    if (this.#pending.size === 0) this.#worker.ref()
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject })
      this.#send({ id, command })
    })
  }

  /** Resolves when the thread is gone. Idempotent. */
  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    // If that dies, it has ended.
    await this.call({ kind: "close" }).catch(() => {})
    this.#worker.ref()
    await this.#exited
  }

  #send(message: CommandMessage): void {
    this.#worker.postMessage(message)
  }

  #hear(message: ThreadMessage): void {
    switch (message.kind) {
      case "ready":
        // What keeps the process alive is the VM that runs.
        this.#worker.unref()
        this.#started(message.info)
        break
      case "failed":
        this.#started(errorOf(message.error))
        break
      case "needsReset":
        this.#events.needsReset(message.reason)
        break
      case "done": {
        const pending = this.#pending.get(message.id)
        this.#pending.delete(message.id)
        if (this.#pending.size === 0) this.#worker.unref()
        if (message.error === undefined) pending?.resolve(message.value)
        else pending?.reject(errorOf(message.error))
      }
    }
  }

  #started(result: BlockBackendInfo | Error): void {
    this.#ready?.(result)
    this.#ready = undefined
  }

  #end(cause: Error): void {
    const error = new VirtkitError("ERR_VIRTKIT_THREAD", `its thread has died: ${cause.message}`, { cause })
    this.#dead = error
    const started = this.#ready === undefined
    this.#started(error)
    for (const { reject } of this.#pending.values()) reject(error)
    this.#pending.clear()
    if (started && this.#closed === undefined) this.#events.died(error)
  }
}
