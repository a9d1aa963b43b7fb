import { closeSync } from "node:fs"
import type { UnixSocket } from "@virtkit/native"
import { HEADER_BYTES, MAX_PAYLOAD_BYTES } from "./constants.js"
import { VhostUserError } from "./error.js"
import type { Header } from "./message.js"

/** Most descriptors that come with one message. */
const MAX_FDS = 32

/** A whole message. Its descriptors belong to whoever got it. */
export interface Message {
  readonly header: Header
  readonly payload: Uint8Array
  readonly fds: number[]
}

/** The other end closed the connection, at best between two messages. */
export class EndOfConnection extends Error {
  readonly inMessage: boolean

  constructor(inMessage: boolean) {
    super("the connection was closed")
    this.inMessage = inMessage
  }
}

/** Takes messages out of a socket, which gives them in pieces of any size. */
export class MessageReader {
  readonly #socket: UnixSocket
  readonly #parseHeader: (bytes: Uint8Array) => Header
  readonly #bytes = new Uint8Array(HEADER_BYTES + MAX_PAYLOAD_BYTES)
  /** Bytes of the present message that are here, and the descriptors that came with them. */
  #filled = 0
  #header: Header | undefined
  #fds: number[] = []

  /** `parseHeader` throws {@link VhostUserError} for what is not wanted, a payload above `MAX_PAYLOAD_BYTES` with it. */
  constructor(socket: UnixSocket, parseHeader: (bytes: Uint8Array) => Header) {
    this.#socket = socket
    this.#parseHeader = parseHeader
  }

  /**
   * The next whole message; undefined when it is not all here yet. Throws {@link EndOfConnection}, {@link VhostUserError}, or
   * what the system says of the socket.
   */
  next(): Message | undefined {
    if (this.#header === undefined) {
      if (!this.#fill(HEADER_BYTES)) return undefined
      this.#header = this.#parseHeader(this.#bytes)
    }
    const header = this.#header
    const end = HEADER_BYTES + header.size
    if (!this.#fill(end)) return undefined
    const message = { header, payload: this.#bytes.slice(HEADER_BYTES, end), fds: this.#fds }
    this.#header = undefined
    this.#filled = 0
    this.#fds = []
    return message
  }

  /** Closes the descriptors of a message that is not all here. The socket stays open. */
  close(): void {
    closeFds(this.#fds)
    this.#fds = []
  }

  /** Reads until the message has so many bytes; false when the rest is not here yet. */
  #fill(wanted: number): boolean {
    const socket = this.#socket
    while (this.#filled < wanted) {
      const count = socket.receive(this.#bytes, this.#filled, wanted - this.#filled)
      if (count < 0) return false
      for (const fd of socket.fds.subarray(0, socket.fdCount)) this.#fds.push(fd)
      if (count === 0) throw new EndOfConnection(this.#filled > 0)
      this.#filled += count
      if (socket.truncated || this.#fds.length > MAX_FDS) {
        throw new VhostUserError("a message came with too many descriptors")
      }
    }
    return true
  }
}

/** Closes descriptors that nobody took: those are -1. */
export function closeFds(fds: readonly number[]): void {
  for (const fd of fds) if (fd >= 0) closeSync(fd)
}
