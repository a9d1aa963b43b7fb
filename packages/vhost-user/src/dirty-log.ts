import { LOG_PAGE_BYTES } from "./constants.js"

/**
 * The log of a front end that migrates its guest ("Migration"): a bit for each page of guest memory that this side writes,
 * in memory that both see. The front end clears bits at any time, so they are set atomically.
 */
export class DirtyLog {
  readonly #bytes: Uint8Array

  /** The log's memory. */
  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
  }

  /** Bytes of guest memory that the log has bits for. */
  get covers(): number {
    return this.#bytes.length * 8 * LOG_PAGE_BYTES
  }

  /** Pages behind the end of the log are left out. */
  mark(guestAddress: number, length: number): void {
    if (length === 0) return
    const bytes = this.#bytes
    const last = Math.min(Math.floor((guestAddress + length - 1) / LOG_PAGE_BYTES), bytes.length * 8 - 1)
    for (let page = Math.floor(guestAddress / LOG_PAGE_BYTES); page <= last; page++) {
      Atomics.or(bytes, Math.floor(page / 8), 1 << (page % 8))
    }
  }
}
