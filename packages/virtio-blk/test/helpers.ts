import { mmapMemory } from "@virtkit/memory/mmap"
import {
  type ChainLayout,
  DeviceHarness,
  type DeviceHarnessOptions,
  type DriverChain,
  TestMemory,
} from "@virtkit/testkit"
import { type BlockBackend, type BlockDevice, type BlockOptions, block } from "@virtkit/virtio-blk"
import { createQueue } from "@virtkit/virtqueue"

// Written from virtio 1.3, section 5.2.6, not from the package's constants.
export const IN = 0
export const OUT = 1
export const FLUSH = 4
export const GET_ID = 8
export const DISCARD = 11
export const WRITE_ZEROES = 13
export const OK = 0
export const IOERR = 1
export const UNSUPP = 2

/** Test memory that system calls can use. Freed when the process ends. */
export class MappedTestMemory extends TestMemory {
  override readonly regions: TestMemory["regions"]
  readonly #mapped: ReturnType<typeof mmapMemory>

  constructor(size: number) {
    super({ regions: [] })
    this.#mapped = mmapMemory(size)
    this.regions = this.#mapped.regions
  }

  override hostAddress(address: number, length: number): number {
    return this.#mapped.hostAddress(address, length)
  }
}

export function header(type: number, sector: number | bigint = 0): Uint8Array {
  const bytes = new Uint8Array(16)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, type, true)
  view.setBigUint64(8, BigInt(sector), true)
  return bytes
}

/** Segments of a discard or write zeroes request: sector, number of sectors, flags. */
export function ranges(...list: [number | bigint, number, number][]): Uint8Array {
  const bytes = new Uint8Array(16 * list.length)
  const view = new DataView(bytes.buffer)
  for (const [i, [sector, sectors, flags]] of list.entries()) {
    view.setBigUint64(16 * i, BigInt(sector), true)
    view.setUint32(16 * i + 8, sectors, true)
    view.setUint32(16 * i + 12, flags, true)
  }
  return bytes
}

export interface Answer {
  status: number
  data: Uint8Array
  written: number
}

export function answer(chain: DriverChain): Answer {
  const bytes = chain.data!
  return { status: bytes.at(-1)!, data: bytes.subarray(0, -1), written: chain.written! }
}

export class Disk {
  readonly device: BlockDevice
  readonly harness: DeviceHarness

  constructor(device: BlockDevice, options: Partial<DeviceHarnessOptions> = {}) {
    this.device = device
    this.harness = new DeviceHarness({ device, createQueue, ...options })
  }

  async request(
    type: number,
    options: {
      sector?: number | bigint
      out?: readonly Uint8Array[]
      in?: readonly number[]
      layout?: ChainLayout
      queue?: number
    } = {},
  ): Promise<Answer> {
    const chain = await this.harness.request(options.queue ?? 0, {
      readable: [header(type, options.sector), ...(options.out ?? [])],
      writable: [...(options.in ?? []), 1],
      layout: options.layout ?? "indirect",
    })
    return answer(chain)
  }

  read(sector: number | bigint, ...sizes: number[]): Promise<Answer> {
    return this.request(IN, { sector, in: sizes })
  }

  write(sector: number | bigint, ...out: Uint8Array[]): Promise<Answer> {
    return this.request(OUT, { sector, out })
  }
}

/** A started device. */
export async function disk(
  options: BlockOptions,
  harness: Partial<DeviceHarnessOptions> = {},
): Promise<Disk> {
  const made = new Disk(await block(options), harness)
  made.harness.start()
  return made
}

/** A backend whose requests complete when the test says so. */
export function manualBackend(size: number): BlockBackend & {
  pending: Parameters<BlockBackend["submit"]>[0][]
  finish(error?: number): void
  session: Parameters<BlockBackend["start"]>[0] | undefined
  commits: number
} {
  let waiting: (() => void)[] = []
  return {
    info: {
      size,
      readonly: false,
      logicalBlockSize: 512,
      physicalBlockSize: 4096,
      optimalIoSize: 8192,
      maxDiscard: 1 << 20,
      maxWriteZeroes: 1 << 20,
      discardAlignment: 4096,
      bytesPerTurn: 0,
    },
    pending: [],
    session: undefined,
    commits: 0,
    start(session) {
      this.session = session
    },
    submit(request) {
      this.pending.push(request)
    },
    commit() {
      this.commits++
    },
    idle() {
      return this.pending.length === 0 ? Promise.resolve() : new Promise((resolve) => waiting.push(resolve))
    },
    finish(error = 0) {
      for (const request of this.pending.splice(0)) this.session!.complete(request, error)
      this.session!.completed()
      if (this.pending.length > 0) return
      for (const resolve of waiting) resolve()
      waiting = []
    },
    async resize() {},
    async close() {},
  }
}

export const pattern = (length: number, seed: number): Uint8Array =>
  Uint8Array.from({ length }, (_, i) => (i * 7 + seed) & 0xff)
