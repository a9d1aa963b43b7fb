import type { GuestMemory } from "@virtkit/interface"
import { BlockEngine, type BlockEngineKind } from "@virtkit/native"
import { BLOCK_DISCARD, BLOCK_READ, type BlockRequest } from "../../backend.js"
import { isAligned } from "../image.js"
import { errnoOf } from "./errors.js"
import type { ImageFile } from "./image-file.js"

const EFAULT = 14
/** Segments of one batch. No chain of a queue that the device allows has as many. */
export const MAX_SEGMENTS = 8192
const FLAG_SYNC = 1
const FLAG_WAITS = 4

/** What a transfer is a part of. */
export interface TransferOwner {
  readonly request: BlockRequest
  readonly memory: GuestMemory
  /** A part was added to the engine. */
  begin(): void
  /** It is done: 0 or a positive errno. */
  end(error: number): void
}

/** A place for a transfer in flight. */
interface Part {
  owner: TransferOwner | undefined
  /** Where in the request's data, and how many bytes. */
  skip: number
  length: number
  read: boolean
}

/**
 * Parts of requests on their way between guest memory and a file, by the native engine: no data passes through
 * JavaScript. Reads behind the end of the file give zeros.
 */
export class Transfers {
  readonly #engine: BlockEngine
  readonly #parts: Part[]
  readonly #free: number[] = []
  /** Internal operations without guest memory, by tag. */
  readonly #others = new Map<number, (error: number) => void>()
  readonly #delivered: () => void
  #batched = 0
  #batchedSegments = 0
  /** Ends were told, and `delivered` was not called after them. */
  #early = false
  #waiting: (() => void)[] = []

  /** `delivered` is called when a batch of ends is over. */
  constructor(depth: number, kind: BlockEngineKind | "auto", delivered: () => void) {
    this.#delivered = delivered
    this.#engine = new BlockEngine({ depth, segments: MAX_SEGMENTS, kind }, (count) => this.#finish(count))
    this.#parts = Array.from({ length: depth }, () => ({ owner: undefined, skip: 0, length: 0, read: false }))
    for (let tag = depth - 1; tag >= 0; tag--) this.#free.push(tag)
  }

  get engine(): BlockEngineKind {
    return this.#engine.kind
  }

  /** How many parts can be added now. */
  get room(): number {
    return this.#free.length
  }

  /** Resolves when there may be room. */
  whenRoom(): Promise<void> {
    this.commit()
    return this.#free.length > 0 ? Promise.resolve() : new Promise((resolve) => this.#waiting.push(resolve))
  }

  /**
   * Adds a transfer of `length` bytes, from `skip` bytes into the data of the owner's request, to or from `offset` of the
   * file. There is room. 0, or an errno, with nothing added. Goes with the next `commit`.
   */
  add(
    owner: TransferOwner,
    file: ImageFile,
    offset: number,
    skip: number,
    length: number,
    sync: boolean,
  ): number {
    const { request } = owner
    if (this.#batchedSegments + request.count > MAX_SEGMENTS) {
      this.#deliver(this.#send())
      this.#early = true
    }
    const engine = this.#engine
    const first = this.#batchedSegments
    const count = this.#addSegments(owner, skip, length)
    if (count < 0) return EFAULT
    const tag = this.#free.pop()!
    const part = this.#parts[tag]!
    part.owner = owner
    part.skip = skip
    part.length = length
    part.read = request.op === BLOCK_READ
    const index = this.#batched++
    const { direct } = file
    const { segmentAddresses, segmentLengths } = engine
    const past =
      direct !== undefined && isAligned(direct, offset, segmentAddresses, segmentLengths, first, count)
    engine.ops[index] = request.op
    engine.fds[index] = past ? direct.fd : file.fd
    engine.flags[index] = (sync ? FLAG_SYNC : 0) | (past ? FLAG_WAITS : 0)
    engine.offsets[index] = offset
    engine.lengths[index] = length
    engine.tags[index] = tag
    engine.firstSegments[index] = first
    engine.segmentCounts[index] = count
    this.#batchedSegments = first + count
    owner.begin()
    return 0
  }

  /** Gives a range of the file back to the file system, if that can do it. */
  async punch(fd: number, offset: number, length: number): Promise<void> {
    while (this.room === 0) await this.whenRoom()
    const tag = this.#free.pop()!
    const engine = this.#engine
    const index = this.#batched++
    engine.ops[index] = BLOCK_DISCARD
    engine.fds[index] = fd
    engine.flags[index] = 0
    engine.offsets[index] = offset
    engine.lengths[index] = length
    engine.tags[index] = tag
    engine.firstSegments[index] = 0
    engine.segmentCounts[index] = 0
    const done = new Promise<void>((resolve) => this.#others.set(tag, () => resolve()))
    this.commit()
    return done
  }

  /** Starts what was added. */
  commit(): void {
    const completed = this.#send()
    if (completed > 0 || this.#early) this.#finish(completed)
  }

  close(): Promise<void> {
    return this.#engine.close()
  }

  /** How many segments it took; -1 when the memory has no address for system calls. */
  #addSegments({ request, memory }: TransferOwner, skip: number, length: number): number {
    const { segmentAddresses, segmentLengths } = this.#engine
    let toSkip = skip
    let left = length
    let at = this.#batchedSegments
    for (let i = 0; left > 0; i++) {
      const size = request.lengths[i]!
      if (toSkip >= size) {
        toSkip -= size
        continue
      }
      const bytes = Math.min(size - toSkip, left)
      const address = memory.hostAddress(request.addresses[i]! + toSkip, bytes)
      if (address === 0) return -1
      segmentAddresses[at] = address
      segmentLengths[at] = bytes
      at++
      left -= bytes
      toSkip = 0
    }
    return at - this.#batchedSegments
  }

  #send(): number {
    const count = this.#batched
    if (count === 0) return 0
    this.#batched = 0
    this.#batchedSegments = 0
    return this.#engine.submit(count)
  }

  #finish(count: number): void {
    this.#early = false
    this.#deliver(count)
    this.#delivered()
    if (this.#waiting.length === 0) return
    const waiting = this.#waiting
    this.#waiting = []
    for (const resolve of waiting) resolve()
  }

  /** Reads the engine's completion arrays, which the next `#send` overwrites. */
  #deliver(count: number): void {
    const { completedTags, results } = this.#engine
    for (let i = 0; i < count; i++) {
      const tag = completedTags[i]!
      const result = results[i]!
      this.#free.push(tag)
      const part = this.#parts[tag]!
      const { owner } = part
      if (owner === undefined) {
        const other = this.#others.get(tag)
        this.#others.delete(tag)
        other?.(result < 0 ? -result : 0)
        continue
      }
      part.owner = undefined
      owner.end(this.#errorOf(part, owner, result))
    }
  }

  #errorOf(part: Part, owner: TransferOwner, result: number): number {
    if (result < 0) return -result
    if (result === part.length) return 0
    if (!part.read) return errnoOf(undefined)
    fillGuest(owner, part.skip + result, part.length - result)
    return 0
  }
}

/** Zeros in guest memory, `skip` bytes into the data of a read. */
export function fillGuest({ request, memory }: TransferOwner, skip: number, length: number): void {
  eachPiece(request, skip, length, (address, bytes) => memory.fill(address, bytes, 0))
}

/** Bytes into guest memory, `skip` bytes into the data of a read. */
export function copyToGuest({ request, memory }: TransferOwner, skip: number, source: Uint8Array): void {
  let done = 0
  eachPiece(request, skip, source.length, (address, bytes) => {
    memory.write(address, source.subarray(done, done + bytes))
    done += bytes
  })
}

function eachPiece(
  request: BlockRequest,
  skip: number,
  length: number,
  visit: (address: number, bytes: number) => void,
): void {
  let toSkip = skip
  let left = length
  for (let i = 0; left > 0; i++) {
    const size = request.lengths[i]!
    if (toSkip >= size) {
      toSkip -= size
      continue
    }
    const bytes = Math.min(size - toSkip, left)
    visit(request.addresses[i]! + toSkip, bytes)
    left -= bytes
    toSkip = 0
  }
}
