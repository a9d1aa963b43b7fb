import type { Interrupt } from "@virtkit/interface"

/** Counts its signals and lets a test wait for the next one. */
export class FakeInterrupt implements Interrupt {
  /** Signals so far. */
  count = 0
  #waiters: (() => void)[] = []

  signal(): void {
    this.count++
    const waiters = this.#waiters
    this.#waiters = []
    for (const wake of waiters) wake()
  }

  /** Resolves at the next signal. */
  next(): Promise<void> {
    return new Promise((resolve) => {
      this.#waiters.push(resolve)
    })
  }
}
