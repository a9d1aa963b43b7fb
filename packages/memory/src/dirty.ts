import { PAGE_SIZE } from "./layout.js"

/** Number of 32-bit words of a dirty bitmap of `sizeBytes`, rounded up to whole 64-bit words, as KVM wants its log. */
export function dirtyWords(sizeBytes: number): number {
  return Math.ceil(sizeBytes / PAGE_SIZE / 64) * 2
}

/**
 * Which 4 KiB pages of one region were written. Bit `n % 32` of word `n / 32` is page `n`; read as 64-bit little-endian
 * words this is the layout of KVM_GET_DIRTY_LOG.
 */
export class DirtyBitmap {
  readonly words: Uint32Array

  constructor(sizeBytes: number) {
    this.words = new Uint32Array(dirtyWords(sizeBytes))
  }

  /** Marks the pages that `[offset, offset + length)` of the region touches. The range is within the region. */
  mark(offset: number, length: number): void {
    if (length === 0) return
    const words = this.words
    const last = Math.floor((offset + length - 1) / PAGE_SIZE)
    for (let page = Math.floor(offset / PAGE_SIZE); page <= last; page++) {
      const word = Math.floor(page / 32)
      words[word] = words[word]! | (1 << (page % 32))
    }
  }

  /** Adds the marks to `words`, a bitmap of the same region (such as KVM's log of it), and clears them here. */
  takeInto(words: Uint32Array): void {
    if (words.length < this.words.length) {
      throw new RangeError(`dirty bitmap needs ${this.words.length} words, got ${words.length}`)
    }
    for (let i = 0; i < this.words.length; i++) words[i] = words[i]! | this.words[i]!
    this.words.fill(0)
  }
}

/** Calls `visit(offset, length)` (bytes into the region) for each run of adjacent dirty pages, in rising order. */
export function forEachDirtyRange(words: Uint32Array, visit: (offset: number, length: number) => void): void {
  let start = -1
  const pages = words.length * 32
  for (let page = 0; page < pages; page++) {
    const word = words[page >>> 5]!
    if (word === 0 && start < 0) {
      page |= 31
      continue
    }
    const dirty = (word & (1 << (page & 31))) !== 0
    if (dirty && start < 0) start = page
    if (!dirty && start >= 0) {
      visit(start * PAGE_SIZE, (page - start) * PAGE_SIZE)
      start = -1
    }
  }
  if (start >= 0) visit(start * PAGE_SIZE, (pages - start) * PAGE_SIZE)
}
