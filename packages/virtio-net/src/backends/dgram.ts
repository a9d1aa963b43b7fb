import { createSocket, type RemoteInfo, type Socket } from "node:dgram"
import { isIP, isIPv6 } from "node:net"
import { ConfigError } from "@virtkit/interface"
import type { NetBackend, NetBackendInfo, NetSession, TransmitFrame } from "../backend.js"

/** Frames on their way into the host's network; more wait in the guest's queue. */
const MOST_IN_FLIGHT = 256
/** What a UDP datagram holds. */
const MOST_BYTES = 65_507

export interface DgramAddress {
  /** An IP address. Default 127.0.0.1. */
  readonly host?: string
  readonly port: number
}

/** A frame a UDP datagram, as QEMU's `-netdev dgram` does it. Frames from elsewhere than `remote` are ignored. */
export interface DgramBackendOptions {
  readonly local: DgramAddress
  readonly remote: DgramAddress
}

/** Throws ConfigError. */
export async function dgramBackend(options: DgramBackendOptions): Promise<NetBackend> {
  const local = checked("local", options.local)
  const remote = checked("remote", options.remote)
  const socket = createSocket(isIPv6(local.host) ? "udp6" : "udp4")
  await new Promise<void>((resolve, reject) => {
    socket.once("error", (error) => {
      reject(
        new ConfigError(`cannot use UDP port ${local.host}:${local.port}: ${error.message}`, {
          cause: error,
        }),
      )
    })
    socket.bind({ address: local.host, port: local.port, exclusive: true }, resolve)
  })
  return new DgramBackend(socket, remote)
}

class DgramBackend implements NetBackend {
  readonly info: NetBackendInfo
  readonly #socket: Socket
  readonly #remote: Required<DgramAddress>
  #session: NetSession | undefined
  #inFlight = 0
  #refused = false
  #closed: Promise<void> | undefined

  constructor(socket: Socket, remote: Required<DgramAddress>) {
    this.#socket = socket
    this.#remote = remote
    this.info = {
      description: `dgram ${socket.address().address}:${socket.address().port}`,
      maxQueuePairs: 1,
      transmitOffloads: 0,
      receiveOffloads: 0,
      // Nobody can say whether a datagram arrives.
      linkUp: true,
    }
    socket.unref()
    socket.removeAllListeners("error")
    socket.on("error", () => {})
    socket.on("message", (frame, from) => this.#receive(frame, from))
  }

  start(session: NetSession): void {
    this.#session = session
  }

  stop(): void {
    this.#session = undefined
  }

  transmit(_pair: number, frame: TransmitFrame): boolean {
    if (this.#inFlight === MOST_IN_FLIGHT) {
      this.#refused = true
      return false
    }
    if (frame.byteLength > MOST_BYTES) {
      this.#session?.transmitFailed(1, 90 /* EMSGSIZE */)
      return true
    }
    const bytes = Buffer.allocUnsafe(frame.byteLength)
    frame.copyTo(bytes)
    this.#inFlight++
    this.#socket.send(bytes, this.#remote.port, this.#remote.host, (error) => this.#sent(error))
    return true
  }

  close(): Promise<void> {
    this.#closed ??= new Promise((resolve) => this.#socket.close(resolve))
    return this.#closed
  }

  #sent(error: Error | null): void {
    this.#inFlight--
    if (error !== null)
      this.#session?.transmitFailed(1, Math.abs((error as NodeJS.ErrnoException).errno ?? 0))
    if (!this.#refused) return
    this.#refused = false
    this.#session?.transmitReady(0)
  }

  #receive(frame: Uint8Array, from: RemoteInfo): void {
    if (from.port !== this.#remote.port || from.address !== this.#remote.host) return
    const session = this.#session
    if (session === undefined) return
    if (session.receive(0, frame)) session.received(0)
    else session.dropped(1)
  }
}

function checked(what: string, { host = "127.0.0.1", port }: DgramAddress): Required<DgramAddress> {
  if (isIP(host) === 0)
    throw new ConfigError(`${what} host of a dgram network must be an IP address, not ${host}`)
  if (!Number.isInteger(port) || port < 1 || port > 65535) {
    throw new ConfigError(`${what} port of a dgram network must be from 1 to 65535, not ${port}`)
  }
  return { host, port }
}
