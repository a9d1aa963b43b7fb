import {
  MAC_BYTES,
  VIRTIO_NET_CTRL_ANNOUNCE,
  VIRTIO_NET_CTRL_ANNOUNCE_ACK,
  VIRTIO_NET_CTRL_GUEST_OFFLOADS,
  VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET,
  VIRTIO_NET_CTRL_MAC,
  VIRTIO_NET_CTRL_MAC_ADDR_SET,
  VIRTIO_NET_CTRL_MAC_TABLE_SET,
  VIRTIO_NET_CTRL_MQ,
  VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET,
  VIRTIO_NET_CTRL_RX,
  VIRTIO_NET_CTRL_RX_ALLMULTI,
  VIRTIO_NET_CTRL_RX_ALLUNI,
  VIRTIO_NET_CTRL_RX_NOBCAST,
  VIRTIO_NET_CTRL_RX_NOMULTI,
  VIRTIO_NET_CTRL_RX_NOUNI,
  VIRTIO_NET_CTRL_RX_PROMISC,
  VIRTIO_NET_CTRL_VLAN,
  VIRTIO_NET_CTRL_VLAN_ADD,
  VIRTIO_NET_CTRL_VLAN_DEL,
} from "./constants.js"
import { MAX_MAC_ENTRIES, type MacTable, type ReceiveModes } from "./filter.js"

/** A command of the control queue (5.1.6.5). */
export type ControlCommand =
  | { readonly kind: "mode"; readonly mode: keyof ReceiveModes; readonly on: boolean }
  | { readonly kind: "macTable"; readonly unicast: MacTable; readonly multicast: MacTable }
  | { readonly kind: "mac"; readonly mac: Uint8Array }
  | { readonly kind: "vlan"; readonly vlan: number; readonly on: boolean }
  | { readonly kind: "announced" }
  | { readonly kind: "queuePairs"; readonly pairs: number }
  | { readonly kind: "offloads"; readonly features: bigint }

/** The readable part of a chain. */
export interface ControlSource {
  readonly readableBytes: number
  copyOut(offset: number, target: Uint8Array): number
}

const MODES = new Map<number, keyof ReceiveModes>([
  [VIRTIO_NET_CTRL_RX_PROMISC, "promisc"],
  [VIRTIO_NET_CTRL_RX_ALLMULTI, "allmulti"],
  [VIRTIO_NET_CTRL_RX_ALLUNI, "alluni"],
  [VIRTIO_NET_CTRL_RX_NOMULTI, "nomulti"],
  [VIRTIO_NET_CTRL_RX_NOUNI, "nouni"],
  [VIRTIO_NET_CTRL_RX_NOBCAST, "nobcast"],
])

/** Class and command, before the data. */
const COMMAND_BYTES = 2
/** Number of entries, before each MAC table. */
const COUNT_BYTES = 4

/**
 * Reads a command, each byte of it once (bad-input #18). Undefined when it is none that there is, or its data has another
 * length than it must have. Reads a few hundred bytes at most, whatever the chain holds (bad-input #12).
 */
export function parseControl(source: ControlSource): ControlCommand | undefined {
  if (source.readableBytes < COMMAND_BYTES) return undefined
  const [kind, command] = bytesAt(source, 0, COMMAND_BYTES)
  if (kind === VIRTIO_NET_CTRL_MAC && command === VIRTIO_NET_CTRL_MAC_TABLE_SET) return parseTables(source)
  const length = source.readableBytes - COMMAND_BYTES
  // No other command has more data.
  if (length > 8) return undefined
  const data = bytesAt(source, COMMAND_BYTES, length)
  switch (kind) {
    case VIRTIO_NET_CTRL_RX: {
      const mode = MODES.get(command!)
      return mode === undefined || length !== 1 ? undefined : { kind: "mode", mode, on: data[0] !== 0 }
    }
    case VIRTIO_NET_CTRL_MAC:
      return command === VIRTIO_NET_CTRL_MAC_ADDR_SET && length === MAC_BYTES
        ? { kind: "mac", mac: data }
        : undefined
    case VIRTIO_NET_CTRL_VLAN:
      return parseVlan(command!, data)
    case VIRTIO_NET_CTRL_ANNOUNCE:
      return command === VIRTIO_NET_CTRL_ANNOUNCE_ACK && length === 0 ? { kind: "announced" } : undefined
    case VIRTIO_NET_CTRL_MQ:
      return command === VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET && length === 2
        ? { kind: "queuePairs", pairs: uint16(data) }
        : undefined
    case VIRTIO_NET_CTRL_GUEST_OFFLOADS:
      return command === VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET && length === 8
        ? { kind: "offloads", features: view(data).getBigUint64(0, true) }
        : undefined
    default:
      return undefined
  }
}

function parseVlan(command: number, data: Uint8Array): ControlCommand | undefined {
  const known = command === VIRTIO_NET_CTRL_VLAN_ADD || command === VIRTIO_NET_CTRL_VLAN_DEL
  if (!known || data.length !== 2) return undefined
  const vlan = uint16(data)
  // The filter has a bit for each of 4096.
  return vlan > 4095 ? undefined : { kind: "vlan", vlan, on: command === VIRTIO_NET_CTRL_VLAN_ADD }
}

/** 5.1.6.5.2: two tables, each a count and so many addresses, and nothing after them. */
function parseTables(source: ControlSource): ControlCommand | undefined {
  const unicast = countAt(source, COMMAND_BYTES)
  if (unicast === undefined) return undefined
  const second = COMMAND_BYTES + COUNT_BYTES + unicast * MAC_BYTES
  const multicast = countAt(source, second)
  if (multicast === undefined) return undefined
  if (source.readableBytes !== second + COUNT_BYTES + multicast * MAC_BYTES) return undefined
  return {
    kind: "macTable",
    unicast: tableAt(source, COMMAND_BYTES + COUNT_BYTES, unicast),
    multicast: tableAt(source, second + COUNT_BYTES, multicast),
  }
}

/** The count of entries at `offset`, if it is there. It has 32 bits: what is computed with it stays exact. */
function countAt(source: ControlSource, offset: number): number | undefined {
  if (source.readableBytes < offset + COUNT_BYTES) return undefined
  return view(bytesAt(source, offset, COUNT_BYTES)).getUint32(0, true)
}

function tableAt(source: ControlSource, offset: number, count: number): MacTable {
  if (count > MAX_MAC_ENTRIES) return { entries: new Uint8Array(0), overflow: true }
  return { entries: bytesAt(source, offset, count * MAC_BYTES), overflow: false }
}

function bytesAt(source: ControlSource, offset: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length)
  source.copyOut(offset, bytes)
  return bytes
}

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
}

function uint16(bytes: Uint8Array): number {
  return view(bytes).getUint16(0, true)
}
