import { type ChildProcess, spawn } from "node:child_process"
import type { Socket } from "node:net"
import type { Duplex, Readable } from "node:stream"
import { ConfigError } from "@virtkit/interface"
import type { NetBackend } from "../backend.js"
import { StreamPort } from "./stream-port.js"

/** Milliseconds before passt is started again, the first time and at most. */
const FIRST_RETRY = 100
const LAST_RETRY = 10_000
/** What is kept of its messages: bytes. */
const MESSAGE = 2048
/** Its end of the wire. */
const CHILD_FD = 3

export interface PasstBackendOptions {
  /**
   * Ports of the host that lead to the guest, such as "8080:80" (8080 of the host to 80 of the guest), "22" or
   * "5000-5010". Ports below 1024 need privilege. Default: none.
   */
  readonly tcp?: readonly string[]
  readonly udp?: readonly string[]
  /** Program to start. Default "passt", of Debian's package of that name. */
  readonly command?: string
  /** More arguments for it, such as ["--address", "10.0.2.15"]. */
  readonly args?: readonly string[]
}

/**
 * User-mode networking by passt: the guest gets the host's addresses by DHCP, and TCP, UDP and pings of its own become
 * sockets of a process without privilege. That is started here, watched, and started again when it ends.
 *
 * Throws ConfigError when passt cannot be started.
 */
export async function passtBackend(options: PasstBackendOptions = {}): Promise<NetBackend> {
  const backend = new PasstBackend(options)
  await backend.open()
  return backend
}

class PasstBackend extends StreamPort {
  protected readonly description: string = "passt"
  readonly #command: string
  readonly #args: readonly string[]
  #child: ChildProcess | undefined
  #handles: readonly { ref?(): unknown; unref?(): unknown }[] = []
  #exited: Promise<void> = Promise.resolve()
  #retry: NodeJS.Timeout | undefined
  #delay = FIRST_RETRY
  /** It has answered once: what it was told is right. */
  #worked = false
  #closed = false

  constructor(options: PasstBackendOptions) {
    super()
    this.#command = options.command ?? "passt"
    this.#args = [
      "--foreground",
      "--quiet",
      "--fd",
      String(CHILD_FD),
      ...(options.tcp ?? []).flatMap((ports) => ["--tcp-ports", checked(ports)]),
      ...(options.udp ?? []).flatMap((ports) => ["--udp-ports", checked(ports)]),
      ...(options.args ?? []),
    ]
  }

  async open(): Promise<void> {
    const child = this.#spawn()
    try {
      await new Promise<void>((resolve, reject) => {
        child.once("spawn", resolve)
        child.once("error", reject)
      })
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException
      const why = code === "ENOENT" ? "it is not installed; as root: apt install passt" : message
      throw new ConfigError(`cannot start ${this.#command}: ${why}`, { cause: error })
    }
    this.#watch(child)
  }

  /** Its end says more than that of the wire. */
  protected lost(): void {
    this.#child?.kill()
  }

  async close(): Promise<void> {
    this.#closed = true
    clearTimeout(this.#retry)
    this.hangUp()
    // Its end is waited for: until then it keeps the process alive after all.
    for (const handle of this.#handles) handle.ref?.()
    this.#child?.kill()
    await this.#exited
  }

  #spawn(): ChildProcess {
    return spawn(this.#command, this.#args, { stdio: ["ignore", "ignore", "pipe", "pipe"] })
  }

  /** Of a child that was started: its messages, its end, and the wire. */
  #watch(child: ChildProcess): void {
    const wire = child.stdio[CHILD_FD] as Duplex
    const messages = child.stdio[2] as Readable
    let said = ""
    messages.on("data", (text: Buffer) => {
      said = (said + text.toString()).slice(-MESSAGE)
    })
    wire.once("data", () => {
      this.#worked = true
      this.#delay = FIRST_RETRY
    })
    this.#child = child
    this.#exited = new Promise((resolve) => {
      child.once("close", (code, signal) => {
        resolve()
        this.#ended(code, signal, lastLine(said))
      })
    })
    // What keeps the process alive is the VM that runs.
    this.#handles = [child, wire as Partial<Socket>, messages as Partial<Socket>]
    for (const handle of this.#handles) handle.unref?.()
    this.connect(wire, "passt runs")
  }

  #ended(code: number | null, signal: string | null, said: string): void {
    this.#child = undefined
    const how = signal === null ? `with status ${code}` : `by ${signal}`
    this.down(`passt ended ${how}${said === "" ? "" : `: ${said}`}`)
    // Told something wrong, it would end again and again.
    if (this.#closed || (code !== null && code !== 0 && !this.#worked)) return
    this.#retry = setTimeout(() => this.#startAgain(), this.#delay)
    this.#retry.unref()
    this.#delay = Math.min(LAST_RETRY, this.#delay * 2)
  }

  #startAgain(): void {
    const child = this.#spawn()
    child.once("spawn", () => (this.#closed ? child.kill() : this.#watch(child)))
    child.once("error", (error) => this.down(`cannot start passt again: ${error.message}`))
  }
}

function checked(ports: string): string {
  if (/^\d{1,5}(-\d{1,5})?(:\d{1,5}(-\d{1,5})?)?$/.test(ports)) return ports
  throw new ConfigError(`"${ports}" is no port to forward; it must look like 8080:80, 22 or 5000-5010`)
}

function lastLine(text: string): string {
  return text.trim().split("\n").at(-1) ?? ""
}
