import { readSync } from "node:fs"
import { constants } from "node:os"
import { Poller, type Tap } from "@virtkit/native"
import type { NetBackend, NetBackendInfo, NetSession, TransmitFrame } from "../backend.js"
import { MAX_FRAME_BYTES } from "../constants.js"
import { OFFLOAD_ALL, OFFLOAD_UFO, OFFLOAD_USO4, OFFLOAD_USO6 } from "../offloads.js"
import { openTaps, type TapByDescriptor, type TapByName } from "./tap-open.js"
import { TapReader } from "./tap-reader.js"
import { TapWriter } from "./tap-writer.js"

/** Milliseconds between attempts to open a TAP that went away. */
const RETRY = 500
/** Errors that concern a frame, or an interface that is down: the TAP is still there. */
const PASSING = new Set<number>([
  constants.errno.EAGAIN,
  constants.errno.EINVAL,
  constants.errno.EIO,
  constants.errno.ENOBUFS,
  constants.errno.ENOMEM,
  constants.errno.EFAULT,
  constants.errno.EMSGSIZE,
])
const USO: number = OFFLOAD_USO4 | OFFLOAD_USO6
const DEFAULT_MTU = 1500

export type TapBackendOptions = (TapByName | TapByDescriptor) & {
  /** Pairs of queues. Default 1, or the number of descriptors. */
  readonly queues?: number
}

/** A TAP interface of the host. Throws ConfigError, or SystemError when the host fails. */
export async function tapBackend(options: TapBackendOptions): Promise<NetBackend> {
  return new TapBackend(options)
}

class TapBackend implements NetBackend {
  readonly #options: TapBackendOptions
  readonly #queues: number
  readonly #name: string
  readonly #mtu: number
  readonly #offered: number
  readonly #poller: Poller
  #taps: Tap[]
  #readers: TapReader[] = []
  #writers: TapWriter[] = []
  #session: NetSession | undefined
  #offloads = 0
  #pairs = 1
  #retry: NodeJS.Timeout | undefined
  /** Guest memory can be given to system calls. */
  #usable = true
  #closed = false

  constructor(options: TapBackendOptions) {
    this.#options = options
    this.#taps = openTaps(options, options.queues ?? 1)
    this.#queues = this.#taps.length
    const first = this.#taps[0]!
    this.#name = first.name
    this.#mtu = first.mtu()
    this.#offered = knownOffloads(first)
    this.#poller = new Poller((count) => this.#readable(count))
    // What keeps the process alive is the VM that runs.
    this.#poller.unref()
    this.#applyQueues()
    this.#taps.forEach((tap, pair) => {
      this.#poller.add(tap.fd, pair)
    })
  }

  get info(): NetBackendInfo {
    return {
      description: `tap ${this.#name}`,
      maxQueuePairs: this.#queues,
      transmitOffloads: this.#offered,
      receiveOffloads: this.#offered,
      linkUp: this.#taps.length > 0 && this.#usable,
      ...(this.#mtu > 0 && this.#mtu !== DEFAULT_MTU ? { mtu: this.#mtu } : {}),
    }
  }

  start(session: NetSession, offloads: number): void {
    this.#session = session
    this.#offloads = offloads
    this.#pairs = 1
    this.#connect()
  }

  stop(): void {
    this.#session = undefined
    this.#readers = []
    this.#writers = []
  }

  transmit(pair: number, frame: TransmitFrame): boolean {
    this.#writers[pair]?.add(frame)
    return true
  }

  commit(pair: number): void {
    this.#writers[pair]?.commit()
  }

  committed(pair: number, frames: number): void {
    this.#readers[pair]?.glance(frames)
  }

  receiveReady(pair: number): void {
    this.#readers[pair]?.pump()
  }

  setQueuePairs(pairs: number): void {
    this.#pairs = pairs
    this.#guard(() => this.#applyQueues())
  }

  setOffloads(offloads: number): void {
    this.#offloads = offloads
    this.#guard(() => this.#applyOffloads())
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    this.stop()
    clearTimeout(this.#retry)
    this.#closeTaps()
    this.#poller.close()
  }

  /** The session starts, or the TAP came back while there is one. */
  #connect(): void {
    const session = this.#session!
    const lost = (errno: number) => this.#failed(errno)
    const listen = (pair: number, on: boolean) => this.#listen(pair, on)
    const mtu = this.#mtu || DEFAULT_MTU
    this.#usable = session.memory.regions.every((region) => region.hostAddress !== 0)
    if (!this.#usable) {
      session.linkChanged(false, "guest memory on the heap cannot be used with a TAP")
      return
    }
    // What came before the guest could receive is old, and of other offloads.
    for (const tap of this.#taps) discard(tap.fd)
    this.#taps.forEach((tap, pair) => {
      this.#poller.resume(tap.fd, pair)
    })
    this.#readers = this.#taps.map((tap, pair) => new TapReader(pair, tap, session, { lost, listen }, mtu))
    this.#writers = this.#taps.map((tap) => new TapWriter(tap, session, lost))
    this.#guard(() => {
      this.#applyQueues()
      this.#applyOffloads()
    })
  }

  /** Frames are steered to queues that are in use, by the kernel: to the one from which it saw the flow come. */
  #applyQueues(): void {
    this.#taps.forEach((tap, pair) => {
      if (tap.multiQueue) tap.attach(pair < this.#pairs)
    })
  }

  #applyOffloads(): void {
    let offloads = this.#offloads
    // The kernel knows both or neither.
    if ((offloads & USO) !== USO) offloads &= ~USO
    this.#taps[0]?.setOffloads(offloads)
    for (const reader of this.#readers) reader.setOffloads(offloads, this.#mtu || DEFAULT_MTU)
  }

  #listen(pair: number, on: boolean): void {
    const tap = this.#taps[pair]
    if (tap === undefined) return
    if (on) this.#poller.resume(tap.fd, pair)
    else this.#poller.pause(tap.fd, pair)
  }

  #readable(count: number): void {
    for (let i = 0; i < count; i++) this.#readers[this.#poller.tokens[i]!]?.pump()
    // Nobody reads, so nobody else would notice.
    if (this.#session === undefined && this.#taps.length > 0) this.#guard(() => this.#applyQueues())
  }

  #guard(action: () => void): void {
    try {
      action()
    } catch (error) {
      this.#failed((error as NodeJS.ErrnoException).errno ?? 0)
    }
  }

  #failed(errno: number): void {
    if (PASSING.has(errno) || this.#taps.length === 0) return
    this.#closeTaps()
    this.#readers = []
    this.#writers = []
    this.#session?.linkChanged(false, `tap ${this.#name} went away (${errnoName(errno)})`)
    if (!("fds" in this.#options)) this.#tryLater()
  }

  #tryLater(): void {
    this.#retry = setTimeout(() => this.#reopen(), RETRY)
    this.#retry.unref()
  }

  #reopen(): void {
    try {
      this.#taps = openTaps(this.#options, this.#queues)
    } catch {
      this.#tryLater()
      return
    }
    this.#taps.forEach((tap, pair) => {
      this.#poller.add(tap.fd, pair)
    })
    if (this.#session === undefined) return
    this.#connect()
    this.#session.linkChanged(true, `tap ${this.#name} is back`)
    for (const reader of this.#readers) reader.pump()
  }

  #closeTaps(): void {
    for (const tap of this.#taps) {
      this.#poller.remove(tap.fd)
      tap.close()
    }
    this.#taps = []
  }
}

/** The offloads that the kernel can leave to the guest; it takes the same ones from the guest. */
function knownOffloads(tap: Tap): number {
  const attempts = [OFFLOAD_ALL, OFFLOAD_ALL & ~USO, OFFLOAD_ALL & ~USO & ~OFFLOAD_UFO]
  const known = attempts.find((offloads) => tap.setOffloads(offloads)) ?? 0
  tap.setOffloads(0)
  return known
}

function discard(fd: number): void {
  const scratch = new Uint8Array(MAX_FRAME_BYTES)
  // More than a queue of the kernel holds, unless it was made longer; a sender that does not stop must not keep us here.
  for (let frame = 0; frame < 4096; frame++) {
    try {
      readSync(fd, scratch)
    } catch {
      return
    }
  }
}

/** What the kernel says when the interface was removed; libuv has no name for it. */
const EBADFD = 77

function errnoName(errno: number): string {
  if (errno === EBADFD) return "EBADFD"
  return Object.entries(constants.errno).find(([, value]) => value === errno)?.[0] ?? String(errno)
}
