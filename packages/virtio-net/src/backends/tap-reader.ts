import { constants } from "node:os"
import type { Tap } from "@virtkit/native"
import { NearRegion } from "@virtkit/virtqueue"
import type { NetSession, ReceiveBuffers } from "../backend.js"
import { ETHERNET_HEADER_BYTES, HEADER_BYTES, MAX_FRAME_BYTES, VLAN_TAG_BYTES } from "../constants.js"
import { OFFLOAD_GSO } from "../offloads.js"
import { BUFFERS, FRAMES, SEGMENTS } from "./tap-open.js"

const { EAGAIN, ENOBUFS, EFAULT, EINVAL } = constants.errno

/** Frames read before the event loop has its turn. */
const FRAMES_PER_TURN = 256
/** With fewer buffers than these, more are looked for. */
const FEW_BUFFERS = FRAMES
/** Distance of the first bytes of frames in `Tap.heads`. */
const HEAD_STRIDE = 32

const MERGEABLE = 1
const FULL = 2
const CLEAR_FLAGS = 4

/** What a reader tells its backend. */
export interface TapEvents {
  /** Whether frames that arrive on the pair's queue are to be reported, by {@link TapReader.pump}; those that wait count as arriving. */
  listen(pair: number, on: boolean): void
  /** The TAP cannot be read any more. */
  lost(errno: number): void
}

/** The way of frames from one queue of a TAP into the guest's buffers: the kernel writes them there. */
export class TapReader {
  readonly #pair: number
  readonly #tap: Tap
  readonly #session: NetSession
  readonly #near: NearRegion
  readonly #events: TapEvents
  /** Whether frames that arrive wake us; nobody could take them while there are no buffers. */
  #listening = true
  /** Whose chains the TAP's ring holds. */
  #buffers: ReceiveBuffers | undefined
  /** The first of those that wait, of which the TAP's ring has `#known`; where they start there. */
  #known = 0
  #firstBuffer = 0
  #firstSegment = 0
  #segments = 0
  #deferred = false
  #usual: number

  constructor(pair: number, tap: Tap, session: NetSession, events: TapEvents, mtu: number) {
    this.#pair = pair
    this.#tap = tap
    this.#session = session
    this.#near = new NearRegion(session.memory)
    this.#events = events
    this.#usual = HEADER_BYTES + ETHERNET_HEADER_BYTES + VLAN_TAG_BYTES + mtu
    tap.drop()
  }

  /** With segmentation left to the guest, frames are as large as they can be. */
  setOffloads(offloads: number, mtu: number): void {
    const most = HEADER_BYTES + MAX_FRAME_BYTES
    this.#usual =
      (offloads & OFFLOAD_GSO) !== 0 ? most : HEADER_BYTES + ETHERNET_HEADER_BYTES + VLAN_TAG_BYTES + mtu
  }

  /** Reads frames while there are frames, buffers for them, and allowance. */
  pump(): void {
    if (this.#readUpTo(FRAMES_PER_TURN)) this.#goOnLater()
  }

  /**
   * Reads up to `most` frames that are there, before an event says so: they may answer what was just sent. Does nothing
   * while no event would come either.
   */
  glance(most: number): void {
    if (!this.#listening) return
    // Frames that were not read have their event still to come. One that was read and waits for buffers has none.
    if (this.#readUpTo(most) && this.#tap.result[0] !== 0) this.#goOnLater()
  }

  /** Whether it ended because there were `most`, so that more may be there. */
  #readUpTo(most: number): boolean {
    const buffers = this.#session.buffers(this.#pair)
    if (buffers === undefined || this.#deferred) return false
    if (buffers !== this.#buffers) this.#adopt(buffers)
    for (let budget = most; budget > 0; ) {
      const allowed = Math.min(buffers.allowance(), budget, buffers.inOrder ? 1 : FRAMES)
      if (allowed >= 1 && buffers.count < FEW_BUFFERS) buffers.refill()
      const room = this.#learn(buffers)
      if (allowed < 1 || this.#known === 0) {
        this.#listen(false)
        return false
      }
      const frames = this.#read(buffers, allowed, !room)
      // At once, so that the guest works on them while more are read.
      if (this.#hand(buffers, frames)) this.#session.received(this.#pair)
      if (!this.#mayGoOn(buffers)) return false
      budget -= Math.max(1, frames)
    }
    return true
  }

  #adopt(buffers: ReceiveBuffers): void {
    this.#buffers = buffers
    this.#known = 0
    this.#segments = 0
  }

  #goOnLater(): void {
    this.#deferred = true
    this.#session.defer(() => {
      this.#deferred = false
      this.pump()
    })
  }

  #read(buffers: ReceiveBuffers, most: number, full: boolean): number {
    const flags =
      (buffers.mergeable ? MERGEABLE : 0) | (full ? FULL : 0) | (buffers.checksums ? 0 : CLEAR_FLAGS)
    return this.#tap.read(this.#firstBuffer, this.#firstSegment, this.#known, most, this.#usual, flags)
  }

  /** Puts chains that are new into the TAP's ring; false when no more than these will come. */
  #learn(buffers: ReceiveBuffers): boolean {
    const { receiveAddresses, receiveLengths, receiveCounts } = this.#tap
    const { count } = buffers
    while (this.#known < count) {
      const chain = buffers.at(this.#known)
      const segments = chain.count - chain.readable
      if (this.#known === BUFFERS || this.#segments + segments > SEGMENTS) return false
      let at = this.#firstSegment + this.#segments
      for (let i = chain.readable; i < chain.count; i++, at++) {
        const slot = at & (SEGMENTS - 1)
        // The kernel refuses address 0 (EFAULT), which costs the frame that would have gone there.
        if (!this.#near.hostAddress(chain.addresses, chain.lengths, i, 0, receiveAddresses, slot)) {
          receiveAddresses[slot] = 0
        }
        receiveLengths[slot] = chain.lengths[i]!
      }
      receiveCounts[(this.#firstBuffer + this.#known) & (BUFFERS - 1)] = segments
      this.#segments += segments
      this.#known++
    }
    return count < buffers.limit
  }

  /** Hands the frames that were read to the device; whether it took any. */
  #hand(buffers: ReceiveBuffers, frames: number): boolean {
    const { frameBuffers, frameBytes, heads, result } = this.#tap
    let taken = false
    for (let i = 0; i < frames; i++) {
      const used = frameBuffers[i]!
      // Those of a frame that the guest does not want wait again, behind all others: they will be learnt again.
      if (buffers.filled(used, frameBytes[i]!, heads, HEAD_STRIDE * i)) taken = true
      else if (buffers.inOrder) break
      this.#forget(used)
    }
    for (let i = result[2]!; i > 0; i--) buffers.dropped("tooLong")
    return taken
  }

  /** The first chains hold a frame, or wait behind the others. */
  #forget(chains: number): void {
    const { receiveCounts } = this.#tap
    for (let i = 0; i < chains; i++) {
      const segments = receiveCounts[this.#firstBuffer]!
      this.#firstBuffer = (this.#firstBuffer + 1) & (BUFFERS - 1)
      this.#firstSegment = (this.#firstSegment + segments) & (SEGMENTS - 1)
      this.#segments -= segments
    }
    this.#known -= chains
  }

  /** Looks why reading ended. */
  #mayGoOn(buffers: ReceiveBuffers): boolean {
    const { result } = this.#tap
    const status = result[0]!
    if (status === 0) return true
    if (status === EAGAIN) this.#listen(true)
    if (status === EAGAIN) return false
    // When no more can come the next read drops the frame.
    if (status === ENOBUFS) {
      if (buffers.refill(result[1]!) || buffers.count === buffers.limit || this.#known < buffers.count)
        return true
      this.#listen(false)
      return false
    }
    // The kernel had no header for that frame and threw it away. Those behind it come with no edge of their own.
    if (status === EINVAL || status === EFAULT) {
      buffers.dropped("error")
      return true
    }
    this.#events.lost(status)
    return false
  }

  #listen(on: boolean): void {
    if (on === this.#listening) return
    this.#listening = on
    this.#events.listen(this.#pair, on)
  }
}
