const panicMarkers = ["Kernel panic - not syncing", "---[ end Kernel panic"]

/**
 * Remembers the end of what a guest wrote to its consoles, so that a crash can be told with its last lines. Bounded: a
 * guest that writes for ever costs `capacity` bytes.
 */
export class ConsoleTail {
  readonly #bytes: Uint8Array
  #next = 0
  #wrapped = false

  constructor(capacity = 16384) {
    this.#bytes = new Uint8Array(capacity)
  }

  add(chunk: Uint8Array): void {
    const capacity = this.#bytes.length
    const tail = chunk.length > capacity ? chunk.subarray(chunk.length - capacity) : chunk
    const first = Math.min(tail.length, capacity - this.#next)
    this.#bytes.set(tail.subarray(0, first), this.#next)
    this.#bytes.set(tail.subarray(first), 0)
    if (this.#next + tail.length >= capacity) this.#wrapped = true
    this.#next = (this.#next + tail.length) % capacity
  }

  text(): string {
    const { buffer } = this.#bytes
    const head = this.#wrapped ? Buffer.from(buffer, this.#next) : Buffer.alloc(0)
    return Buffer.concat([head, Buffer.from(buffer, 0, this.#next)]).toString("utf8")
  }

  /** The last `count` lines that are not blank, without control characters. */
  lines(count: number): string[] {
    const lines = this.text().split(/\r?\n/)
    return lines
      .map((line) => line.replaceAll(/\p{Cc}/gu, " ").trimEnd())
      .filter((line) => line !== "")
      .slice(-count)
  }

  /** The last `count` lines, except that the first one is the report of a panic if that was further back. */
  crashLines(count: number): string[] {
    const lines = this.lines(Number.POSITIVE_INFINITY)
    const report = lines.findLast((line) => line.includes(panicMarkers[0]!))
    const last = lines.slice(-count)
    return report === undefined || last.includes(report) ? last : [report, ...last.slice(1)]
  }

  /** Whether a Linux kernel's last words were that it reboots. */
  get restarting(): boolean {
    return this.lines(1)[0]?.endsWith("reboot: Restarting system") ?? false
  }

  /** Whether a Linux kernel reported a panic here. */
  get panicked(): boolean {
    const text = this.text()
    return panicMarkers.some((marker) => text.includes(marker))
  }
}
