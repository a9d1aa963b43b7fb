/** One task after the other. */
export class Mutex {
  #last: Promise<unknown> = Promise.resolve()

  /** What `task` throws is thrown here, and the next one runs. */
  run<T>(task: () => Promise<T>): Promise<T> {
    const result = this.#last.then(task)
    this.#last = result.catch(() => undefined)
    return result
  }
}

interface Held {
  readonly first: number
  readonly last: number
  readonly released: Promise<void>
}

/** Ranges of guest clusters whose entries are being changed, each by one request. */
export class RangeLocks {
  readonly #held = new Set<Held>()

  /** Waits until nobody holds any of the clusters `first` to `last`; gives what releases them. */
  async acquire(first: number, last: number): Promise<() => void> {
    for (;;) {
      const other = this.#conflict(first, last)
      if (other === undefined) break
      await other.released
    }
    let release = () => {}
    const released = new Promise<void>((resolve) => {
      release = resolve
    })
    const held = { first, last, released }
    this.#held.add(held)
    return () => {
      this.#held.delete(held)
      release()
    }
  }

  #conflict(first: number, last: number): Held | undefined {
    for (const held of this.#held) if (held.first <= last && first <= held.last) return held
    return undefined
  }
}
