import { closeSync } from "node:fs"
import { EventFd, memfdCreate, Poller, UnixListener, UnixSocket } from "@virtkit/native"
import { concat, REQ, u32, u64 } from "./front-end.js"

export interface FakeRequest {
  readonly request: number
  readonly flags: number
  readonly payload: DataView
  readonly fds: readonly number[]
}

/** What is sent; descriptors are closed afterwards. */
export interface FakeAnswer {
  readonly bytes: Uint8Array
  readonly fds?: readonly number[]
}

export type Answering = (request: FakeRequest) => FakeAnswer | "close" | undefined

/** A message of a back end's. */
export function message(request: number, payload: Uint8Array, flags = 5): Uint8Array {
  return concat(u32(request, flags, payload.length), payload)
}

const HEADER_BYTES = 12

/** MQ, REPLY_ACK, BACKEND_REQ, CONFIG, INFLIGHT_SHMFD, STATUS. */
const PROTOCOL_FEATURES = [0n, 3n, 5n, 9n, 12n, 16n].reduce((sum, bit) => sum | (1n << bit), 0n)

/** What a back end with the two queues and seven bytes of the echo device says. */
export function honest({ request, flags, payload }: FakeRequest): FakeAnswer | undefined {
  const answer = (bytes: Uint8Array) => ({ bytes: message(request, bytes) })
  switch (request) {
    case REQ.GET_FEATURES:
      return answer(u64((1n << 32n) | (1n << 30n) | 1n))
    case REQ.GET_PROTOCOL_FEATURES:
      return answer(u64(PROTOCOL_FEATURES))
    case REQ.GET_QUEUE_NUM:
      return answer(u64(2))
    case REQ.GET_STATUS:
      return answer(u64(0))
    case REQ.GET_CONFIG:
      return answer(new Uint8Array(payload.buffer, payload.byteOffset, payload.byteLength))
    case REQ.GET_VRING_BASE:
      return answer(u32(payload.getUint32(0, true), 0))
    case REQ.GET_INFLIGHT_FD: {
      const bytes = new Uint8Array(payload.buffer, payload.byteOffset, payload.byteLength).slice()
      bytes.set(u64(4096, 0))
      return { ...answer(bytes), fds: [memfdCreate("fake", 4096)] }
    }
    default:
      return (flags & 8) !== 0 ? answer(u64(0)) : undefined
  }
}

/** A back end that serves nothing and says what it is told to say. */
export class FakeBackEnd {
  /** What it was asked for, in order, of all connections. */
  readonly requests: FakeRequest[] = []
  answering: Answering
  /** The channel for messages of its own, once it was given one. */
  channel: UnixSocket | undefined
  /** By queue, what it is kicked by. */
  readonly kicks: EventFd[] = []
  readonly #listener: UnixListener
  readonly #poller: Poller
  #socket: UnixSocket | undefined
  #bytes: Uint8Array = new Uint8Array(0)
  #fds: number[] = []

  constructor(path: string, answering: Answering = honest) {
    this.answering = answering
    this.#listener = new UnixListener(path)
    this.#poller = new Poller(() => this.#ready())
    this.#poller.add(this.#listener.fd, 0)
  }

  /** Ends the connection. */
  drop(): void {
    if (this.#socket !== undefined) this.#poller.remove(this.#socket.fd)
    this.#socket?.close()
    this.#socket = undefined
    this.channel?.close()
    this.channel = undefined
    for (const fd of this.#fds.splice(0)) closeSync(fd)
    this.#bytes = new Uint8Array(0)
  }

  close(): void {
    this.drop()
    for (const kick of this.kicks) kick.close()
    this.#poller.close()
    this.#listener.close()
  }

  send(bytes: Uint8Array, fds: readonly number[] = []): void {
    // Of one piece, no more than 32 are taken.
    const half = fds.length > 32 ? fds.length >> 1 : 0
    if (half > 0) this.#socket?.send(bytes, 0, HEADER_BYTES, fds.slice(0, half))
    const sent = half > 0 ? HEADER_BYTES : 0
    this.#socket?.send(bytes, sent, bytes.length - sent, fds.slice(half))
  }

  #ready(): void {
    const fd = this.#listener.accept()
    if (fd >= 0) {
      this.drop()
      this.#socket = new UnixSocket(fd)
      this.#poller.add(fd, 1)
    }
    const buffer = new Uint8Array(4096)
    while (this.#socket !== undefined) {
      const socket = this.#socket
      let count = 0
      try {
        count = socket.receive(buffer, 0, buffer.length)
      } catch {
        // Reset by the other side.
      }
      if (count < 0) break
      if (count === 0) {
        this.drop()
        break
      }
      this.#fds.push(...socket.fds.subarray(0, socket.fdCount))
      this.#bytes = concat(this.#bytes, buffer.slice(0, count))
      this.#parse()
    }
  }

  #parse(): void {
    for (;;) {
      const view = new DataView(this.#bytes.buffer, this.#bytes.byteOffset, this.#bytes.length)
      if (view.byteLength < 12) return
      const size = view.getUint32(8, true)
      if (view.byteLength < 12 + size) return
      const payload = this.#bytes.slice(12, 12 + size)
      this.#bytes = this.#bytes.slice(12 + size)
      const request: FakeRequest = {
        request: view.getUint32(0, true),
        flags: view.getUint32(4, true),
        payload: new DataView(payload.buffer),
        fds: this.#fds.splice(0),
      }
      this.#take(request)
    }
  }

  #keepKick(queue: number, fd: number): void {
    this.kicks[queue]?.close()
    this.kicks[queue] = new EventFd(fd)
  }

  #take(request: FakeRequest): void {
    this.requests.push(request)
    const [first, ...others] = request.fds
    if (request.request === REQ.SET_BACKEND_REQ_FD && first !== undefined)
      this.channel = new UnixSocket(first)
    else if (request.request === REQ.SET_VRING_KICK && first !== undefined)
      this.#keepKick(request.payload.getUint32(0, true), first)
    else if (first !== undefined) closeSync(first)
    for (const fd of others) closeSync(fd)
    const answer = this.answering(request)
    if (answer === "close") this.drop()
    else if (answer !== undefined) {
      this.send(answer.bytes, answer.fds)
      for (const fd of answer.fds ?? []) closeSync(fd)
    }
  }
}
