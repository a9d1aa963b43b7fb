import { Poller, UnixSocket, unixPair } from "@virtkit/native"
import * as protocol from "../constants.js"
import { VhostUserError } from "../error.js"
import { decodeHeader, encodeMessage, type Header, u64 } from "../message.js"
import { closeFds, EndOfConnection, type Message, MessageReader } from "../message-reader.js"
import { type RequestName, requestCodes } from "./request-codes.js"

/** Tokens of the two sockets. */
const MAIN = 0
const CHANNEL = 1
/** Messages of the back end's in one turn of the event loop. */
const MESSAGES_PER_TURN = 64
/** How long to wait until there is room in the socket again, in ms. */
const RETRY_MS = 5

/** What a back end tells. None of these may throw. */
export interface BackEndEvents {
  /** The connection is over and released: the back end's process ended (undefined), or it broke the protocol. */
  closed(error: VhostUserError | undefined): void
  /** The device's configuration space is another than before. */
  configChanged(): void
}

/** An answer. Its descriptors are the caller's. */
export interface Answer {
  readonly payload: DataView
  readonly fds: readonly number[]
}

interface Pending {
  readonly name: string
  readonly code: number
  /** When an answer is overdue, by `performance.now()`. */
  readonly due: number
  resolve(message: Message): void
  reject(error: Error): void
}

/**
 * The connection to a back end, which is another program: whatever comes from it is checked, and ends the connection when it
 * cannot be. Callers make one request after the other; each method rejects with {@link VhostUserError} when the connection
 * ends before the answer is here.
 */
export class BackEnd {
  /** As negotiated; whoever does that sets it. */
  protocolFeatures = 0n
  readonly #socket: UnixSocket
  readonly #reader: MessageReader
  readonly #events: BackEndEvents
  readonly #timeoutMs: number
  readonly #poller: Poller
  readonly #pending: Pending[] = []
  #channel: { readonly socket: UnixSocket; readonly reader: MessageReader } | undefined
  #timer: NodeJS.Timeout | undefined
  #closed = false

  /** Takes the connected socket over. `timeoutMs`: how long an answer may take. */
  constructor(socket: UnixSocket, timeoutMs: number, events: BackEndEvents) {
    this.#socket = socket
    this.#timeoutMs = timeoutMs
    this.#events = events
    this.#reader = new MessageReader(socket, parseMessageHeader)
    this.#poller = new Poller((count) => this.#ready(count))
    // Who waits for an answer keeps the process alive, and nobody else here.
    this.#poller.unref()
    this.#poller.add(socket.fd, MAIN)
  }

  get isClosed(): boolean {
    return this.#closed
  }

  has(protocolFeature: bigint): boolean {
    return (this.protocolFeatures & protocolFeature) !== 0n
  }

  /** A request without an answer of its own. With REPLY_ACK it rejects when the back end refuses. */
  async tell(name: RequestName, payload: Uint8Array = NOTHING, fds?: readonly number[]): Promise<void> {
    const acknowledged = this.has(protocol.VHOST_USER_PROTOCOL_F_REPLY_ACK)
    if (!acknowledged) return this.#send(name, payload, 0, fds)
    const message = await this.#exchange(name, payload, protocol.FLAG_NEED_REPLY, fds)
    closeFds(message.fds)
    const answer = this.#checked(() => parseU64Answer(name, message))
    if (answer !== 0n) throw new VhostUserError(`${name}: the back end refuses (${answer})`)
  }

  /** A request that is answered with a number of 64 bits. */
  async askU64(name: RequestName): Promise<bigint> {
    const message = await this.#exchange(name, NOTHING, 0)
    closeFds(message.fds)
    return this.#checked(() => parseU64Answer(name, message))
  }

  /** A request that is answered with a payload of `bytes` bytes. */
  async ask(name: RequestName, payload: Uint8Array, bytes: number): Promise<Answer> {
    const message = await this.#exchange(name, payload, 0)
    const view = new DataView(message.payload.buffer, message.payload.byteOffset, message.payload.length)
    if (view.byteLength === bytes) return { payload: view, fds: message.fds }
    closeFds(message.fds)
    return this.#checked(() => {
      throw new VhostUserError(`${name}: an answer of ${view.byteLength} bytes, not ${bytes}`)
    })
  }

  /** Gives the back end the other end of a socket for what it has to say by itself. */
  async openChannel(): Promise<void> {
    const [ours, theirs] = unixPair()
    const socket = new UnixSocket(ours)
    this.#channel = { socket, reader: new MessageReader(socket, parseMessageHeader) }
    this.#poller.add(socket.fd, CHANNEL)
    try {
      await this.tell("SET_BACKEND_REQ_FD", NOTHING, [theirs])
    } finally {
      closeFds([theirs])
    }
  }

  /** Ends the connection. `error`: what the back end did wrong. Idempotent. */
  close(error?: VhostUserError): void {
    if (this.#closed) return
    this.#closed = true
    clearTimeout(this.#timer)
    this.#poller.close()
    for (const { socket, reader } of [
      { socket: this.#socket, reader: this.#reader },
      this.#channel ?? [],
    ].flat()) {
      reader.close()
      socket.close()
    }
    const gone = error ?? new VhostUserError("the back end has gone")
    for (const pending of this.#pending.splice(0)) pending.reject(gone)
    this.#events.closed(error)
  }

  /** What it reads of an answer: if that cannot be, the connection ends. */
  #checked<T>(read: () => T): T {
    try {
      return read()
    } catch (error) {
      this.close(error as VhostUserError)
      throw error
    }
  }

  async #exchange(
    name: RequestName,
    payload: Uint8Array,
    flags: number,
    fds?: readonly number[],
  ): Promise<Message> {
    await this.#send(name, payload, flags, fds)
    return new Promise((resolve, reject) => {
      if (this.#closed) return reject(new VhostUserError("the back end has gone"))
      const due = performance.now() + this.#timeoutMs
      this.#pending.push({ name, code: requestCodes[name], due, resolve, reject })
      this.#poller.ref()
      this.#timer ??= setTimeout(() => this.#late(), this.#timeoutMs)
    })
  }

  async #send(
    name: RequestName,
    payload: Uint8Array,
    flags: number,
    fds: readonly number[] = [],
  ): Promise<void> {
    const message = encodeMessage(requestCodes[name], flags, payload)
    const due = performance.now() + this.#timeoutMs
    while (!this.#closed) {
      const sent = this.#trySend(message, fds)
      if (sent === message.length) return
      if (sent > 0 || performance.now() > due) {
        this.close(new VhostUserError(`${name}: the back end does not read its requests`))
        break
      }
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS))
    }
    throw new VhostUserError(`${name}: the back end has gone`)
  }

  /** Like `UnixSocket.send`, but that a connection which is over is closed here. */
  #trySend(message: Uint8Array, fds: readonly number[]): number {
    try {
      return this.#socket.send(message, 0, message.length, fds)
    } catch (error) {
      this.#end(error)
      return -1
    }
  }

  /** The timer of the oldest request: it is overdue, or has been answered and another one is the oldest. */
  #late(): void {
    this.#timer = undefined
    const oldest = this.#pending[0]
    if (oldest === undefined) return
    const left = oldest.due - performance.now()
    if (left > 0) this.#timer = setTimeout(() => this.#late(), left)
    // The answer may be there, and this thread have been busy: it gets the chance to see it.
    else setImmediate(() => this.#overdue(oldest))
  }

  #overdue(pending: Pending): void {
    if (this.#pending[0] === pending) {
      this.close(new VhostUserError(`${pending.name}: no answer in ${this.#timeoutMs / 1000} s`))
    } else if (this.#pending.length > 0) this.#timer ??= setTimeout(() => this.#late(), this.#timeoutMs)
  }

  #ready(count: number): void {
    const tokens = this.#poller.tokens.slice(0, count)
    try {
      if (tokens.includes(MAIN)) this.#drain(this.#reader, (message) => this.#answered(message), MAIN)
      const channel = this.#channel
      if (tokens.includes(CHANNEL) && channel !== undefined) {
        this.#drain(channel.reader, (message) => this.#told(message, channel.socket), CHANNEL)
      }
    } catch (error) {
      this.#end(error)
    }
  }

  #drain(reader: MessageReader, take: (message: Message) => void, token: number): void {
    for (let left = MESSAGES_PER_TURN; !this.#closed; left--) {
      if (left === 0) {
        this.#goOnLater(token)
        return
      }
      const message = reader.next()
      if (message === undefined) return
      take(message)
    }
  }

  /** A descriptor that is added is reported again if there is more to read: other guests get their turn before. */
  #goOnLater(token: number): void {
    const socket = token === MAIN ? this.#socket : this.#channel?.socket
    if (socket === undefined) return
    this.#poller.remove(socket.fd)
    this.#poller.add(socket.fd, token)
  }

  #answered(message: Message): void {
    const pending = this.#pending.shift()
    const { request, flags } = message.header
    if (pending === undefined || request !== pending.code || (flags & protocol.FLAG_REPLY) === 0) {
      closeFds(message.fds)
      const due = pending === undefined ? "nothing was asked" : `the answer to ${pending.name} is due`
      const error = new VhostUserError(`message ${request} where ${due}`)
      pending?.reject(error)
      throw error
    }
    if (this.#pending.length === 0) this.#nothingPending()
    pending.resolve(message)
  }

  #nothingPending(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#poller.unref()
  }

  /** A message of the back end's own. What is not known is refused, if it wants to hear. */
  #told({ header, fds }: Message, socket: UnixSocket): void {
    closeFds(fds)
    const known = header.request === protocol.VHOST_USER_BACKEND_CONFIG_CHANGE_MSG
    if ((header.flags & protocol.FLAG_NEED_REPLY) !== 0) {
      const answer = encodeMessage(header.request, protocol.FLAG_REPLY, u64(known ? 0n : 1n))
      if (socket.send(answer, 0, answer.length) !== answer.length) {
        throw new VhostUserError("the back end does not read the answers on its channel")
      }
    }
    if (known) this.#events.configChanged()
  }

  #end(error: unknown): void {
    if (error instanceof VhostUserError) this.close(error)
    else if (error instanceof EndOfConnection && error.inMessage) {
      this.close(new VhostUserError("the back end ended within a message"))
    } else this.close()
  }
}

const NOTHING = new Uint8Array(0)

function parseMessageHeader(bytes: Uint8Array): Header {
  const header = decodeHeader(bytes)
  if (header.size > protocol.MAX_PAYLOAD_BYTES) {
    throw new VhostUserError(`message ${header.request}: a payload of ${header.size} bytes`)
  }
  return header
}

function parseU64Answer(name: string, { payload }: Message): bigint {
  if (payload.length !== 8) {
    throw new VhostUserError(`${name}: an answer of ${payload.length} bytes, not 8`)
  }
  return new DataView(payload.buffer, payload.byteOffset, 8).getBigUint64(0, true)
}
