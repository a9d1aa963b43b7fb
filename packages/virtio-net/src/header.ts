import {
  ETHERNET_HEADER_BYTES,
  HEADER,
  VIRTIO_NET_HDR_F_DATA_VALID,
  VIRTIO_NET_HDR_F_NEEDS_CSUM,
  VIRTIO_NET_HDR_GSO_ECN,
  VIRTIO_NET_HDR_GSO_NONE,
  VIRTIO_NET_HDR_GSO_TCPV4,
  VIRTIO_NET_HDR_GSO_TCPV6,
  VIRTIO_NET_HDR_GSO_UDP,
  VIRTIO_NET_HDR_GSO_UDP_L4,
} from "./constants.js"
import {
  OFFLOAD_CSUM,
  OFFLOAD_ECN,
  OFFLOAD_TSO4,
  OFFLOAD_TSO6,
  OFFLOAD_UFO,
  OFFLOAD_USO4,
  OFFLOAD_USO6,
} from "./offloads.js"

/** struct virtio_net_hdr (5.1.6) without num_buffers: what is still to be done with a frame. */
export interface NetHeader {
  /** VIRTIO_NET_HDR_F_ bits. */
  readonly flags: number
  /** VIRTIO_NET_HDR_GSO_ value, with or without the ECN bit. */
  readonly gsoType: number
  /** Bytes of all protocol headers; a hint. */
  readonly hdrLen: number
  /** Bytes of payload in each segment. */
  readonly gsoSize: number
  /** With NEEDS_CSUM: where the checksum starts, and where from there it is stored; bytes. */
  readonly csumStart: number
  readonly csumOffset: number
}

/** A header to be filled in again and again. */
export interface MutableNetHeader {
  flags: number
  gsoType: number
  hdrLen: number
  gsoSize: number
  csumStart: number
  csumOffset: number
}

export function newHeader(): MutableNetHeader {
  return { flags: 0, gsoType: 0, hdrLen: 0, gsoSize: 0, csumStart: 0, csumOffset: 0 }
}

/** Reads the header at `offset` of `bytes`, of which there are 12 bytes. */
export function readHeader(bytes: Uint8Array, offset: number, header: MutableNetHeader): void {
  header.flags = bytes[offset + HEADER.flags]!
  header.gsoType = bytes[offset + HEADER.gsoType]!
  header.hdrLen = uint16(bytes, offset + HEADER.hdrLen)
  header.gsoSize = uint16(bytes, offset + HEADER.gsoSize)
  header.csumStart = uint16(bytes, offset + HEADER.csumStart)
  header.csumOffset = uint16(bytes, offset + HEADER.csumOffset)
}

export function writeHeader(
  bytes: Uint8Array,
  offset: number,
  header: NetHeader | undefined,
  buffers: number,
): void {
  if (header === undefined) {
    bytes.fill(0, offset, offset + HEADER.numBuffers)
  } else {
    bytes[offset + HEADER.flags] = header.flags
    bytes[offset + HEADER.gsoType] = header.gsoType
    putUint16(bytes, offset + HEADER.hdrLen, header.hdrLen)
    putUint16(bytes, offset + HEADER.gsoSize, header.gsoSize)
    putUint16(bytes, offset + HEADER.csumStart, header.csumStart)
    putUint16(bytes, offset + HEADER.csumOffset, header.csumOffset)
  }
  putUint16(bytes, offset + HEADER.numBuffers, buffers)
}

/**
 * Checks the header of a frame that the driver transmits (5.1.6.2) and makes it fit for a backend: what has no meaning
 * is set to 0, so that nothing unchecked is passed on. `length` is that of the frame, `offloads` what was negotiated for
 * this direction. False: drop the frame.
 */
export function checkTransmitHeader(header: MutableNetHeader, length: number, offloads: number): boolean {
  // 5.1.6.2.1: flags that a device does not know must be ignored; DATA_VALID has no meaning in this direction.
  header.flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM
  if (header.flags === 0) {
    header.csumStart = 0
    header.csumOffset = 0
  } else if ((offloads & OFFLOAD_CSUM) === 0 || !checksumInside(header, length)) {
    return false
  }
  if (header.gsoType === VIRTIO_NET_HDR_GSO_NONE) {
    header.gsoSize = 0
    header.hdrLen = 0
    return true
  }
  // 5.1.6.2: "if gso_type differs from NONE the driver MUST also set NEEDS_CSUM".
  if (header.flags === 0 || !gsoAllowed(header.gsoType, offloads)) return false
  // A size of 0 would make segments without end.
  if (header.gsoSize === 0) return false
  // A hint only (5.1.6.2.1); but a host may refuse one that exceeds the frame.
  if (header.hdrLen > length) header.hdrLen = length
  return true
}

/** Whether the two bytes of the checksum lie within the frame; past it, somebody else's memory would be changed. */
function checksumInside(header: MutableNetHeader, length: number): boolean {
  return (
    header.csumStart >= ETHERNET_HEADER_BYTES &&
    header.csumStart < length &&
    header.csumStart + header.csumOffset + 2 <= length
  )
}

/** Whether frames of that gso_type were negotiated. */
export function gsoAllowed(gsoType: number, offloads: number): boolean {
  if ((gsoType & VIRTIO_NET_HDR_GSO_ECN) !== 0 && (offloads & OFFLOAD_ECN) === 0) return false
  switch (gsoType & ~VIRTIO_NET_HDR_GSO_ECN) {
    case VIRTIO_NET_HDR_GSO_TCPV4:
      return (offloads & OFFLOAD_TSO4) !== 0
    case VIRTIO_NET_HDR_GSO_TCPV6:
      return (offloads & OFFLOAD_TSO6) !== 0
    case VIRTIO_NET_HDR_GSO_UDP:
      return gsoType === VIRTIO_NET_HDR_GSO_UDP && (offloads & OFFLOAD_UFO) !== 0
    case VIRTIO_NET_HDR_GSO_UDP_L4:
      return gsoType === VIRTIO_NET_HDR_GSO_UDP_L4 && (offloads & (OFFLOAD_USO4 | OFFLOAD_USO6)) !== 0
    default:
      return false
  }
}

/** Number of packets that the frame is on a wire, for rate limits. */
export function wirePackets(header: NetHeader, length: number): number {
  if (header.gsoType === VIRTIO_NET_HDR_GSO_NONE || header.gsoSize === 0) return 1
  const headers = Math.max(header.hdrLen, ETHERNET_HEADER_BYTES)
  return Math.max(1, Math.ceil((length - headers) / header.gsoSize))
}

/** The flags of a received frame that a driver without GUEST_CSUM must not see (5.1.6.4.1). */
export const CHECKSUM_FLAGS: number = VIRTIO_NET_HDR_F_NEEDS_CSUM | VIRTIO_NET_HDR_F_DATA_VALID

function uint16(bytes: Uint8Array, offset: number): number {
  return bytes[offset]! | (bytes[offset + 1]! << 8)
}

function putUint16(bytes: Uint8Array, offset: number, value: number): void {
  bytes[offset] = value & 0xff
  bytes[offset + 1] = value >> 8
}
