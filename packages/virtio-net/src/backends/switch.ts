import { ConfigError, StateError } from "@virtkit/interface"
import type { NetBackend } from "../backend.js"
import { completeChecksum } from "../checksum.js"
import { ETHERNET_HEADER_BYTES, MAC_BYTES, MAX_FRAME_BYTES } from "../constants.js"
import { type NetHeader, newHeader } from "../header.js"
import { MacTable, macNumber } from "./mac-table.js"
import { type HeldFrame, Interceptor } from "./switch-interceptor.js"
import { type SwitchCore, SwitchPort, type SwitchPortOptions } from "./switch-port.js"

/** A frame on its way through a switch, as hooks see it. */
export interface SwitchFrame {
  /** Name of the port that it came from; undefined for injected ones. */
  readonly from: string | undefined
  readonly vlan: number
  /** Without a VLAN tag, checksums filled in. */
  readonly bytes: Uint8Array
}

/** Decides about a frame at once: true passes it, false drops it, bytes take its place. The bytes may be changed in place. */
export type SwitchFilter = (frame: SwitchFrame) => boolean | Uint8Array

export interface InjectOptions {
  /** Default 1. */
  readonly vlan?: number
  /** Name of the port to send it to, whatever its address. Default: where a switch would send it. */
  readonly to?: string
}

export interface SwitchCounters {
  /** Frames that came from ports or were injected. */
  frames: number
  /** Of these, sent to all ports of the VLAN, for want of a known address. */
  flooded: number
  /** Dropped by a hook, or because it did not keep up. */
  dropped: number
}

const FINISHED: NetHeader = newHeader()

/** An Ethernet switch in this process: learns addresses, keeps VLANs apart, lets a program see and change the frames. */
export class NetSwitch implements SwitchCore {
  readonly counters: SwitchCounters = { frames: 0, flooded: 0, dropped: 0 }
  /** Sees every frame first. */
  filter: SwitchFilter | undefined
  readonly #ports = new Map<string, SwitchPort>()
  readonly #table = new MacTable<SwitchPort>()
  #interceptor: Interceptor | undefined
  #named = 0
  #closed = false

  /** A new port, for `net({ backend })`. Throws ConfigError. */
  port(options: SwitchPortOptions = {}): NetBackend {
    if (this.#closed) throw new StateError("the switch is closed")
    const { name = `port${this.#named++}`, vlan = 1, trunk = false } = options
    if (this.#ports.has(name)) throw new ConfigError(`the switch has a port ${name} already`)
    for (const id of [vlan, ...(typeof trunk === "boolean" ? [] : trunk)]) checkVlan(id)
    const port = new SwitchPort(this, name, vlan, trunk)
    this.#ports.set(name, port)
    return port
  }

  /** Sends a frame of the program's own; it passes no hook. The bytes may be reused. */
  inject(frame: Uint8Array, options: InjectOptions = {}): void {
    const { vlan = 1, to } = options
    checkVlan(vlan)
    if (frame.length < ETHERNET_HEADER_BYTES || frame.length > MAX_FRAME_BYTES) {
      throw new ConfigError(`a frame has from 14 to ${MAX_FRAME_BYTES} bytes, not ${frame.length}`)
    }
    const port = to === undefined ? undefined : this.#ports.get(to)
    if (to !== undefined && port === undefined) throw new ConfigError(`the switch has no port ${to}`)
    this.counters.frames++
    if (port === undefined) this.#send(undefined, vlan, frame, FINISHED)
    else if (port.takes(vlan)) port.deliver(vlan, frame, FINISHED)
    this.flush()
  }

  /**
   * From now on every frame waits until the program has decided about it, one after the other, by `pass` or `drop`.
   * More than `limit` (default 1024) that wait are dropped. Ends with the loop; what waits then is passed on. One at a time.
   */
  intercept(options: { readonly limit?: number } = {}): AsyncIterableIterator<HeldFrame> {
    if (this.#interceptor !== undefined) throw new StateError("the switch is being intercepted already")
    const interceptor = new Interceptor(options.limit ?? 1024, {
      pass: (frame, from) => {
        this.#send(from, frame.vlan, frame.bytes, FINISHED)
        this.flush()
      },
      dropped: () => {
        this.counters.dropped++
      },
      ended: () => {
        this.#interceptor = undefined
      },
    })
    this.#interceptor = interceptor
    return interceptor
  }

  /** Takes the link of all ports down; the ports are closed by their devices. */
  close(): void {
    this.#closed = true
    void this.#interceptor?.return()
    for (const port of this.#ports.values()) port.setLink(false, "the switch was closed")
  }

  /** @internal */
  forward(from: SwitchPort, vlan: number, frame: Uint8Array, header: NetHeader): void {
    this.counters.frames++
    // The lowest bit says that an address is of a group, which nobody sends from.
    if ((frame[MAC_BYTES]! & 1) === 0) {
      this.#table.learn(vlan, macNumber(frame, MAC_BYTES), from, performance.now())
    }
    if (this.filter === undefined && this.#interceptor === undefined) {
      this.#send(from, vlan, frame, header)
      return
    }
    completeChecksum(frame, 0, frame.length, header)
    const verdict = this.filter?.({ from: from.name, vlan, bytes: frame }) ?? true
    if (verdict === false) {
      this.counters.dropped++
      return
    }
    const bytes = verdict === true ? frame : verdict
    if (this.#interceptor === undefined) this.#send(from, vlan, bytes, FINISHED)
    else this.#interceptor.hold({ from: from.name, vlan, bytes: bytes.slice() }, from)
  }

  /** @internal */
  flush(): void {
    for (const port of this.#ports.values()) port.flush()
  }

  /** @internal */
  removed(port: SwitchPort): void {
    if (this.#ports.get(port.name) === port) this.#ports.delete(port.name)
    this.#table.forget(port)
  }

  #send(from: SwitchPort | undefined, vlan: number, frame: Uint8Array, header: NetHeader): void {
    const group = (frame[0]! & 1) !== 0
    const known = group ? undefined : this.#table.find(vlan, macNumber(frame, 0), performance.now())
    if (known !== undefined) {
      if (known !== from && known.takes(vlan)) known.deliver(vlan, frame, header)
      return
    }
    this.counters.flooded++
    for (const port of this.#ports.values()) {
      if (port !== from && port.takes(vlan)) port.deliver(vlan, frame, header)
    }
  }
}

/** An in-process switch, without ports at first. */
export function netSwitch(): NetSwitch {
  return new NetSwitch()
}

function checkVlan(vlan: number): void {
  if (!Number.isInteger(vlan) || vlan < 1 || vlan > 4094) {
    throw new ConfigError(`a VLAN is a number from 1 to 4094, not ${vlan}`)
  }
}
