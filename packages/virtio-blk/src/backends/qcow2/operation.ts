import type { GuestMemory } from "@virtkit/interface"
import type { BlockRequest, BlockSession } from "../../backend.js"
import type { TransferOwner } from "./transfers.js"

/** A request that the backend has. Reused. */
export class Operation implements TransferOwner {
  request!: BlockRequest
  session!: BlockSession
  memory!: GuestMemory
  /** Of DeferredFrees. */
  epoch = 0
  /** The first error of its parts: a positive errno. */
  error = 0
  /** Parts in flight, and one more while parts are being added. */
  #pending = 0
  #resume: (() => void) | undefined
  readonly #done: (operation: Operation) => void

  /** `done` is called when all parts are, if nobody waits for them. */
  constructor(done: (operation: Operation) => void) {
    this.#done = done
  }

  start(request: BlockRequest, session: BlockSession, epoch: number): void {
    this.request = request
    this.session = session
    this.memory = session.memory
    this.epoch = epoch
    this.error = 0
  }

  begin(): void {
    this.#pending++
  }

  end(error: number): void {
    if (error !== 0 && this.error === 0) this.error = error
    if (--this.#pending > 0) return
    const resume = this.#resume
    this.#resume = undefined
    if (resume === undefined) this.#done(this)
    else resume()
  }

  /** Resolves when no part is in flight. Parts are added between `begin` and this. */
  settled(): Promise<void> {
    return new Promise((resolve) => {
      this.#resume = resolve
      this.end(0)
    })
  }
}
