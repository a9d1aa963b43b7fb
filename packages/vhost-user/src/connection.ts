import { type VirtioDevice, VirtkitError } from "@virtkit/interface"
import { Poller, type UnixSocket } from "@virtkit/native"
import type { RingOffers } from "@virtkit/virtio"
import { FLAG_REPLY } from "./constants.js"
import { VhostUserError } from "./error.js"
import { encodeMessage, parseHeader, parseRequest, type Request, u64 } from "./message.js"
import { closeFds, EndOfConnection, MessageReader } from "./message-reader.js"
import { Session, type SessionEvents } from "./session.js"

/** Token of the socket among those of the queues. */
const SOCKET = 0xffff_ffff
/** Requests in one turn of the event loop; other guests of the process get theirs. */
const REQUESTS_PER_TURN = 64

export interface ConnectionEvents extends Omit<SessionEvents, "watch" | "unwatch"> {
  /** It is over and all is released; `reason` is for people, undefined when the front end just went. */
  ended(reason: string | undefined): void
}

/** One front end's connection: reads requests off the socket, one after the other, and has a session carry them out. */
export class Connection {
  readonly #socket: UnixSocket
  readonly #session: Session
  readonly #events: ConnectionEvents
  readonly #poller: Poller
  readonly #reader: MessageReader
  /** Of the request that is being carried out. */
  #fds: number[] = []
  /** A request is being carried out, or a turn waited for. */
  #busy = false
  #ending: Promise<void> | undefined

  /** Takes the socket over. */
  constructor(socket: UnixSocket, device: VirtioDevice, rings: RingOffers, events: ConnectionEvents) {
    this.#socket = socket
    this.#reader = new MessageReader(socket, parseHeader)
    this.#events = events
    this.#poller = new Poller((count) => this.#ready(count))
    this.#session = new Session(device, rings, {
      watch: (fd, queue) => this.#poller.add(fd, queue),
      unwatch: (fd) => this.#poller.remove(fd),
      queuesChanged: (running) => events.queuesChanged(running),
      resumed: (queue, requests) => events.resumed(queue, requests),
      needsReset: (reason) => events.needsReset(reason),
      error: (error) => events.error(error),
    })
    this.#poller.add(socket.fd, SOCKET)
  }

  /** Ends it, if it is not over; resolves when all is released. */
  end(reason?: string): Promise<void> {
    this.#ending ??= this.#end(reason)
    return this.#ending
  }

  async #end(reason: string | undefined): Promise<void> {
    this.#poller.remove(this.#socket.fd)
    await this.#session.end()
    this.#poller.close()
    this.#closeFds()
    this.#reader.close()
    this.#socket.close()
    this.#events.ended(reason)
  }

  #ready(count: number): void {
    const { tokens } = this.#poller
    let socket = false
    for (let i = 0; i < count; i++) {
      const token = tokens[i]!
      if (token === SOCKET) socket = true
      else this.#session.kicked(token)
    }
    if (socket) void this.#serve()
  }

  /** Carries out what is there; called again when more comes. Never rejects. */
  async #serve(): Promise<void> {
    if (this.#busy || this.#ending !== undefined) return
    this.#busy = true
    try {
      for (let left = REQUESTS_PER_TURN; this.#ending === undefined; left--) {
        if (left === 0) {
          left = REQUESTS_PER_TURN
          await new Promise((resolve) => setImmediate(resolve))
          continue
        }
        const request = this.#next()
        if (request === undefined) break
        await this.#handle(request)
        this.#closeFds()
      }
    } catch (error) {
      void this.end(reasonOf(error))
    } finally {
      this.#busy = false
    }
  }

  async #handle(request: Request): Promise<void> {
    const { code, needsReply } = request
    try {
      const reply = await this.#session.handle(request)
      if (reply !== undefined) this.#send(code, reply.payload, reply.fds)
      else if (needsReply && this.#session.acknowledges) this.#send(code, u64(0n))
    } catch (error) {
      // The front end hears of it if it asked to, before the connection ends.
      if (needsReply && this.#session.acknowledges) this.#send(code, u64(1n))
      throw error
    }
  }

  #send(code: number, payload: Uint8Array, fds?: readonly number[]): void {
    if (this.#ending !== undefined) return
    const message = encodeMessage(code, FLAG_REPLY, payload)
    // Answers are small, and a front end waits for each before its next request.
    if (this.#socket.send(message, 0, message.length, fds) !== message.length) {
      throw new VhostUserError("the front end does not read its answers")
    }
  }

  /** The next whole request; undefined when it is not all here yet. Throws at the end of the connection. */
  #next(): Request | undefined {
    const message = this.#reader.next()
    if (message === undefined) return undefined
    this.#fds = message.fds
    return parseRequest(message.header, message.payload, message.fds)
  }

  /** Closes descriptors that nobody took. */
  #closeFds(): void {
    closeFds(this.#fds)
    this.#fds = []
  }
}

/** For people; undefined for an end that is none of anybody's fault. */
function reasonOf(error: unknown): string | undefined {
  if (error instanceof EndOfConnection) return error.inMessage ? "it ended within a message" : undefined
  if (error instanceof VirtkitError) return error.message
  const { code, message } = error as NodeJS.ErrnoException
  return code === "ECONNRESET" || code === "EPIPE" ? undefined : message
}
