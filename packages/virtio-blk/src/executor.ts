import type { Chain, DeviceContext, GuestMemory, Queue } from "@virtkit/interface"
import { drainQueue, type Limiter } from "@virtkit/virtqueue"
import {
  BLOCK_DISCARD,
  BLOCK_FLUSH,
  BLOCK_READ,
  BLOCK_WRITE,
  BLOCK_WRITE_ZEROES,
  type BlockBackend,
  type BlockRequest,
  type BlockSession,
} from "./backend.js"
import {
  HEADER_BYTES,
  MAX_RANGES,
  SEGMENT_BYTES,
  VIRTIO_BLK_S_IOERR,
  VIRTIO_BLK_S_OK,
  VIRTIO_BLK_S_UNSUPP,
  VIRTIO_BLK_T_DISCARD,
  VIRTIO_BLK_T_FLUSH,
  VIRTIO_BLK_T_GET_ID,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT,
} from "./constants.js"
import type { BlockCounters } from "./counters.js"
import { PollWindow } from "./polling.js"
import { type DiskLimits, type ParsedRange, type ParsedRequest, parseRange, parseRequest } from "./request.js"
import { Slot } from "./slot.js"

/** Milliseconds that a device looks for work in one turn of the event loop at most; then others have theirs (bad-input #34). */
const TURN_MS = 0.5

/** Errno of an operation that the file system or device does not know. */
const EOPNOTSUPP = 95

/** What an executor works with, besides the context of the activation. */
export interface ExecutorOptions {
  readonly backend: BlockBackend
  readonly context: DeviceContext
  /** Kept up to date by the device. */
  readonly limits: DiskLimits
  readonly counters: BlockCounters
  /** Of all queues; it makes them go on by `resume`. */
  readonly limiter: Limiter
  /** Most requests in flight: the largest sizes of all queues together. */
  readonly depth: number
  /** By queue, zeroes: the executor counts there the requests that the backend has. */
  readonly queueInFlight: number[] | Int32Array
  /** 20 bytes, the answer to GET_ID. */
  readonly id: Uint8Array
  /** Longest time to look for work instead of waiting for it, microseconds; 0: never. */
  readonly poll: number
}

/**
 * Takes requests from the queues, has the backend carry them out and answers them, from one activation of the device to
 * the next reset. After `stop` completions that still arrive change nothing in the guest (bad-input #27).
 */
export class Executor implements BlockSession {
  readonly memory: GuestMemory
  readonly depth: number
  /** Whether a write must be durable before it completes. */
  writethrough = false

  readonly #backend: BlockBackend
  readonly #context: DeviceContext
  readonly #limits: DiskLimits
  readonly #counters: BlockCounters
  readonly #limiter: Limiter
  readonly #id: Uint8Array
  readonly #bytesPerTurn: number
  /** By queue, made once: what drains it. */
  readonly #handlers: ((chain: Chain) => boolean)[]
  /** By queue: chains were pushed and not flushed. */
  readonly #pushed: boolean[]
  /** By queue: a drain waits for a later turn of the event loop. */
  readonly #deferred: boolean[]
  /** Slots at rest, and all of them: they are made when they are first needed. */
  readonly #free: Slot[] = []
  readonly #slots: Slot[] = []
  /** By queue: requests that the backend has, those of a queue that was reset included. */
  readonly #queueInFlight: number[] | Int32Array
  /** By queue: who waits until it has none. */
  readonly #whenIdle: ((() => void) | undefined)[]
  #active = true
  #turnBytes = 0
  /** Requests other than reads that the backend has. */
  #changing = 0
  #toCommit = false
  /** The last drain ended because of the rate limit: its timer brings the queue back, not the next turn. */
  #limited = false
  /** Absent when the device never looks for work by itself. */
  readonly #window: PollWindow | undefined
  /** What {@link #look} is doing: no notification or completion needs to call it. */
  #looking = false
  /** A later turn of the event loop was asked for. */
  #comesBack = false
  readonly #goOn: () => void
  /** Requests answered or handed to the backend. */
  #progress = 0

  readonly #header = new DataView(new ArrayBuffer(HEADER_BYTES))
  readonly #headerBytes = new Uint8Array(this.#header.buffer)
  readonly #ranges = new DataView(new ArrayBuffer(MAX_RANGES * SEGMENT_BYTES))
  readonly #rangesBytes = new Uint8Array(this.#ranges.buffer)
  readonly #status = new Uint8Array(1)
  readonly #request: ParsedRequest = { type: 0, offset: 0, dataBytes: 0, status: 0 }
  readonly #range: ParsedRange = { offset: 0, length: 0, unmap: false, status: 0 }

  constructor(options: ExecutorOptions) {
    const { backend, context } = options
    const { queues } = context
    this.#backend = backend
    this.#context = context
    this.#limits = options.limits
    this.#counters = options.counters
    this.#limiter = options.limiter
    this.#id = options.id
    this.#bytesPerTurn = backend.info.bytesPerTurn
    this.memory = context.memory
    if (options.poll > 0 && backend.poll !== undefined)
      this.#window = new PollWindow(options.poll, backend.clock!)
    this.#goOn = () => this.woken()
    // A slot for every chain that can be in flight: a queue never runs out of them (bad-input #17).
    this.depth = options.depth
    this.#queueInFlight = options.queueInFlight
    this.#whenIdle = queues.map(() => undefined)
    this.#pushed = queues.map(() => false)
    this.#deferred = queues.map(() => false)
    this.#handlers = queues.map((_, index) => (chain) => this.#accept(index, chain))
  }

  /** Requests that the backend has. */
  get inFlight(): number {
    return this.#slots.length - this.#free.length
  }

  start(): void {
    this.#backend.start(this)
    for (const queue of this.#context.queues) {
      // Chains may be there already, in a restored queue above all.
      if (queue?.enableNotification()) this.#defer(queue.index)
    }
  }

  stop(): void {
    this.#active = false
    // What is in flight still completes, by the event loop.
    this.#backend.setPolling?.(false)
    this.#cancel(this.#slots.filter(({ chain }) => chain !== undefined))
  }

  /**
   * Abandons the requests of a queue that the driver reset; settles when the backend has none of them any more. Others
   * go on. A backend that does its work in `submit` has none now.
   */
  resetQueue(index: number): void | Promise<void> {
    this.#pushed[index] = false
    if (this.#queueInFlight[index] === 0) return undefined
    const idle = new Promise<void>((resolve) => {
      this.#whenIdle[index] = resolve
    })
    this.#cancel(this.#slots.filter(({ queue }) => queue?.index === index && this.#isReset(queue)))
    return idle
  }

  /** Nobody waits for the answers any more: only for what the disk does meanwhile. */
  #cancel(slots: readonly Slot[]): void {
    if (slots.length > 0) this.#backend.cancel?.(slots)
  }

  /**
   * Takes at most a queue's size of chains, then lets others have their turn (bad-input #16). While that turn is awaited
   * notifications change nothing: each would add a drain to every turn to come (bad-input #34).
   */
  notify(index: number): void {
    const queue = this.#context.queues[index]
    if (!this.#active || queue === undefined || this.#deferred[index]) return
    this.#turnBytes = 0
    this.#limited = false
    if (this.#window !== undefined) {
      this.#wake(this.#window)
      return
    }
    const result = drainQueue(queue, this.#handlers[index]!)
    this.#backend.commit()
    this.#flush()
    if (result !== "empty" && !this.#limited) this.#defer(index)
  }

  #wake(window: PollWindow): void {
    if (this.#looking) return
    this.#looking = true
    this.#backend.poll!()
    if (!this.#active) return
    window.woken()
    if (window.length > 0) this.#backend.setPolling!(true)
    this.#look()
  }

  /**
   * Takes what is there, from all queues, and looks for more until there has been none for the length of the window, or the disk has
   * to be waited for. The driver need not notify meanwhile, nor completions wake the event loop. Goes on in a later turn when this one has lasted long enough.
   */
  #look(): void {
    const window = this.#window!
    const { queues } = this.#context
    const clock = this.#backend.clock!
    const { length } = window
    let end = clock[0]! + length
    const turnEnd = clock[0]! + TURN_MS
    for (let i = 0; i < queues.length; i++) queues[i]?.disableNotification()
    for (;;) {
      const worked = this.#takeAll()
      const now = clock[0]!
      if (!this.#active) return
      if (worked) {
        window.worked()
        end = now + length
      } else if (now >= end || this.#changing > 0 || this.inFlight > 1) {
        // Changes, and much at a time, are the kernel's own threads' to do, which may need this very processor: they wake the event loop.
        break
      }
      if (now >= turnEnd) {
        this.#comeBack()
        return
      }
    }
    this.#looking = false
    if (length > 0) this.#backend.setPolling!(false)
    // The rate limit's timer comes back, for all queues.
    if (this.#limited) return
    for (let i = 0; i < queues.length; i++)
      if (queues[i]?.enableNotification() && !this.#deferred[i]) this.#defer(i)
  }

  /** At most a queue's size of chains from each queue, and all completions; false when there was nothing. */
  #takeAll(): boolean {
    const { queues } = this.#context
    const before = this.#progress
    this.#limited = false
    for (let i = 0; i < queues.length; i++) {
      const queue = queues[i]
      if (queue === undefined) continue
      const handle = this.#handlers[i]!
      for (let left = queue.size; left > 0; left--) {
        const chain = queue.pop()
        if (chain === undefined) break
        this.#progress++
        if (handle(chain)) continue
        queue.unpop(chain)
        this.#progress--
        break
      }
    }
    if (this.#progress !== before) this.#backend.commit()
    this.#backend.poll!()
    this.#flush()
    return this.#progress !== before
  }

  /** The rate limit lets requests pass again. */
  resume(): void {
    for (const queue of this.#context.queues) if (queue !== undefined) this.notify(queue.index)
  }

  #defer(index: number): void {
    this.#deferred[index] = true
    this.#comeBack()
  }

  /** Has {@link woken} called in a later turn of the event loop. */
  #comeBack(): void {
    if (this.#comesBack) return
    this.#comesBack = true
    if (this.#backend.wake !== undefined) this.#backend.wake()
    else this.#context.defer(this.#goOn)
  }

  woken(): void {
    if (!this.#active) return
    this.#comesBack = false
    if (this.#looking) this.#look()
    for (let i = 0; i < this.#deferred.length; i++) {
      if (!this.#deferred[i]) continue
      this.#deferred[i] = false
      this.notify(i)
    }
  }

  complete(request: BlockRequest, error: number): void {
    const slot = request as Slot
    const { chain, queue } = slot
    this.#progress++
    if (!this.#active || chain === undefined || queue === undefined || this.#isReset(queue)) {
      this.#release(slot)
      return
    }
    // 5.2.6.2: a discard is a hint, which a file system without holes takes by doing nothing.
    const failed = error !== 0 && !(slot.op === BLOCK_DISCARD && error === EOPNOTSUPP)
    if (!failed && slot.advance()) {
      this.#toCommit = true
      this.#backend.submit(slot)
      return
    }
    if (failed) this.#counters.lastErrno = error
    else this.#count(slot)
    const written = slot.op === BLOCK_READ && !failed ? slot.length + 1 : 1
    this.#answer(queue, chain, failed ? statusOf(error) : VIRTIO_BLK_S_OK, written)
    this.#release(slot)
  }

  completed(): void {
    if (!this.#active) return
    if (this.#toCommit) {
      this.#toCommit = false
      this.#backend.commit()
    }
    this.#flush()
    // They came by the event loop.
    if (this.#window !== undefined) this.#wake(this.#window)
  }

  /** The driver reset the queue: what was in flight is abandoned. */
  #isReset(queue: Queue): boolean {
    return this.#context.queues[queue.index] !== queue
  }

  /** False when the chain must wait for a later turn. */
  #accept(index: number, chain: Chain): boolean {
    const queue = this.#context.queues[index]
    if (queue === undefined || this.inFlight === this.depth) return false
    if (this.#bytesPerTurn > 0 && this.#turnBytes >= this.#bytesPerTurn) return false
    if (this.#limiter.limited && this.#limiter.allowance() < 1) {
      this.#counters.limited++
      this.#limited = true
      return false
    }
    // There is no header to read, or nowhere to put a status (bad-input #20).
    if (chain.readableBytes < HEADER_BYTES || chain.writableBytes < 1) {
      this.#counters.malformed++
      queue.push(chain, 0)
      return true
    }
    // Copied once: the guest may change it meanwhile (bad-input #18).
    chain.copyOut(0, this.#headerBytes)
    const request = this.#request
    parseRequest(this.#header, chain.readableBytes, chain.writableBytes, this.#limits, request)
    if (request.status !== VIRTIO_BLK_S_OK) this.#answer(queue, chain, request.status, 1)
    else if (request.type === VIRTIO_BLK_T_GET_ID) this.#answerId(queue, chain)
    else this.#execute(queue, chain)
    return true
  }

  /** Hands the parsed request to the backend. */
  #execute(queue: Queue, chain: Chain): void {
    const { type, offset, dataBytes } = this.#request
    const slot = this.#free.pop() ?? this.#newSlot()
    slot.begin(chain, queue)
    if (type !== VIRTIO_BLK_T_IN) this.#changing++
    this.#queueInFlight[queue.index]!++
    slot.sync = this.writethrough
    slot.offset = offset
    slot.length = dataBytes
    if (type === VIRTIO_BLK_T_IN) {
      slot.op = BLOCK_READ
      slot.setData(0, dataBytes, true)
    } else if (type === VIRTIO_BLK_T_OUT) {
      slot.op = BLOCK_WRITE
      slot.setData(HEADER_BYTES, dataBytes, false)
    } else if (type === VIRTIO_BLK_T_FLUSH) {
      slot.op = BLOCK_FLUSH
    } else if (!this.#prepareRanges(slot, type, dataBytes / SEGMENT_BYTES)) {
      return
    }
    this.#turnBytes += slot.length
    this.#limiter.take(slot.count > 0 ? slot.length : 0, 1)
    this.#backend.submit(slot)
  }

  /** Reads the ranges of a discard or write zeroes request; answers it, and returns false, when nothing is left to do. */
  #prepareRanges(slot: Slot, type: number, count: number): boolean {
    const chain = slot.chain!
    slot.op = type === VIRTIO_BLK_T_DISCARD ? BLOCK_DISCARD : BLOCK_WRITE_ZEROES
    chain.copyOut(HEADER_BYTES, this.#rangesBytes)
    const range = this.#range
    let status = VIRTIO_BLK_S_OK
    // All are checked before the first is carried out.
    for (let i = 0; i < count && status === VIRTIO_BLK_S_OK; i++) {
      parseRange(this.#ranges, i * SEGMENT_BYTES, type, this.#limits, range)
      status = range.status
      if (range.length > 0) slot.addRange(range.offset, range.length, range.unmap)
    }
    if (status === VIRTIO_BLK_S_OK && slot.advance()) return true
    this.#answer(slot.queue!, chain, status, 1)
    this.#release(slot)
    return false
  }

  /** 5.2.6: the ID is cut off where the buffer ends. */
  #answerId(queue: Queue, chain: Chain): void {
    const { dataBytes } = this.#request
    const bytes = Math.min(dataBytes, this.#id.length)
    chain.copyIn(0, bytes < this.#id.length ? this.#id.subarray(0, bytes) : this.#id)
    this.#answer(queue, chain, VIRTIO_BLK_S_OK, dataBytes === bytes ? bytes + 1 : bytes)
  }

  /** The status is the last writable byte, wherever that is (bad-input #21). */
  #answer(queue: Queue, chain: Chain, status: number, written: number): void {
    if (status !== VIRTIO_BLK_S_OK) this.#counters.failed++
    this.#status[0] = status
    chain.copyIn(chain.writableBytes - 1, this.#status)
    queue.push(chain, written)
    this.#pushed[queue.index] = true
  }

  #flush(): void {
    for (let i = 0; i < this.#pushed.length; i++) {
      if (!this.#pushed[i]) continue
      this.#pushed[i] = false
      this.#context.queues[i]?.flush()
    }
  }

  #newSlot(): Slot {
    const slot = new Slot(this.#slots.length)
    this.#slots.push(slot)
    return slot
  }

  #release(slot: Slot): void {
    if (slot.op !== BLOCK_READ) this.#changing--
    const index = slot.queue?.index
    slot.end()
    this.#free.push(slot)
    if (index === undefined) return
    const left = --this.#queueInFlight[index]!
    if (left > 0) return
    this.#whenIdle[index]?.()
    this.#whenIdle[index] = undefined
  }

  #count(slot: Slot): void {
    const counters = this.#counters
    if (slot.op === BLOCK_READ) {
      counters.reads++
      counters.readBytes += slot.length
    } else if (slot.op === BLOCK_WRITE) {
      counters.writes++
      counters.writtenBytes += slot.length
    } else if (slot.op === BLOCK_FLUSH) {
      counters.flushes++
    } else {
      counters.ranges++
    }
  }
}

function statusOf(error: number): number {
  return error === EOPNOTSUPP ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR
}
