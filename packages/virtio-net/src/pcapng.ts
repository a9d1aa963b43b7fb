import {
  VIRTIO_NET_HDR_F_DATA_VALID,
  VIRTIO_NET_HDR_F_NEEDS_CSUM,
  VIRTIO_NET_HDR_GSO_NONE,
} from "./constants.js"
import type { NetHeader } from "./header.js"

/** The pcapng file format (draft-ietf-opsawg-pcapng), as far as a capture of Ethernet frames needs it. Little-endian. */

const SECTION_HEADER = 0x0a0d0d0a
const BYTE_ORDER = 0x1a2b3c4d
const INTERFACE_DESCRIPTION = 1
const ENHANCED_PACKET = 6
const LINKTYPE_ETHERNET = 1

/** Options: code, and bytes of their values. */
const OPT_END = 0
const IF_NAME = 2
const IF_TSRESOL = 9
const SHB_USERAPPL = 4
const EPB_FLAGS = 2
const EPB_DROPCOUNT = 4

/** Bits of epb_flags. */
const INBOUND = 1
const OUTBOUND = 2
const CHECKSUM_NOT_READY = 1 << 9
const CHECKSUM_VALID = 1 << 10
const SEGMENTATION_OFFLOADED = 1 << 11

/** Bytes of a packet's block beside the frame: block header and trailer, packet fields, flags, drop count, end. */
const PACKET_OVERHEAD = 12 + 20 + 8 + 12 + 4
const MICROSECONDS = 6

/** What a file starts with: one section, one interface. */
export function fileHeader(interfaceName: string, snapLength: number): Uint8Array {
  const section = block(SECTION_HEADER, [
    ...uint32(BYTE_ORDER),
    ...uint16(1),
    ...uint16(0),
    // Section length: not given.
    ...uint32(0xffff_ffff),
    ...uint32(0xffff_ffff),
    ...option(SHB_USERAPPL, [...new TextEncoder().encode("virtkit")]),
    ...option(OPT_END, []),
  ])
  const description = block(INTERFACE_DESCRIPTION, [
    ...uint16(LINKTYPE_ETHERNET),
    ...uint16(0),
    ...uint32(snapLength),
    ...option(IF_NAME, [...new TextEncoder().encode(interfaceName)]),
    ...option(IF_TSRESOL, [MICROSECONDS]),
    ...option(OPT_END, []),
  ])
  return Uint8Array.from([...section, ...description])
}

/** Bytes of the block for a frame of which `captured` bytes are kept. */
export function packetBytes(captured: number): number {
  return PACKET_OVERHEAD + padded(captured)
}

export interface Packet {
  /** Microseconds since 1970. */
  readonly time: number
  readonly direction: "in" | "out"
  /** Bytes of the frame that are kept, and that there were. */
  readonly captured: number
  readonly length: number
  readonly header: NetHeader
  /** Packets lost since the one before. */
  readonly dropped: number
}

/** Writes the block of a packet except the frame, whose place `at` is returned, into the bytes of `view`. */
export function writePacket(view: DataView, at: number, packet: Packet): number {
  const { time, captured } = packet
  const total = packetBytes(captured)
  view.setUint32(at, ENHANCED_PACKET, true)
  view.setUint32(at + 4, total, true)
  view.setUint32(at + 8, 0, true)
  view.setUint32(at + 12, Math.floor(time / 0x1_0000_0000), true)
  view.setUint32(at + 16, time % 0x1_0000_0000, true)
  view.setUint32(at + 20, captured, true)
  view.setUint32(at + 24, packet.length, true)
  const frame = at + 28
  let next = frame + padded(captured)
  for (let i = frame + captured; i < next; i++) view.setUint8(i, 0)
  view.setUint16(next, EPB_FLAGS, true)
  view.setUint16(next + 2, 4, true)
  view.setUint32(next + 4, packetFlags(packet.direction, packet.header), true)
  next += 8
  view.setUint16(next, EPB_DROPCOUNT, true)
  view.setUint16(next + 2, 8, true)
  view.setUint32(next + 4, packet.dropped, true)
  view.setUint32(next + 8, 0, true)
  view.setUint32(next + 12, OPT_END, true)
  view.setUint32(at + total - 4, total, true)
  return frame
}

function packetFlags(direction: "in" | "out", header: NetHeader): number {
  let flags = direction === "in" ? INBOUND : OUTBOUND
  if ((header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) !== 0) flags |= CHECKSUM_NOT_READY
  if ((header.flags & VIRTIO_NET_HDR_F_DATA_VALID) !== 0) flags |= CHECKSUM_VALID
  if (header.gsoType !== VIRTIO_NET_HDR_GSO_NONE) flags |= SEGMENTATION_OFFLOADED
  return flags
}

function block(type: number, body: readonly number[]): number[] {
  const total = uint32(12 + body.length)
  return [...uint32(type), ...total, ...body, ...total]
}

function option(code: number, value: readonly number[]): number[] {
  const padding = new Array<number>(padded(value.length) - value.length).fill(0)
  return [...uint16(code), ...uint16(value.length), ...value, ...padding]
}

function padded(length: number): number {
  return (length + 3) & ~3
}

function uint16(value: number): number[] {
  return [value & 0xff, value >> 8]
}

function uint32(value: number): number[] {
  return [...uint16(value & 0xffff), ...uint16(value >>> 16)]
}
