import { EventEmitter } from "node:events"
import { lstatSync, unlinkSync } from "node:fs"
import { ConfigError, SystemError, type VirtioDevice } from "@virtkit/interface"
import { Poller, UnixListener, UnixSocket, unixConnect } from "@virtkit/native"
import type { RingOffers } from "@virtkit/virtio"
import { Connection } from "./connection.js"

export interface ServeOptions {
  /** Path of the Unix socket that front ends connect to. It is made, and removed by `close`. */
  readonly socket: string
  /** What the rings of the device offer. Default: split rings, used in any order. */
  readonly rings?: RingOffers
}

export interface VhostUserServerEvents {
  /** A front end connected. */
  connected: []
  /** It went, or was turned away because it broke the protocol: then there is a reason. The next one is waited for. */
  disconnected: [reason: string | undefined]
  /** The queues that run, by index: a front end started or stopped some. */
  queues: [running: readonly boolean[]]
  /** Requests that a killed process had taken are carried out now: in that queue, so many. */
  resumed: [queue: number, requests: number]
  /** The device does nothing more before the guest resets it; why. */
  needsReset: [reason: string]
  /** The device broke its contract. */
  deviceError: [error: Error]
}

/** Serves one device to one front end at a time. Made by {@link serve}. */
export class VhostUserServer extends EventEmitter<VhostUserServerEvents> {
  readonly socket: string
  readonly #device: VirtioDevice
  readonly #rings: RingOffers
  readonly #listener: UnixListener
  readonly #poller: Poller
  #connection: Connection | undefined
  #closed: Promise<void> | undefined

  /** @internal */
  constructor(device: VirtioDevice, { socket, rings }: ServeOptions, listener: UnixListener) {
    super()
    this.socket = socket
    this.#device = device
    this.#rings = rings ?? {}
    this.#listener = listener
    this.#poller = new Poller(() => this.#accept())
    this.#poller.add(listener.fd, 0)
  }

  /** Whether a front end is connected. */
  get connected(): boolean {
    return this.#connection !== undefined
  }

  /**
   * Ends the connection and removes the socket. Resolves when the device is quiet; it is the caller's, to close or to serve
   * again. Idempotent.
   */
  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #close(): Promise<void> {
    this.#poller.close()
    this.#listener.close()
    removeSocket(this.socket)
    await this.#connection?.end("the server was closed")
  }

  /** Others wait in the queue of the socket until the present one has gone: they would share its disk otherwise. */
  #accept(): void {
    if (this.#connection !== undefined || this.#closed !== undefined) return
    let fd = -1
    try {
      fd = this.#listener.accept()
    } catch (error) {
      // Out of descriptors, say: whoever comes next rings again.
      this.emit("disconnected", (error as Error).message)
    }
    if (fd < 0) return
    this.#connection = new Connection(new UnixSocket(fd), this.#device, this.#rings, {
      ended: (reason) => {
        this.#connection = undefined
        this.emit("disconnected", reason)
        this.#accept()
      },
      queuesChanged: (running) => this.emit("queues", running),
      resumed: (queue, requests) => this.emit("resumed", queue, requests),
      needsReset: (reason) => this.emit("needsReset", reason),
      error: (error) => this.emit("deviceError", error),
    })
    this.emit("connected")
  }
}

/**
 * Serves a device to a virtual machine monitor that connects to a Unix socket, such as QEMU with `-device vhost-user-blk-pci`.
 * Front ends may come and go; a device whose process was killed can be served again by another, which takes up the requests
 * that were in flight. A socket that nobody listens on any more is replaced.
 *
 * The device is used by nobody else meanwhile. Throws ConfigError when the socket is in use, SystemError when it cannot be
 * made.
 */
export function serve(device: VirtioDevice, options: ServeOptions): VhostUserServer {
  const { socket } = options
  if (typeof socket !== "string" || socket === "") throw new ConfigError("serve needs the path of a socket")
  return new VhostUserServer(device, options, listen(socket))
}

function listen(path: string): UnixListener {
  try {
    return new UnixListener(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EADDRINUSE") throw socketError(error, path)
  }
  if (isServed(path))
    throw new ConfigError(`socket ${path} is in use; stop who listens there, or choose another`)
  try {
    unlinkSync(path)
    return new UnixListener(path)
  } catch (error) {
    throw socketError(error, path)
  }
}

/** Whether there is anything at the path but a socket that a process has left behind. */
function isServed(path: string): boolean {
  try {
    if (!lstatSync(path).isSocket()) return true
    new UnixSocket(unixConnect(path)).close()
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== "ECONNREFUSED"
  }
}

function removeSocket(path: string): void {
  try {
    unlinkSync(path)
  } catch {
    // Somebody was quicker.
  }
}

function socketError(error: unknown, path: string): unknown {
  const { code, errno, syscall, message } = error as NodeJS.ErrnoException
  if (code === undefined || syscall === undefined) return error
  return new SystemError(code, Math.abs(errno ?? 0), syscall, `socket ${path}: ${message}`, { cause: error })
}
