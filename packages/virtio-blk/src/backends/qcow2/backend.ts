import {
  BLOCK_DISCARD,
  BLOCK_FLUSH,
  BLOCK_READ,
  BLOCK_WRITE,
  type BlockBackend,
  type BlockBackendInfo,
  type BlockRequest,
  type BlockSession,
} from "../../backend.js"
import type { EngineChoice } from "../engine.js"
import { errnoOf, unsupported } from "./errors.js"
import {
  COMPRESSED,
  CORRUPT,
  DATA,
  type Extent,
  type Layer,
  MISSING,
  mapChain,
  newExtent,
  ZERO,
} from "./extent.js"
import { DeferredFrees } from "./frees.js"
import type { Qcow2Image } from "./image.js"
import { Operation } from "./operation.js"
import { copyToGuest, fillGuest, MAX_SEGMENTS, Transfers } from "./transfers.js"
import { WriteTask } from "./write-task.js"
import { Qcow2Writer } from "./writer.js"

const EIO = 5
const EINVAL = 22
/** Pieces of a request that are looked up before any is started: more are taken one after the other. */
const FAST_PIECES = 8
/** 1 GiB, of one discard or write zeroes operation. */
const MAX_RANGE = 2 ** 30
/** Zeros are written to guest memory in `submit`. */
const BYTES_PER_TURN = 16 * 1024 * 1024

export interface Qcow2BackendOptions {
  readonly image: Qcow2Image
  /** The image, and what it is laid over, in that order. */
  readonly layers: readonly Layer[]
  readonly readonly: boolean
  /** Nothing needs to be durable. */
  readonly unsafe: boolean
  /** Most requests in flight. */
  readonly depth: number
  readonly engine: EngineChoice
}

/**
 * A qcow2 image. A request whose tables are in memory and that needs no allocation is carried out like one of a raw image: a few
 * table entries are read, and the engine moves the data. All else takes the slow path, an async function a request.
 */
export class Qcow2Backend implements BlockBackend {
  readonly image: Qcow2Image
  #info: BlockBackendInfo
  readonly #layers: readonly Layer[]
  readonly #unsafe: boolean
  readonly #transfers: Transfers
  #writer: Qcow2Writer | undefined
  #task: WriteTask | undefined
  readonly #frees: DeferredFrees
  #session: BlockSession | undefined
  /** By tag. */
  readonly #operations: (Operation | undefined)[]
  readonly #done: (operation: Operation) => void
  readonly #pieces: Extent[] = Array.from({ length: FAST_PIECES }, newExtent)
  #inFlight = 0
  #whenIdle: (() => void)[] = []
  #closed: Promise<void> | undefined

  private constructor(options: Qcow2BackendOptions, transfers: Transfers, writer: Qcow2Writer | undefined) {
    const { image, layers } = options
    this.image = image
    this.#layers = layers
    this.#unsafe = options.unsafe
    this.#transfers = transfers
    this.#writer = writer
    this.#frees = writer?.frees ?? new DeferredFrees(() => {})
    if (writer !== undefined) this.#task = new WriteTask(image, layers, writer, transfers)
    this.#operations = new Array<Operation | undefined>(options.depth).fill(undefined)
    this.#done = (operation) => this.#complete(operation)
    this.#info = backendInfo(image, options.readonly, transfers.engine)
  }

  static async open(options: Qcow2BackendOptions): Promise<Qcow2Backend> {
    const { image, depth, engine } = options
    let delivered = () => {}
    const transfers = new Transfers(Math.min(32768, depth * 2 + 64), engine, () => delivered())
    try {
      const punch = (offset: number, length: number) => transfers.punch(image.file.fd, offset, length)
      const writer = options.readonly ? undefined : await Qcow2Writer.open(image, punch)
      const backend = new Qcow2Backend(options, transfers, writer)
      delivered = () => backend.#delivered()
      return backend
    } catch (error) {
      await transfers.close()
      throw error
    }
  }

  get info(): BlockBackendInfo {
    return this.#info
  }

  start(session: BlockSession): void {
    this.#session = session
  }

  submit(request: BlockRequest): void {
    if (request.count > MAX_SEGMENTS) {
      this.#session!.complete(request, EINVAL)
      return
    }
    this.#operations[request.tag] ??= new Operation(this.#done)
    const operation = this.#operations[request.tag]!
    operation.start(request, this.#session!, this.#frees.enter())
    this.#inFlight++
    if (request.op <= BLOCK_WRITE && this.#submitFast(operation)) return
    void this.#submitSlow(operation)
  }

  commit(): void {
    this.#transfers.commit()
  }

  idle(): Promise<void> {
    if (this.#inFlight === 0) return Promise.resolve()
    return new Promise((resolve) => this.#whenIdle.push(resolve))
  }

  async resize(size?: number): Promise<void> {
    if (size === undefined || size === this.image.size) return
    const below = this.#layers[1]
    if (below !== undefined && below.size > this.image.size)
      throw unsupported(this.image.file.path, "what it is laid over is longer, and would show when it grows")
    await this.#writer!.grow(size)
    this.#info = backendInfo(this.image, this.#info.readonly, this.#transfers.engine)
  }

  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    try {
      await this.#writer?.close()
    } finally {
      await this.#transfers.close()
      for (const layer of this.#layers) await layer.close()
    }
  }

  /** False when something is to be loaded or allocated, or it has too many pieces. */
  #submitFast(operation: Operation): boolean {
    const { request } = operation
    const read = request.op === BLOCK_READ
    // What was allocated must not be forgotten after a write that is to be durable.
    if (!read && ((request.sync && this.#writer!.dirty) || this.image.broken !== undefined)) return false
    const pieces = this.#pieces
    let count = 0
    for (let done = 0; done < request.length; count++) {
      if (count === FAST_PIECES) return false
      const piece = pieces[count]!
      mapChain(this.#layers, request.offset + done, request.length - done, piece)
      const inPlace = piece.kind === DATA && (read || this.#isOwn(piece))
      if (!inPlace && !(read && piece.kind === ZERO)) return false
      done += piece.length
    }
    if (this.#transfers.room < count) return false
    operation.begin()
    for (let i = 0, done = 0; i < count; i++) {
      const piece = pieces[i]!
      this.#transfer(operation, piece, done)
      done += piece.length
    }
    operation.end(0)
    return true
  }

  /** Whether the piece may be written where it is. */
  #isOwn(piece: Extent): boolean {
    return piece.copied && piece.layer === this.image && this.#writer!.isData(piece.host, piece.length)
  }

  /** Starts a piece of DATA or ZERO, `skip` bytes into the request. */
  #transfer(operation: Operation, piece: Extent, skip: number): void {
    if (piece.kind === ZERO) {
      fillGuest(operation, skip, piece.length)
      return
    }
    const sync = operation.request.sync && !this.#unsafe
    const error = this.#transfers.add(operation, piece.layer!.file, piece.host, skip, piece.length, sync)
    if (error !== 0) {
      operation.begin()
      operation.end(error)
    }
  }

  async #submitSlow(operation: Operation): Promise<void> {
    const { request } = operation
    operation.begin()
    try {
      if (request.op === BLOCK_READ) await this.#read(operation)
      else await this.#change(operation)
    } catch (error) {
      operation.error ||= errnoOf(error)
    }
    // Parts may be under way, or not even started, where an error ended it early.
    this.#transfers.commit()
    await operation.settled()
    this.#done(operation)
    this.#delivered()
  }

  async #read(operation: Operation): Promise<void> {
    const { offset, length } = operation.request
    const extent = newExtent()
    for (let done = 0; done < length; ) {
      mapChain(this.#layers, offset + done, length - done, extent)
      const { kind, layer } = extent
      const size = extent.length
      if (kind === MISSING) {
        await layer!.load(offset + done)
        continue
      }
      if (kind === CORRUPT) throw layer!.corrupt(offset + done)
      if (kind === COMPRESSED) {
        const cluster = await layer!.decompress(extent.high, extent.low)
        const from = (offset + done) % cluster.length
        copyToGuest(operation, done, cluster.subarray(from, from + size))
      } else {
        if (this.#transfers.room === 0) {
          await this.#transfers.whenRoom()
          continue
        }
        this.#transfer(operation, extent, done)
      }
      done += size
    }
    this.#transfers.commit()
  }

  async #change(operation: Operation): Promise<void> {
    const { op, sync } = operation.request
    const writer = this.#writer
    if (writer === undefined) {
      if (op !== BLOCK_FLUSH) operation.error = EIO
      return
    }
    if (op === BLOCK_WRITE) await this.#task!.write(operation)
    else if (op === BLOCK_DISCARD) await this.#task!.discard(operation)
    else if (op !== BLOCK_FLUSH) await this.#task!.zero(operation)
    if (op === BLOCK_FLUSH || sync) await writer.sync()
  }

  #complete(operation: Operation): void {
    const { request, session, error } = operation
    this.#inFlight--
    this.#frees.leave(operation.epoch)
    if (error === 0 && request.op === BLOCK_READ) {
      for (let i = 0; i < request.count; i++) {
        session.memory.markDirty(request.addresses[i]!, request.lengths[i]!)
      }
    }
    session.complete(request, error)
  }

  #delivered(): void {
    this.#session?.completed()
    if (this.#inFlight > 0 || this.#whenIdle.length === 0) return
    const waiting = this.#whenIdle
    this.#whenIdle = []
    for (const resolve of waiting) resolve()
  }
}

function backendInfo(image: Qcow2Image, readonly: boolean, engine: string): BlockBackendInfo {
  const range = readonly ? 0 : MAX_RANGE
  return {
    size: image.size,
    readonly,
    logicalBlockSize: 512,
    physicalBlockSize: 4096,
    optimalIoSize: image.format.clusterSize,
    maxDiscard: range,
    maxWriteZeroes: range,
    discardAlignment: image.format.clusterSize,
    bytesPerTurn: BYTES_PER_TURN,
    engine,
  }
}
