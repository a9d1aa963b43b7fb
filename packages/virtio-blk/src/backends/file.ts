import { close, ftruncate } from "node:fs"
import { promisify } from "node:util"
import { ConfigError } from "@virtkit/interface"
import { BlockEngine } from "@virtkit/native"
import { NearRegion } from "@virtkit/virtqueue"
import {
  BLOCK_FLUSH,
  BLOCK_READ,
  BLOCK_WRITE,
  type BlockBackend,
  type BlockBackendInfo,
  type BlockRequest,
  type BlockSession,
} from "../backend.js"
import { type EngineChoice, engineError } from "./engine.js"
import { type DirectAccess, imageInfo, isAligned, type OpenedImage, openDirect, openImage } from "./image.js"

const EIO = 5
const EFAULT = 14
const EINVAL = 22
/** Segments of one batch. No chain of a queue that the device allows has as many. */
const SEGMENTS = 8192
/** 1 GiB: zeroing that a file system cannot do by itself is done by writing. */
const MAX_RANGE = 2 ** 30

/**
 * Reads that wait for the disk are sent off in small batches: it starts on the first ones while the next are made, and they are
 * done at different times instead of all at once.
 */
const DIRECT_BATCH = 4

const FLAG_SYNC = 1
const FLAG_UNMAP = 2
const FLAG_WAITS = 4

export interface FileBackendOptions {
  readonly path: string
  readonly readonly: boolean
  /** Never wait for the disk: a crash of the host may lose everything written since the start. */
  readonly unsafe: boolean
  /** Past the page cache, where a request is aligned. */
  readonly direct: boolean
  /** Most requests in flight. */
  readonly depth: number
  /** Default "auto": io_uring where it can be had. */
  readonly engine?: EngineChoice
  /** The thread may wait for the disk. Default false. */
  readonly mayWait?: boolean
}

/** An image whose lock is held, as plain data: other threads of the process can use it while it is open. */
export interface OpenedFile {
  readonly image: OpenedImage
  readonly direct: DirectAccess | undefined
}

/** A raw image file or a block device. Data goes between it and guest memory by system calls on other threads. */
export async function fileBackend(options: FileBackendOptions): Promise<BlockBackend> {
  const file = await openFile(options)
  try {
    return fileBackendOn(file, options, () => closeFile(file))
  } catch (error) {
    await closeFile(file)
    throw error
  }
}

export async function openFile({ path, readonly, direct }: FileBackendOptions): Promise<OpenedFile> {
  const image = await openImage(path, readonly)
  try {
    return { image, direct: direct ? await openDirect(image) : undefined }
  } catch (error) {
    await promisify(close)(image.fd)
    throw error
  }
}

export async function closeFile({ image, direct }: OpenedFile): Promise<void> {
  if (direct !== undefined) await promisify(close)(direct.fd)
  await promisify(close)(image.fd)
}

/** The same on a file that is open; `closed` is called at the end, if somebody else does not close it. */
export function fileBackendOn(
  file: OpenedFile,
  options: FileBackendOptions,
  closed?: () => Promise<void>,
): BlockBackend {
  try {
    return new FileBackend(file, options, closed)
  } catch (error) {
    throw engineError(error, options.path)
  }
}

class FileBackend implements BlockBackend {
  #info: BlockBackendInfo
  readonly #image: OpenedImage
  readonly #unsafe: boolean
  readonly #direct: DirectAccess | undefined
  readonly #engine: BlockEngine
  readonly #whenClosed: (() => Promise<void>) | undefined
  /** By tag: what the engine was given, and how many bytes that must be. */
  readonly #requests: (BlockRequest | undefined)[]
  #session: BlockSession | undefined
  #near: NearRegion | undefined
  /** Requests and segments written to the engine's arrays and not submitted. */
  #batched = 0
  #batchedSegments = 0
  #inFlight = 0
  #whenIdle: (() => void)[] = []
  /** The session wants to be woken. */
  #wakes = false
  #closed: Promise<void> | undefined

  constructor(
    { image, direct }: OpenedFile,
    options: FileBackendOptions,
    closed: (() => Promise<void>) | undefined,
  ) {
    this.#image = image
    this.#direct = direct
    this.#whenClosed = closed
    const { depth, engine = "auto", mayWait = false } = options
    this.#unsafe = options.unsafe
    this.#requests = new Array<BlockRequest | undefined>(depth).fill(undefined)
    this.#engine = new BlockEngine({ depth, segments: SEGMENTS, kind: engine, writeNow: mayWait }, (count) =>
      this.#called(count),
    )
    this.#engine.registerFile(direct?.fd ?? image.fd)
    this.#info = backendInfo(image, this.#engine.kind)
  }

  get info(): BlockBackendInfo {
    return this.#info
  }

  start(session: BlockSession): void {
    this.#session = session
    this.#near = new NearRegion(session.memory)
  }

  submit(request: BlockRequest): void {
    if (this.#unsafe && request.op === BLOCK_FLUSH) {
      this.#session!.complete(request, 0)
      return
    }
    if (request.count > SEGMENTS) {
      this.#session!.complete(request, EINVAL)
      return
    }
    if (this.#batchedSegments + request.count > SEGMENTS) this.#deliver(this.#send())
    const engine = this.#engine
    const index = this.#batched
    engine.ops[index] = request.op
    engine.fds[index] = this.#image.fd
    engine.flags[index] = (request.sync && !this.#unsafe ? FLAG_SYNC : 0) | (request.unmap ? FLAG_UNMAP : 0)
    engine.offsets[index] = request.offset
    engine.lengths[index] = request.length
    engine.tags[index] = request.tag
    engine.firstSegments[index] = this.#batchedSegments
    engine.segmentCounts[index] = request.count
    if (!this.#addSegments(request)) {
      this.#session!.complete(request, EFAULT)
      return
    }
    if (this.#direct !== undefined && this.#goesPast(this.#direct, request)) {
      engine.fds[index] = this.#direct.fd
      engine.flags[index]! |= FLAG_WAITS
    }
    this.#requests[request.tag] = request
    this.#inFlight++
    this.#batched = index + 1
    this.#batchedSegments += request.count
    if (request.op === BLOCK_READ && this.#direct !== undefined && this.#batched >= DIRECT_BATCH)
      this.#deliver(this.#send())
  }

  commit(): void {
    const completed = this.#send()
    if (completed > 0) this.#finish(completed)
  }

  get clock(): Float64Array {
    return this.#engine.clock
  }

  poll(): void {
    const completed = this.#engine.poll()
    if (completed > 0) this.#finish(completed)
  }

  cancel(requests: readonly BlockRequest[]): void {
    // The arrays are for one batch at a time.
    while (this.#batched > 0) this.#deliver(this.#send())
    for (const [index, { tag }] of requests.entries()) this.#engine.tags[index] = tag
    this.#finish(this.#engine.cancel(requests.length))
  }

  wake(): void {
    this.#wakes = true
    this.#engine.wake()
  }

  setPolling(on: boolean): void {
    this.#engine.setPolling(on)
  }

  idle(): Promise<void> {
    if (this.#inFlight === 0) return Promise.resolve()
    return new Promise((resolve) => this.#whenIdle.push(resolve))
  }

  async resize(size?: number): Promise<void> {
    const { fd, path } = this.#image
    if (size !== undefined) {
      if (this.#image.info.kind !== "file")
        throw new ConfigError(`${path} is a device: its size cannot be set`)
      await promisify(ftruncate)(fd, size)
    }
    this.#image.info = imageInfo(fd, path)
    this.#info = backendInfo(this.#image, this.#engine.kind)
  }

  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    await this.#engine.close()
    await this.#whenClosed?.()
  }

  /** Whether a read or write goes past the page cache; its segments are those behind the batch's. */
  #goesPast(direct: DirectAccess, { offset, count }: BlockRequest): boolean {
    const { segmentAddresses, segmentLengths } = this.#engine
    return isAligned(direct, offset, segmentAddresses, segmentLengths, this.#batchedSegments, count)
  }

  /** Writes the memory segments behind those of the batch; false when the memory has no address for system calls. */
  #addSegments(request: BlockRequest): boolean {
    const { segmentAddresses, segmentLengths } = this.#engine
    const { addresses, lengths, count } = request
    const at = this.#batchedSegments
    for (let i = 0; i < count; i++) segmentLengths[at + i] = lengths[i]!
    return this.#near!.hostAddresses(addresses, lengths, count, segmentAddresses, at)
  }

  /** Submits the batch; returns how many requests were completed by that. */
  #send(): number {
    const count = this.#batched
    if (count === 0) return 0
    this.#batched = 0
    this.#batchedSegments = 0
    return this.#engine.submit(count)
  }

  /** From the event loop. */
  #called(count: number): void {
    if (count > 0) this.#finish(count)
    if (!this.#wakes) return
    this.#wakes = false
    this.#session!.woken()
  }

  #finish(count: number): void {
    this.#deliver(count)
    this.#session!.completed()
    if (this.#inFlight > 0 || this.#whenIdle.length === 0) return
    const waiting = this.#whenIdle
    this.#whenIdle = []
    for (const resolve of waiting) resolve()
  }

  /** Reads the engine's completion arrays, which the next `#send` overwrites. */
  #deliver(count: number): void {
    const { completedTags, results } = this.#engine
    for (let i = 0; i < count; i++) {
      const tag = completedTags[i]!
      const request = this.#requests[tag]!
      this.#requests[tag] = undefined
      this.#inFlight--
      this.#session!.complete(request, this.#errorOf(request, results[i]!))
    }
  }

  /** A positive errno, or 0. */
  #errorOf(request: BlockRequest, result: number): number {
    if (result < 0) return -result
    const moves = request.op === BLOCK_READ || request.op === BLOCK_WRITE
    // The file became shorter than the disk.
    if (moves && result !== request.length) return EIO
    if (request.op === BLOCK_READ) this.#markDirty(request)
    return 0
  }

  #markDirty(request: BlockRequest): void {
    const memory = this.#session!.memory
    // A call with an address above 2^31 allocates it.
    if (memory.dirtyTracking === false) return
    for (let i = 0; i < request.count; i++) memory.markDirty(request.addresses[i]!, request.lengths[i]!)
  }
}

function backendInfo({ info, readonly }: OpenedImage, engine: string): BlockBackendInfo {
  const range = readonly ? 0 : MAX_RANGE
  return {
    size: info.size,
    readonly,
    logicalBlockSize: info.logicalBlockSize,
    physicalBlockSize: info.physicalBlockSize,
    optimalIoSize: info.optimalIoSize,
    maxDiscard: range,
    maxWriteZeroes: range,
    // Of a file: the block of nearly every file system.
    discardAlignment: info.kind === "file" ? 4096 : info.physicalBlockSize,
    bytesPerTurn: 0,
    engine,
  }
}
