/** Hands out ranges of guest memory to a test driver: first fit, freed ranges are used again. */
export class TestAllocator {
  readonly #start: number
  readonly #end: number
  /** Sorted by address. */
  readonly #used: { start: number; end: number }[] = []

  constructor(start: number, length: number) {
    this.#start = start
    this.#end = start + length
  }

  /** Guest address of `length` bytes. Throws when there is no room: a test driver with a leak must not go unseen. */
  allocate(length: number, alignment = 16): number {
    // Of nothing too, so that every address is handed out once.
    const bytes = Math.max(length, 1)
    let candidate = alignUp(this.#start, alignment)
    let position = 0
    for (const range of this.#used) {
      if (candidate + bytes <= range.start) break
      candidate = alignUp(range.end, alignment)
      position++
    }
    const end = candidate + bytes
    if (end > this.#end) throw new Error(`test allocator: no ${length} bytes left`)
    this.#used.splice(position, 0, { start: candidate, end })
    return candidate
  }

  free(address: number): void {
    const position = this.#used.findIndex((range) => range.start === address)
    if (position < 0) throw new Error(`test allocator: 0x${address.toString(16)} is not allocated`)
    this.#used.splice(position, 1)
  }

  /** Number of ranges handed out and not freed. */
  get allocated(): number {
    return this.#used.length
  }
}

function alignUp(value: number, alignment: number): number {
  return Math.ceil(value / alignment) * alignment
}
