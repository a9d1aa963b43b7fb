import type { NetBackend, NetBackendInfo, NetSession, TransmitFrame } from "../backend.js"
import { completeChecksum } from "../checksum.js"
import { MAX_FRAME_BYTES, VLAN_TAG_BYTES } from "../constants.js"
import { type MutableNetHeader, type NetHeader, newHeader } from "../header.js"
import { OFFLOAD_CSUM } from "../offloads.js"
import { tag, untag, vlanOf } from "./vlan.js"

/** Bytes that wait for a guest without room; more are dropped, as by any switch. */
const QUEUE_BYTES: number = 512 * 1024

/** VLANs of a port. */
export interface SwitchPortOptions {
  /** For hooks. Default "port" and a number. */
  readonly name?: string
  /** VLAN of frames without a tag, 1 to 4094. Default 1. Ports of different VLANs do not see each other. */
  readonly vlan?: number
  /** Takes and gives frames of these other VLANs too (true: of all), with tags. Default: none, tagged frames are dropped. */
  readonly trunk?: boolean | readonly number[]
}

/** The switch as its ports see it. */
export interface SwitchCore {
  /** A frame without a tag, of a VLAN, came in; `header` may be changed, the bytes too. */
  forward(from: SwitchPort, vlan: number, frame: Uint8Array, header: NetHeader): void
  /** A batch is over. */
  flush(): void
  removed(port: SwitchPort): void
}

const FINISHED: NetHeader = newHeader()

/** One port: the backend of one network device. */
export class SwitchPort implements NetBackend {
  readonly name: string
  readonly vlan: number
  /** The guest lost frames for want of room. */
  dropped = 0
  readonly #core: SwitchCore
  readonly #trunk: boolean | ReadonlySet<number>
  readonly #bytes: Uint8Array = new Uint8Array(MAX_FRAME_BYTES)
  readonly #header: MutableNetHeader = newHeader()
  #tagged: Uint8Array | undefined
  readonly #waiting: { bytes: Uint8Array; header: NetHeader }[] = []
  #waitingBytes = 0
  #session: NetSession | undefined
  /** Frames were received and the driver was not told. */
  #dirty = false
  #up = true

  constructor(core: SwitchCore, name: string, vlan: number, trunk: boolean | readonly number[]) {
    this.#core = core
    this.name = name
    this.vlan = vlan
    this.#trunk = typeof trunk === "boolean" ? trunk : new Set(trunk)
  }

  get info(): NetBackendInfo {
    return {
      description: `switch port ${this.name}`,
      maxQueuePairs: 1,
      transmitOffloads: OFFLOAD_CSUM,
      receiveOffloads: OFFLOAD_CSUM,
      linkUp: this.#up,
    }
  }

  /** Whether it has a guest that takes frames of that VLAN. */
  takes(vlan: number): boolean {
    return this.#session !== undefined && this.#member(vlan)
  }

  start(session: NetSession): void {
    this.#session = session
  }

  stop(): void {
    this.#session = undefined
    this.#waiting.length = 0
    this.#waitingBytes = 0
  }

  transmit(_pair: number, frame: TransmitFrame): boolean {
    if (!this.#up) return true
    const bytes = this.#bytes.subarray(0, frame.copyTo(this.#bytes))
    const header = Object.assign(this.#header, frame.header)
    const vlan = vlanOf(bytes)
    if (vlan === undefined || vlan === 0) {
      this.#core.forward(this, this.vlan, bytes, header)
    } else if (vlan !== this.vlan && this.#trunk !== false && this.#member(vlan)) {
      if (header.flags !== 0) header.csumStart -= VLAN_TAG_BYTES
      this.#core.forward(this, vlan, untag(bytes), header)
    }
    return true
  }

  commit(): void {
    this.#core.flush()
  }

  receiveReady(): void {
    const session = this.#session
    if (session === undefined) return
    let done = 0
    for (const { bytes, header } of this.#waiting) {
      if (!session.receive(0, bytes, header)) break
      this.#waitingBytes -= bytes.length
      done++
    }
    this.#waiting.splice(0, done)
    session.received(0)
  }

  async close(): Promise<void> {
    this.stop()
    this.#core.removed(this)
  }

  /** A frame for the guest, of a VLAN that it takes. The bytes stay the caller's. */
  deliver(vlan: number, frame: Uint8Array, header: NetHeader): void {
    const session = this.#session
    if (session === undefined) return
    let bytes = frame
    let left = header
    if (vlan !== this.vlan) {
      bytes = this.#withTag(frame, vlan, header)
      left = FINISHED
    }
    if (this.#waiting.length === 0 && session.receive(0, bytes, left)) {
      this.#dirty = true
    } else if (this.#waitingBytes + bytes.length <= QUEUE_BYTES) {
      this.#waiting.push({ bytes: bytes.slice(), header: { ...left } })
      this.#waitingBytes += bytes.length
    } else {
      this.dropped++
      session.dropped(1)
    }
  }

  flush(): void {
    if (!this.#dirty) return
    this.#dirty = false
    this.#session?.received(0)
  }

  setLink(up: boolean, reason: string): void {
    this.#up = up
    this.#session?.linkChanged(up, reason)
  }

  #member(vlan: number): boolean {
    if (vlan === this.vlan) return true
    return typeof this.#trunk === "boolean" ? this.#trunk : this.#trunk.has(vlan)
  }

  #withTag(frame: Uint8Array, vlan: number, header: NetHeader): Uint8Array {
    this.#tagged ??= new Uint8Array(MAX_FRAME_BYTES + VLAN_TAG_BYTES)
    const tagged = tag(frame, vlan, this.#tagged)
    // It starts later now.
    completeChecksum(this.#tagged, VLAN_TAG_BYTES, frame.length, header)
    return tagged
  }
}
