import type { GuestMemoryMap } from "@virtkit/memory"
import { mmapMemory } from "@virtkit/memory/mmap"
import { EventFd, UnixSocket, unixConnect } from "@virtkit/native"
import { SplitRingDriver, TestAllocator } from "@virtkit/testkit"

/** Numbers of the protocol, on their own here so that a wrong one on the other side shows. */
export const REQ = {
  GET_FEATURES: 1,
  SET_FEATURES: 2,
  SET_OWNER: 3,
  RESET_OWNER: 4,
  SET_MEM_TABLE: 5,
  SET_LOG_BASE: 6,
  SET_LOG_FD: 7,
  SET_VRING_NUM: 8,
  SET_VRING_ADDR: 9,
  SET_VRING_BASE: 10,
  GET_VRING_BASE: 11,
  SET_VRING_KICK: 12,
  SET_VRING_CALL: 13,
  SET_VRING_ERR: 14,
  GET_PROTOCOL_FEATURES: 15,
  SET_PROTOCOL_FEATURES: 16,
  GET_QUEUE_NUM: 17,
  SET_VRING_ENABLE: 18,
  SET_BACKEND_REQ_FD: 21,
  GET_CONFIG: 24,
  SET_CONFIG: 25,
  GET_INFLIGHT_FD: 31,
  SET_INFLIGHT_FD: 32,
  RESET_DEVICE: 34,
  GET_MAX_MEM_SLOTS: 36,
  ADD_MEM_REG: 37,
  REM_MEM_REG: 38,
  SET_STATUS: 39,
  GET_STATUS: 40,
} as const

export const F_VERSION_1: bigint = 1n << 32n
export const F_PROTOCOL: bigint = 1n << 30n
export const F_LOG_ALL: bigint = 1n << 26n
/** MQ, LOG_SHMFD, REPLY_ACK, BACKEND_REQ, CONFIG, INFLIGHT_SHMFD, RESET_DEVICE, CONFIGURE_MEM_SLOTS, STATUS. */
export const ALL_PROTOCOL_FEATURES: bigint = [0n, 1n, 3n, 5n, 9n, 12n, 13n, 15n, 16n].reduce(
  (sum, bit) => sum | (1n << bit),
  0n,
)

/** Addresses of the front end differ from the guest's by this. */
export const USER_OFFSET = 0x7f00_0000_0000

export interface Answer {
  readonly request: number
  readonly flags: number
  readonly payload: DataView
  readonly fds: readonly number[]
}

export function u64(...values: (bigint | number)[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(8 * values.length))
  for (const [index, value] of values.entries()) view.setBigUint64(8 * index, BigInt(value), true)
  return new Uint8Array(view.buffer)
}

export function u32(...values: number[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(4 * values.length))
  for (const [index, value] of values.entries()) view.setUint32(4 * index, value, true)
  return new Uint8Array(view.buffer)
}

/** GET_INFLIGHT_FD and SET_INFLIGHT_FD: size, offset, two 16-bit numbers, padding. */
export function inflight(size: number, offset: number, numQueues: number, queueSize: number): Uint8Array {
  const bytes = new Uint8Array(24)
  bytes.set(u64(size, offset))
  bytes.set(new Uint8Array(new Uint16Array([numQueues, queueSize]).buffer), 16)
  return bytes
}

/** One end of a vhost-user connection, with a guest's memory of `bytes` bytes in a memfd. */
export class FrontEnd {
  readonly socket: UnixSocket
  readonly memory: GuestMemoryMap
  readonly allocator: TestAllocator
  readonly rings: SplitRingDriver[] = []
  readonly kicks: EventFd[] = []
  readonly calls: EventFd[] = []
  readonly #ownsMemory: boolean

  /** `before`: the front end whose memory and rings this one goes on with, over another connection. */
  constructor(path: string, before?: FrontEnd, bytes = 4 << 20) {
    this.socket = new UnixSocket(unixConnect(path))
    this.#ownsMemory = before === undefined
    this.memory = before?.memory ?? mmapMemory([{ guestAddress: 0x10000, size: bytes }], { backing: "memfd" })
    this.allocator = before?.allocator ?? new TestAllocator(0x10000, bytes)
    if (before !== undefined) {
      this.rings.push(...before.rings)
      this.kicks.push(...before.kicks)
      this.calls.push(...before.calls)
    }
  }

  close(): void {
    this.socket.close()
    if (!this.#ownsMemory) return
    for (const e of [...this.kicks, ...this.calls]) e.close()
    this.memory.close()
  }

  get memoryFd(): number {
    return this.memory.regions[0]!.file!.fd
  }

  /** Sends a request; `flags` beside the version. */
  send(
    request: number,
    payload: Uint8Array = new Uint8Array(0),
    fds?: readonly number[],
    flags = 0,
    version = 1,
  ): void {
    const bytes = new Uint8Array(12 + payload.length)
    bytes.set(u32(request, flags | version, payload.length))
    bytes.set(payload, 12)
    this.sendRaw(bytes, fds)
  }

  sendRaw(bytes: Uint8Array, fds?: readonly number[]): void {
    this.socket.send(bytes, 0, bytes.length, fds)
  }

  /** The next message of the other end; undefined at the end of the connection. */
  async receive(): Promise<Answer | undefined> {
    const fds: number[] = []
    const header = await this.#read(12, fds)
    if (header === undefined) return undefined
    const [request = 0, flags = 0, size = 0] = new Uint32Array(header.buffer)
    const payload = size === 0 ? new Uint8Array(0) : await this.#read(size, fds)
    return { request, flags, payload: new DataView(payload!.buffer), fds }
  }

  async #read(length: number, fds: number[]): Promise<Uint8Array | undefined> {
    const bytes = new Uint8Array(length)
    for (let filled = 0; filled < length; ) {
      let count = -1
      try {
        count = this.socket.receive(bytes, filled, length - filled)
      } catch (error) {
        // The other end closed with unread requests.
        if ((error as NodeJS.ErrnoException).code === "ECONNRESET") return undefined
        throw error
      }
      if (count === 0) return undefined
      if (count > 0) {
        fds.push(...this.socket.fds.subarray(0, this.socket.fdCount))
        filled += count
      } else await new Promise((resolve) => setImmediate(resolve))
    }
    return bytes
  }

  /** A request that has an answer of its own. */
  async ask(request: number, payload?: Uint8Array, fds?: readonly number[]): Promise<Answer> {
    this.send(request, payload, fds)
    const answer = await this.receive()
    if (answer === undefined) throw new Error(`request ${request}: the connection ended`)
    if (answer.request !== request || answer.flags !== 5)
      throw new Error(`request ${request}: no answer to it`)
    return answer
  }

  async askU64(request: number): Promise<bigint> {
    return (await this.ask(request)).payload.getBigUint64(0, true)
  }

  /** A request with REPLY_ACK; 0n is success. Undefined at the end of the connection. */
  async acknowledged(
    request: number,
    payload?: Uint8Array,
    fds?: readonly number[],
  ): Promise<bigint | undefined> {
    this.send(request, payload, fds, 8)
    return (await this.receive())?.payload.getBigUint64(0, true)
  }

  /** Features, protocol features and memory table: all that comes before the rings. */
  async begin(features: bigint, protocolFeatures: bigint = ALL_PROTOCOL_FEATURES): Promise<void> {
    await this.askU64(REQ.GET_FEATURES)
    await this.askU64(REQ.GET_PROTOCOL_FEATURES)
    this.send(REQ.SET_PROTOCOL_FEATURES, u64(protocolFeatures))
    this.send(REQ.SET_OWNER)
    this.send(REQ.SET_FEATURES, u64(features | F_VERSION_1 | F_PROTOCOL))
    this.setMemoryTable()
  }

  setMemoryTable(): void {
    const region = this.memory.regions[0]!
    this.send(
      REQ.SET_MEM_TABLE,
      concat(u32(1, 0), u64(region.guestAddress, region.size, region.guestAddress + USER_OFFSET, 0)),
      [this.memoryFd],
    )
  }

  /** Makes a ring, unless there is one of that index. */
  prepareRing(index: number, size = 16): SplitRingDriver {
    const { memory, allocator } = this
    this.rings[index] ??= new SplitRingDriver({ memory, allocator, size })
    this.kicks[index] ??= new EventFd()
    this.calls[index] ??= new EventFd()
    return this.rings[index]
  }

  /** The same, and starts it. */
  startRing(index: number, size = 16, base = 0, enable = true): SplitRingDriver {
    const ring = this.prepareRing(index, size)
    this.send(REQ.SET_VRING_NUM, u32(index, size))
    this.send(REQ.SET_VRING_BASE, u32(index, base))
    this.send(REQ.SET_VRING_ADDR, this.ringAddresses(index))
    this.send(REQ.SET_VRING_CALL, u64(index), [this.calls[index]!.fd])
    this.send(REQ.SET_VRING_KICK, u64(index), [this.kicks[index]!.fd])
    if (enable) this.send(REQ.SET_VRING_ENABLE, u32(index, 1))
    return ring
  }

  ringAddresses(index: number, flags = 0): Uint8Array {
    const ring = this.rings[index]!
    return concat(
      u32(index, flags),
      u64(ring.desc + USER_OFFSET, ring.used + USER_OFFSET, ring.avail + USER_OFFSET, ring.used),
    )
  }

  async stopRing(index: number): Promise<number> {
    const { payload } = await this.ask(REQ.GET_VRING_BASE, u32(index, 0))
    return payload.getUint32(4, true)
  }

  kick(index: number): void {
    this.rings[index]!.publish()
    this.kicks[index]!.signal()
  }
}

export function concat(...parts: Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let offset = 0
  for (const part of parts) {
    bytes.set(part, offset)
    offset += part.length
  }
  return bytes
}
