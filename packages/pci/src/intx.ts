import type { InterruptLine } from "./context.js"
import type { PciHost } from "./host.js"

/** The four shared interrupt lines: asserted while any function asserts them. */
export class InterruptLines {
  readonly #host: PciHost
  /** How many functions assert each. */
  readonly #counts: [number, number, number, number] = [0, 0, 0, 0]

  constructor(host: PciHost) {
    this.#host = host
  }

  /** Tells of a change: each function asserts a line at most once. */
  change(line: InterruptLine, asserted: boolean): void {
    const count = this.#counts[line] + (asserted ? 1 : -1)
    this.#counts[line] = count
    if (count === 0) this.#host.setLine(line, false)
    else if (count === 1 && asserted) this.#host.setLine(line, true)
  }
}

/** INTA# of a device on the root bus, and of a function behind a root port that is that device. */
export function swizzledLine(device: number): InterruptLine {
  return (device & 3) as InterruptLine
}
