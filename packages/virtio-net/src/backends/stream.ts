import { connect, createServer, type Server, type Socket } from "node:net"
import { ConfigError } from "@virtkit/interface"
import type { NetBackend } from "../backend.js"
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

class StreamBackend extends StreamPort {
  readonly #options: StreamBackendOptions
  #server: Server | undefined
  #calling: Socket | undefined
  #retry: NodeJS.Timeout | undefined
  #closed = false

  constructor(options: StreamBackendOptions) {
    super()
    this.#options = options
  }

  protected get description(): string {
    return `stream ${"listen" in this.#options ? "server" : "client"} ${this.#name}`
  }

  protected lost(reason: string): void {
    this.down(reason)
    this.#callLater()
  }

  async open(): Promise<void> {
    if ("listen" in this.#options) await this.#listen(this.#options.listen)
    else this.#call()
  }

  async close(): Promise<void> {
    this.#closed = true
    clearTimeout(this.#retry)
    this.#calling?.destroy()
    this.hangUp()
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
      if (this.connected) socket.destroy()
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
    this.connect(socket, `${this.description}: connected`)
  }
}

function withHost(address: { port: number; host?: string }): { port: number; host: string } {
  return { port: address.port, host: address.host ?? "127.0.0.1" }
}
