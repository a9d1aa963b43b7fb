import { connect, createServer, type Server, type Socket } from "node:net"
import { ConfigError } from "@virtkit/interface"
import type { NetBackend, NetBackendInfo, NetSession, TransmitFrame } from "../backend.js"
import { StreamPort } from "./stream-port.js"

/** Milliseconds between attempts to connect. */
const RETRY = 500

/** A path of a Unix socket, or a TCP port; `host` is the loopback address unless told. */
export type StreamAddress = { readonly path: string } | { readonly port: number; readonly host?: string }

/**
 * One wire to one other end, which speaks as QEMU's `-netdev stream` does: `listen` waits for it (one at a time),
 * `connect` calls it, again and again until it is there.
 */
export type StreamBackendOptions = { readonly listen: StreamAddress } | { readonly connect: StreamAddress }

/** Throws ConfigError when the address cannot be listened on. */
export async function streamBackend(options: StreamBackendOptions): Promise<NetBackend> {
  const backend = new StreamBackend(options)
  await backend.open()
  return backend
}

class StreamBackend implements NetBackend {
  readonly #options: StreamBackendOptions
  readonly #port: StreamPort = new StreamPort((reason) => {
    this.#port.down(reason)
    this.#callLater()
  })
  #server: Server | undefined
  #calling: Socket | undefined
  #retry: NodeJS.Timeout | undefined
  #closed = false

  constructor(options: StreamBackendOptions) {
    this.#options = options
  }

  get info(): NetBackendInfo {
    return {
      description: `stream ${"listen" in this.#options ? "server" : "client"} ${this.#name}`,
      maxQueuePairs: 1,
      transmitOffloads: 0,
      receiveOffloads: 0,
      linkUp: this.#port.connected,
    }
  }

  async open(): Promise<void> {
    if ("listen" in this.#options) await this.#listen(this.#options.listen)
    else this.#call()
  }

  start(session: NetSession): void {
    this.#port.start(session)
  }

  stop(): void {
    this.#port.stop()
  }

  transmit(_pair: number, frame: TransmitFrame): boolean {
    return this.#port.transmit(frame)
  }

  commit(): void {
    this.#port.commit()
  }

  receiveReady(): void {
    this.#port.receiveReady()
  }

  async close(): Promise<void> {
    this.#closed = true
    clearTimeout(this.#retry)
    this.#calling?.destroy()
    this.#port.close()
    const server = this.#server
    if (server === undefined) return
    this.#server = undefined
    await new Promise((resolve) => server.close(resolve))
  }

  get #address(): StreamAddress {
    return "listen" in this.#options ? this.#options.listen : this.#options.connect
  }

  get #name(): string {
    const address = this.#address
    return "path" in address ? address.path : `${address.host ?? "127.0.0.1"}:${address.port}`
  }

  async #listen(address: StreamAddress): Promise<void> {
    const server = createServer((socket) => {
      // One wire has two ends.
      if (this.#port.connected) socket.destroy()
      else this.#connected(socket)
    })
    await new Promise<void>((resolve, reject) => {
      server.once("error", (error: NodeJS.ErrnoException) => {
        const inUse = error.code === "EADDRINUSE" ? "; somebody listens there, or left the socket behind" : ""
        reject(new ConfigError(`cannot listen on ${this.#name}: ${error.message}${inUse}`, { cause: error }))
      })
      server.listen("path" in address ? { path: address.path } : withHost(address), resolve)
    })
    // What keeps the process alive is the VM that runs.
    server.unref()
    this.#server = server
  }

  #call(): void {
    const socket = connect("path" in this.#address ? { path: this.#address.path } : withHost(this.#address))
    this.#calling = socket
    socket.unref()
    socket.once("connect", () => {
      socket.removeAllListeners("close")
      this.#calling = undefined
      this.#connected(socket)
    })
    socket.on("error", () => {})
    socket.once("close", () => this.#callLater())
  }

  #callLater(): void {
    if (this.#closed || "listen" in this.#options) return
    this.#retry = setTimeout(() => this.#call(), RETRY)
    this.#retry.unref()
  }

  #connected(socket: Socket): void {
    socket.unref()
    socket.setNoDelay(true)
    this.#port.connect(socket, `${this.info.description}: connected`)
  }
}

function withHost(address: { port: number; host?: string }): { port: number; host: string } {
  return { port: address.port, host: address.host ?? "127.0.0.1" }
}
