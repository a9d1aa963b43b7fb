import type { Chain, DeviceContext, Queue, VirtioDevice } from "@virtkit/interface"
import { drainQueue } from "@virtkit/virtqueue"
import { TokenBucket } from "./bucket.js"
import { REQUESTQ, VIRTIO_ID_RNG } from "./constants.js"
import { checkRngState, type RngState } from "./state.js"

const QUEUE_SIZE = 64
const SCRATCH_BYTES = 4096
/** What a request gets at most, however long its buffers are (bad-input #12). 5.4.6.1 allows to fill a part of them. */
const MAX_REQUEST_BYTES = 64 * 1024
/** What all requests of one turn of the event loop get together: about a millisecond of work. */
const MAX_TURN_BYTES = 256 * 1024
/** setTimeout takes no more. */
const MAX_WAIT_MS = 2 ** 31 - 1

export interface RngDeviceOptions {
  name: string
  /** Bytes per second; undefined is no limit. */
  rate: number | undefined
  burst: number
  source: (buffer: Uint8Array) => void
}

/** Made by `rng`, which documents it. */
export class VirtioRng implements VirtioDevice {
  readonly name: string
  readonly deviceType: number = VIRTIO_ID_RNG
  readonly features: bigint = 0n
  readonly queueMaxSizes: readonly number[] = [QUEUE_SIZE]
  readonly config: Uint8Array = new Uint8Array(0)
  readonly #source: (buffer: Uint8Array) => void
  readonly #bucket: TokenBucket | undefined
  readonly #scratch = new Uint8Array(SCRATCH_BYTES)
  /** Undefined too when the source has failed. */
  #context: DeviceContext | undefined
  /** Runs while a request waits for the rate limit. */
  #timer: NodeJS.Timeout | undefined
  /** The rest of the requests waits for a later turn of the event loop. */
  #deferred = false
  #turnBytes = 0
  readonly #handle = (chain: Chain): boolean => this.#serve(chain)

  constructor(options: RngDeviceOptions) {
    this.name = options.name
    this.#source = options.source
    if (options.rate !== undefined) this.#bucket = new TokenBucket(options.rate, options.burst)
  }

  activate(context: DeviceContext): void {
    this.#context = context
    this.#drain()
  }

  notify(_queueIndex: number): void {
    this.#drain()
  }

  // A request is served at once or goes back to the queue: none is in flight between two turns.
  reset(): Promise<void> {
    this.resetQueue()
    this.#context = undefined
    this.#deferred = false
    return Promise.resolve()
  }

  resetQueue(): void {
    if (this.#timer !== undefined) clearTimeout(this.#timer)
    this.#timer = undefined
  }

  close(): Promise<void> {
    return this.reset()
  }

  state(): RngState {
    return { version: 1 }
  }

  restore(state: unknown): void {
    checkRngState(state)
  }

  get #queue(): Queue | undefined {
    return this.#context?.queues[REQUESTQ]
  }

  #drain(): void {
    const queue = this.#queue
    if (queue === undefined || this.#timer !== undefined || this.#deferred) return
    this.#turnBytes = 0
    if (drainQueue(queue, this.#handle) === "limit") this.#defer()
  }

  #defer(): void {
    this.#deferred = true
    this.#context?.defer(() => {
      this.#deferred = false
      this.#drain()
    })
  }

  /** Fills the writable part of `chain`; false when it has to wait. */
  #serve(chain: Chain): boolean {
    const queue = this.#queue
    if (queue === undefined) return false
    const length = Math.min(chain.writableBytes, MAX_REQUEST_BYTES, this.#bucket?.burst ?? MAX_REQUEST_BYTES)
    if (this.#turnBytes + length > MAX_TURN_BYTES) {
      this.#defer()
      return false
    }
    const wait = this.#bucket?.take(length) ?? 0
    if (wait > 0) {
      this.#waitFor(wait)
      return false
    }
    if (!this.#fill(chain, length)) return false
    this.#turnBytes += length
    queue.push(chain, length)
    return true
  }

  #waitFor(ms: number): void {
    this.#timer = setTimeout(
      () => {
        this.#timer = undefined
        this.#drain()
      },
      Math.min(ms, MAX_WAIT_MS),
    )
    this.#timer.unref()
  }

  #fill(chain: Chain, length: number): boolean {
    try {
      for (let done = 0; done < length; ) {
        const left = length - done
        const piece = left < SCRATCH_BYTES ? this.#scratch.subarray(0, left) : this.#scratch
        this.#source(piece)
        chain.copyIn(done, piece)
        // The guest's random numbers are nobody else's to find.
        piece.fill(0)
        done += piece.length
      }
      return true
    } catch (error) {
      // A source of the user's that fails. Predictable bytes would be worse than none.
      const context = this.#context
      this.#context = undefined
      context?.needsReset(`${this.name}: the entropy source failed: ${String(error)}`)
      return false
    }
  }
}
