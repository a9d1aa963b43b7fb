import { EventFd, UnixSocket, unixConnect } from "@virtkit/native"
import type { BlkMemory, BlkRing } from "./blk-ring.js"

/** Requests of vhost-user that a front end with fixed memory needs. */
const GET_FEATURES = 1
const SET_FEATURES = 2
const SET_OWNER = 3
const SET_MEM_TABLE = 5
const SET_VRING_NUM = 8
const SET_VRING_ADDR = 9
const SET_VRING_BASE = 10
const SET_VRING_KICK = 12
const SET_VRING_CALL = 13
const GET_PROTOCOL_FEATURES = 15
const SET_PROTOCOL_FEATURES = 16
const SET_VRING_ENABLE = 18

const VERSION = 1
const NEED_REPLY = 8
const HEADER_BYTES = 12

/** VERSION_1, PROTOCOL_FEATURES, EVENT_IDX, INDIRECT_DESC, VIRTIO_BLK_F_FLUSH: what Linux takes. */
const FEATURES = (1n << 32n) | (1n << 30n) | (1n << 29n) | (1n << 28n) | (1n << 9n)
const VIRTIO_BLK_F_MQ = 1n << 12n
/** MQ, REPLY_ACK. */
const PROTOCOL_FEATURES = (1n << 0n) | (1n << 3n)

/** Any number that the other side's own addresses differ by. */
const USER_OFFSET = 0x7f00_0000_0000

/** The driver's end of a vhost-user-blk connection; the rings call with one eventfd, which the driver waits on. */
export class BlkFrontEnd {
  readonly call: EventFd = new EventFd()
  readonly kicks: readonly EventFd[]
  readonly #socket: UnixSocket

  private constructor(path: string, rings: number) {
    this.#socket = new UnixSocket(unixConnect(path))
    this.kicks = Array.from({ length: rings }, () => new EventFd())
  }

  /** Connects and starts the rings. Throws when the back end does not offer what is needed. */
  static async connect(path: string, memory: BlkMemory, rings: readonly BlkRing[]): Promise<BlkFrontEnd> {
    const front = new BlkFrontEnd(path, rings.length)
    const wanted = FEATURES | (rings.length > 1 ? VIRTIO_BLK_F_MQ : 0n)
    const offered = await front.#ask(GET_FEATURES)
    if ((offered & wanted) !== wanted)
      throw new Error(`the back end lacks features: it offers ${offered.toString(16)}`)
    const protocol = await front.#ask(GET_PROTOCOL_FEATURES)
    if ((protocol & PROTOCOL_FEATURES) !== PROTOCOL_FEATURES)
      throw new Error("the back end lacks protocol features")
    await front.#tell(SET_PROTOCOL_FEATURES, [PROTOCOL_FEATURES])
    await front.#tell(SET_OWNER, [])
    await front.#tell(SET_FEATURES, [wanted])
    await front.#tell(SET_MEM_TABLE, [1n, 0n, BigInt(memory.size), BigInt(USER_OFFSET), 0n], [memory.fd])
    for (const [index, ring] of rings.entries()) await front.#start(index, ring)
    return front
  }

  async #start(index: number, ring: BlkRing): Promise<void> {
    const queue = BigInt(index)
    const user = (address: number) => BigInt(address + USER_OFFSET)
    await this.#tell(SET_VRING_NUM, [state(index, ring.size)])
    await this.#tell(SET_VRING_BASE, [state(index, 0)])
    await this.#tell(SET_VRING_ADDR, [queue, user(ring.desc), user(ring.used), user(ring.avail), 0n])
    await this.#tell(SET_VRING_CALL, [queue], [this.call.fd])
    await this.#tell(SET_VRING_KICK, [queue], [this.kicks[index]!.fd])
    await this.#tell(SET_VRING_ENABLE, [state(index, 1)])
  }

  close(): void {
    this.#socket.close()
    this.call.close()
    for (const kick of this.kicks) kick.close()
  }

  /** Sends a request and waits until it has been carried out. */
  async #tell(request: number, words: readonly bigint[], fds?: readonly number[]): Promise<void> {
    // Acknowledgements are there once they were negotiated.
    const acknowledged = request !== SET_PROTOCOL_FEATURES
    this.#send(request, words, acknowledged ? NEED_REPLY : 0, fds)
    if (acknowledged && (await this.#answer()) !== 0n) throw new Error(`vhost-user request ${request} failed`)
  }

  #ask(request: number): Promise<bigint> {
    this.#send(request, [], 0)
    return this.#answer()
  }

  #send(request: number, words: readonly bigint[], flags: number, fds?: readonly number[]): void {
    const bytes = new Uint8Array(HEADER_BYTES + 8 * words.length)
    const view = new DataView(bytes.buffer)
    view.setUint32(0, request, true)
    view.setUint32(4, VERSION | flags, true)
    view.setUint32(8, 8 * words.length, true)
    for (const [index, word] of words.entries()) view.setBigUint64(HEADER_BYTES + 8 * index, word, true)
    this.#socket.send(bytes, 0, bytes.length, fds)
  }

  /** Every answer used here is one 64-bit number. */
  async #answer(): Promise<bigint> {
    const bytes = new Uint8Array(HEADER_BYTES + 8)
    for (let filled = 0; filled < bytes.length; ) {
      const count = this.#socket.receive(bytes, filled, bytes.length - filled)
      if (count === 0) throw new Error("the back end closed the connection")
      if (count > 0) filled += count
      else await new Promise((resolve) => setImmediate(resolve))
    }
    return new DataView(bytes.buffer).getBigUint64(HEADER_BYTES, true)
  }
}

/** "A vring state description": index, then a number. */
function state(index: number, number: number): bigint {
  return BigInt(index) | (BigInt(number) << 32n)
}
