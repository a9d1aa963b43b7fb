import type { Duplex } from "node:stream"
import { VirtkitError } from "@virtkit/interface"

interface Reply {
  id?: number
  return?: unknown
  error?: { class: string; desc: string }
  event?: string
  QMP?: unknown
}

/** QEMU's machine protocol: one command after the other, over a stream of JSON lines. */
export class Qmp {
  readonly #stream: Duplex
  readonly #waiting = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>()
  readonly #ready: Promise<unknown>
  #nextId = 1
  #text = ""
  #lost: Error | undefined

  constructor(stream: Duplex) {
    this.#stream = stream
    stream.setEncoding("utf8")
    stream.on("data", (text: string) => {
      try {
        this.#read(text)
      } catch (error) {
        this.#lose(error as Error)
      }
    })
    stream.on("error", (error) => this.#lose(error))
    stream.on("close", () => this.#lose(new VirtkitError("ERR_VIRTKIT_LAB_GONE", "the lab ended")))
    this.#ready = this.#send("qmp_capabilities", {})
    this.#ready.catch(() => {})
  }

  /** Runs a command. @throws VirtkitError with QEMU's own words */
  async command(name: string, args: Readonly<Record<string, unknown>> = {}): Promise<unknown> {
    await this.#ready
    return this.#send(name, args)
  }

  async #send(name: string, args: Readonly<Record<string, unknown>>): Promise<unknown> {
    if (this.#lost) throw this.#lost
    const id = this.#nextId++
    const reply = new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject }))
    this.#stream.write(`${JSON.stringify({ execute: name, arguments: args, id })}\n`)
    return reply
  }

  #read(text: string): void {
    const lines = (this.#text + text).split("\n")
    this.#text = lines.pop() ?? ""
    for (const line of lines) {
      if (line.trim() === "") continue
      const reply = JSON.parse(line) as Reply
      const waiting = reply.id === undefined ? undefined : this.#waiting.get(reply.id)
      if (!waiting) continue // the greeting, or an event
      this.#waiting.delete(reply.id!)
      if (reply.error) waiting.reject(new VirtkitError("ERR_VIRTKIT_QEMU", `QEMU: ${reply.error.desc}`))
      else waiting.resolve(reply.return)
    }
  }

  #lose(reason: Error): void {
    if (this.#lost) return
    this.#lost = reason
    for (const { reject } of this.#waiting.values()) reject(reason)
    this.#waiting.clear()
  }
}
