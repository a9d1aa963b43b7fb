import { MAC_BYTES } from "./constants.js"

/** Entries of either MAC table; a driver that sets more gets every such frame (bad-input #12). */
export const MAX_MAC_ENTRIES = 64

const VLAN_TYPE = 0x8100

/** What the driver set by commands of class RX (5.1.6.5.1). */
export interface ReceiveModes {
  promisc: boolean
  allmulti: boolean
  alluni: boolean
  nomulti: boolean
  nouni: boolean
  nobcast: boolean
}

/** One table of MAC_TABLE_SET (5.1.6.5.2). */
export interface MacTable {
  /** 6 bytes an entry. */
  readonly entries: Uint8Array
  /** The driver had more of them than fit: all such addresses are accepted. */
  readonly overflow: boolean
}

const EMPTY: MacTable = { entries: new Uint8Array(0), overflow: false }

/** Which frames the guest wants. As after a reset: all, until the driver says otherwise. */
export class ReceiveFilter {
  readonly modes: ReceiveModes
  unicast: MacTable = EMPTY
  multicast: MacTable = EMPTY
  /** A bit for each VLAN; used only if `vlanFiltering`, which is if CTRL_VLAN was negotiated. */
  readonly vlans: Uint8Array = new Uint8Array(4096 / 8)
  vlanFiltering = false
  readonly #mac: Uint8Array

  /** `mac` has the device's own address in its first bytes, which may change. */
  constructor(mac: Uint8Array) {
    this.#mac = mac
    this.modes = {
      promisc: true,
      allmulti: false,
      alluni: false,
      nomulti: false,
      nouni: false,
      nobcast: false,
    }
  }

  setVlan(vlan: number, on: boolean): void {
    const bit = 1 << (vlan & 7)
    if (on) this.vlans[vlan >> 3]! |= bit
    else this.vlans[vlan >> 3]! &= ~bit
  }

  /** The frame's first 16 bytes are at `at` of `bytes`. */
  accepts(bytes: Uint8Array, at: number): boolean {
    const { modes } = this
    if (modes.promisc) return true
    if (this.vlanFiltering && !this.#vlanAccepted(bytes, at)) return false
    if ((bytes[at]! & 1) === 0) {
      if (modes.nouni) return false
      if (modes.alluni || this.unicast.overflow || sameMac(bytes, at, this.#mac, 0)) return true
      return inTable(this.unicast.entries, bytes, at)
    }
    if (isBroadcast(bytes, at)) return !modes.nobcast
    if (modes.nomulti) return false
    if (modes.allmulti || this.multicast.overflow) return true
    return inTable(this.multicast.entries, bytes, at)
  }

  #vlanAccepted(bytes: Uint8Array, at: number): boolean {
    if (((bytes[at + 12]! << 8) | bytes[at + 13]!) !== VLAN_TYPE) return true
    const vlan = ((bytes[at + 14]! << 8) | bytes[at + 15]!) & 0xfff
    return (this.vlans[vlan >> 3]! & (1 << (vlan & 7))) !== 0
  }
}

function inTable(entries: Uint8Array, bytes: Uint8Array, at: number): boolean {
  for (let entry = 0; entry < entries.length; entry += MAC_BYTES) {
    if (sameMac(bytes, at, entries, entry)) return true
  }
  return false
}

// From the last byte on: the first three are the vendor's and often the same.
function sameMac(a: Uint8Array, atA: number, b: Uint8Array, atB: number): boolean {
  for (let i = MAC_BYTES - 1; i >= 0; i--) if (a[atA + i] !== b[atB + i]) return false
  return true
}

function isBroadcast(bytes: Uint8Array, at: number): boolean {
  for (let i = 0; i < MAC_BYTES; i++) if (bytes[at + i] !== 0xff) return false
  return true
}
