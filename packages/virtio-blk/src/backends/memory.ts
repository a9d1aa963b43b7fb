import { ConfigError, type GuestMemory } from "@virtkit/interface"
import {
  BLOCK_FLUSH,
  BLOCK_READ,
  BLOCK_WRITE,
  type BlockBackend,
  type BlockBackendInfo,
  type BlockRequest,
  type BlockSession,
} from "../backend.js"

/** Copying this much takes about a millisecond. */
const BYTES_PER_TURN = 4 * 1024 * 1024

const NO_ERROR = 0

export interface MemoryDiskOptions {
  readonly readonly?: boolean
}

/** A disk in memory: what is written to it goes with the process. Works with guest memory of any backing. */
export interface MemoryDisk extends BlockBackend {
  /** The contents. Another array after `resize`. */
  readonly data: Uint8Array
}

/** `contents`: size in bytes (zeroed), or the bytes, which are used in place; a multiple of 512. Throws ConfigError. */
export function memoryDisk(contents: number | Uint8Array, options: MemoryDiskOptions = {}): MemoryDisk {
  const data = typeof contents === "number" ? allocate(contents) : contents
  if (data.length === 0 || data.length % 512 !== 0) {
    throw new ConfigError(
      `size of a memory disk must be a positive multiple of 512 bytes, not ${data.length}`,
    )
  }
  return new MemoryBackend(data, options.readonly === true)
}

class MemoryBackend implements MemoryDisk {
  data: Uint8Array
  readonly #readonly: boolean
  #session: BlockSession | undefined

  constructor(data: Uint8Array, readonly: boolean) {
    this.data = data
    this.#readonly = readonly
  }

  get info(): BlockBackendInfo {
    return {
      size: this.data.length,
      readonly: this.#readonly,
      logicalBlockSize: 512,
      physicalBlockSize: 512,
      optimalIoSize: 0,
      maxDiscard: this.#readonly ? 0 : BYTES_PER_TURN,
      maxWriteZeroes: this.#readonly ? 0 : BYTES_PER_TURN,
      discardAlignment: 512,
      bytesPerTurn: BYTES_PER_TURN,
    }
  }

  start(session: BlockSession): void {
    this.#session = session
  }

  submit(request: BlockRequest): void {
    const session = this.#session!
    const { op, offset, length } = request
    if (op === BLOCK_READ || op === BLOCK_WRITE) this.#copy(session.memory, request)
    else if (op !== BLOCK_FLUSH) this.data.fill(0, offset, offset + length)
    session.complete(request, NO_ERROR)
  }

  commit(): void {}

  async idle(): Promise<void> {}

  async resize(size?: number): Promise<void> {
    if (size === undefined) return
    const data = allocate(size)
    data.set(this.data)
    this.data = data
  }

  async close(): Promise<void> {}

  #copy(memory: GuestMemory, request: BlockRequest): void {
    let at = request.offset
    for (let i = 0; i < request.count; i++) {
      const length = request.lengths[i]!
      const part = this.data.subarray(at, at + length)
      if (request.op === BLOCK_READ) memory.write(request.addresses[i]!, part)
      else memory.read(request.addresses[i]!, part)
      at += length
    }
  }
}

function allocate(size: number): Uint8Array {
  try {
    return new Uint8Array(size)
  } catch (error) {
    throw new ConfigError(`cannot allocate a memory disk of ${size} bytes`, { cause: error })
  }
}
