import type { Chain, Queue } from "@virtkit/interface"
import type { TransmitFrame } from "./backend.js"
import { ETHERNET_HEADER_BYTES, HEADER_BYTES, MAX_FRAME_BYTES } from "./constants.js"
import type { NetCore } from "./core.js"
import { checkTransmitHeader, type MutableNetHeader, newHeader, readHeader, wirePackets } from "./header.js"

/**
 * Frames, or bytes of them, between two calls of `NetBackend.commit`. After so many bytes, two frames of the largest size, a
 * sender that waits for its frames to be sent (TCP small queues) has to hear of them; fewer would wake it for each frame.
 */
const BATCH = 64
const BATCH_BYTES = 131_072

/** One transmit queue (5.1.6.2): takes frames in batches, checks their headers, hands them to the backend. */
export class TransmitQueue {
  readonly #pair: number
  readonly #queue: Queue
  readonly #core: NetCore
  readonly #frame = new Frame()
  readonly #headerBytes = new Uint8Array(HEADER_BYTES)
  /** Chains of this batch, `#batched` of them, which go back to the driver together. */
  readonly #batch: (Chain | undefined)[] = new Array<Chain | undefined>(BATCH).fill(undefined)
  #batched = 0
  #batchedBytes = 0
  #accepted = 0
  /** Frames that are sent, and whose answers were not yet looked for. */
  #sent = 0
  /** The rest of the ring waits for a later turn of the event loop. */
  #deferred = false
  /** It waits for the backend or the rate limit. */
  #blocked = false
  #closed = false

  constructor(pair: number, queue: Queue, core: NetCore) {
    this.#pair = pair
    this.#queue = queue
    this.#core = core
  }

  close(): void {
    this.#closed = true
  }

  /** The driver made frames available, or may have. */
  notify(): void {
    if (this.#deferred || this.#blocked || this.#closed) return
    const end = this.#drain()
    this.#lookForAnswers()
    if (end === "limit") {
      this.#deferred = true
      this.#core.context.defer(() => {
        this.#deferred = false
        this.notify()
      })
    }
  }

  /** The backend has room again, or the rate limit lets frames pass. */
  ready(): void {
    this.#blocked = false
    this.notify()
  }

  /** Once for all that the ring had, so that the driver gets the answers together. */
  #lookForAnswers(): void {
    const sent = this.#sent
    this.#sent = 0
    if (sent > 0) this.#core.backend.committed?.(this.#pair, sent)
  }

  /** Takes as many chains as the ring has at most (bad-input #16). */
  #drain(): "empty" | "limit" | "blocked" {
    const queue = this.#queue
    queue.disableNotification()
    for (let left = queue.size; left > 0; ) {
      const taken = this.#takeBatch(Math.min(BATCH, left))
      const full = this.#batched === BATCH || this.#batchedBytes >= BATCH_BYTES
      this.#finishBatch()
      if (this.#blocked) return "blocked"
      left -= taken
      if (full && left > 0) continue
      if (!queue.enableNotification()) return "empty"
      // Chains are there, but none that the device gets to see: those without end must not keep us here.
      if (taken === 0) break
      queue.disableNotification()
    }
    return "limit"
  }

  #takeBatch(limit: number): number {
    for (let taken = 0; taken < limit; taken++) {
      if (this.#batchedBytes >= BATCH_BYTES) return taken
      const chain = this.#queue.pop()
      if (chain === undefined) return taken
      if (!this.#take(chain)) {
        this.#queue.unpop(chain)
        this.#blocked = true
        return taken
      }
      this.#batch[this.#batched++] = chain
      this.#batchedBytes += chain.readableBytes
    }
    return limit
  }

  #finishBatch(): void {
    const { backend } = this.#core
    const accepted = this.#accepted
    this.#accepted = 0
    if (accepted > 0) backend.commit?.(this.#pair)
    for (let i = 0; i < this.#batched; i++) this.#queue.push(this.#batch[i]!, 0)
    this.#batched = 0
    this.#batchedBytes = 0
    this.#queue.flush()
    this.#sent += accepted
  }

  /** False when neither backend nor rate limit take the frame now. */
  #take(chain: Chain): boolean {
    const { counters, linkUp, transmitLimiter, transmitOffloads, backend, capture } = this.#core
    const length = chain.readableBytes - HEADER_BYTES
    // Short frames and headers (bad-input #28), and frames that no network knows (bad-input #12).
    if (length < ETHERNET_HEADER_BYTES || length > MAX_FRAME_BYTES) {
      counters.txBadLength++
      return true
    }
    // Copied once; the copy is checked, and what is passed on (bad-input #18).
    const { header } = this.#frame
    chain.copyOut(0, this.#headerBytes)
    readHeader(this.#headerBytes, 0, header)
    if (!checkTransmitHeader(header, length, transmitOffloads)) {
      counters.txBadHeader++
      return true
    }
    if (!linkUp) {
      counters.txDropped++
      return true
    }
    const limited = transmitLimiter.limited
    if (limited && transmitLimiter.allowance() < 1) {
      counters.txLimited++
      return false
    }
    this.#frame.set(chain, length)
    if (!backend.transmit(this.#pair, this.#frame)) return false
    this.#accepted++
    if (limited) transmitLimiter.take(length, wirePackets(header, length))
    if (capture !== undefined) capture.transmitted(this.#frame)
    this.#count(length)
    return true
  }

  #count(length: number): void {
    const { counters } = this.#core
    counters.txFrames++
    counters.txBytes += length
    const queue = counters.queues[this.#pair]!
    queue.txFrames++
    queue.txBytes += length
  }
}

class Frame implements TransmitFrame {
  readonly header: MutableNetHeader = newHeader()
  readonly offset = HEADER_BYTES
  byteLength = 0
  #chain: Chain | undefined

  get chain(): Chain {
    return this.#chain!
  }

  set(chain: Chain, length: number): void {
    this.#chain = chain
    this.byteLength = length
  }

  copyTo(target: Uint8Array, at = 0): number {
    const { byteLength } = this
    const whole = at === 0 && target.length === byteLength
    return this.#chain!.copyOut(HEADER_BYTES, whole ? target : target.subarray(at, at + byteLength))
  }
}
