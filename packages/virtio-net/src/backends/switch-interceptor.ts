import type { SwitchFrame } from "./switch.js"
import type { SwitchPort } from "./switch-port.js"

/** A frame that waits for a decision. Of the first `pass` or `drop` only. */
export interface HeldFrame extends SwitchFrame {
  /** Lets it go on, or other bytes in its place. */
  pass(bytes?: Uint8Array): void
  drop(): void
}

export interface InterceptorHandlers {
  pass(frame: SwitchFrame, from: SwitchPort | undefined): void
  dropped(): void
  ended(): void
}

/** Frames that wait, as an async iterable. */
export class Interceptor implements AsyncIterableIterator<HeldFrame> {
  readonly #limit: number
  readonly #handlers: InterceptorHandlers
  readonly #waiting: HeldFrame[] = []
  readonly #askers: ((result: IteratorResult<HeldFrame>) => void)[] = []
  #ended = false

  constructor(limit: number, handlers: InterceptorHandlers) {
    this.#limit = limit
    this.#handlers = handlers
  }

  hold(frame: SwitchFrame, from: SwitchPort | undefined): void {
    const held = this.#held(frame, from)
    const asker = this.#askers.shift()
    if (asker !== undefined) asker({ done: false, value: held })
    else if (this.#waiting.length < this.#limit) this.#waiting.push(held)
    else this.#handlers.dropped()
  }

  next(): Promise<IteratorResult<HeldFrame>> {
    const value = this.#waiting.shift()
    if (value !== undefined) return Promise.resolve({ done: false, value })
    if (this.#ended) return Promise.resolve({ done: true, value: undefined })
    return new Promise((resolve) => this.#askers.push(resolve))
  }

  return(): Promise<IteratorResult<HeldFrame>> {
    if (!this.#ended) {
      this.#ended = true
      for (const frame of this.#waiting.splice(0)) frame.pass()
      for (const asker of this.#askers.splice(0)) asker({ done: true, value: undefined })
      this.#handlers.ended()
    }
    return Promise.resolve({ done: true, value: undefined })
  }

  [Symbol.asyncIterator](): this {
    return this
  }

  #held(frame: SwitchFrame, from: SwitchPort | undefined): HeldFrame {
    let decided = false
    const once = (action: () => void) => {
      if (!decided) action()
      decided = true
    }
    return {
      ...frame,
      pass: (bytes = frame.bytes) => once(() => this.#handlers.pass({ ...frame, bytes }, from)),
      drop: () => once(() => this.#handlers.dropped()),
    }
  }
}
