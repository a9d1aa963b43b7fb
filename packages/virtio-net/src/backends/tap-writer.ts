import { constants } from "node:os"
import type { Tap } from "@virtkit/native"
import { NearRegion } from "@virtkit/virtqueue"
import type { NetSession, TransmitFrame } from "../backend.js"
import { HEADER_BYTES } from "../constants.js"
import { writeHeader } from "../header.js"
import { FRAMES, SEGMENTS } from "./tap-open.js"

/** The way of frames from guest memory into one queue of a TAP: one call a batch, and the kernel reads them there. */
export class TapWriter {
  readonly #tap: Tap
  readonly #session: NetSession
  readonly #near: NearRegion
  readonly #failed: (errno: number) => void
  #frames = 0
  #segments = 0

  /** `failed` is called with the errno when frames could not be written. */
  constructor(tap: Tap, session: NetSession, failed: (errno: number) => void) {
    this.#tap = tap
    this.#session = session
    this.#near = new NearRegion(session.memory)
    this.#failed = failed
  }

  add(frame: TransmitFrame): void {
    const { chain, offset } = frame
    if (this.#frames === FRAMES || this.#segments + chain.readable > SEGMENTS) this.commit()
    const { headers, counts, addresses, lengths } = this.#tap
    const first = this.#segments
    let at = first
    let skip = offset
    for (let i = 0; i < chain.readable; i++) {
      const length = chain.lengths[i]!
      if (skip >= length) {
        skip -= length
        continue
      }
      if (!this.#near.hostAddress(chain.addresses, chain.lengths, i, skip, addresses, at)) {
        this.#session.transmitFailed(1, constants.errno.EFAULT)
        return
      }
      lengths[at] = length - skip
      skip = 0
      at++
    }
    writeHeader(headers, HEADER_BYTES * this.#frames, frame.header, 0)
    counts[this.#frames] = at - first
    this.#segments = at
    this.#frames++
  }

  commit(): void {
    const frames = this.#frames
    if (frames === 0) return
    this.#frames = 0
    this.#segments = 0
    const failed = this.#tap.write(frames)
    if (failed === 0) return
    const errno = this.#tap.result[0]!
    this.#session.transmitFailed(failed, errno)
    this.#failed(errno)
  }
}
