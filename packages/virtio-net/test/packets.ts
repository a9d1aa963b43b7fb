import { macBytes } from "./helpers.js"

export interface SegmentFields {
  from: string
  to: string
  payload: Uint8Array
  /** Of a TCP segment. Default 17. */
  sequence?: number
}

const HEADERS = 14 + 20 + 20

/** The ones' complement sum of 16-bit words, folded. */
export function onesSum(bytes: Uint8Array, start = 0): number {
  let sum = start
  for (let i = 0; i < bytes.length; i += 2) sum += (bytes[i]! << 8) | (bytes[i + 1] ?? 0)
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16)
  return sum
}

const pseudo = (packet: Uint8Array, protocol: number) =>
  onesSum(packet.subarray(26, 34), protocol + packet.length - 34)

/** An Ethernet frame with a TCP segment over IPv4, its checksum left at the pseudo header's, as for NEEDS_CSUM. */
export function tcpFrame(fields: SegmentFields): Uint8Array {
  const bytes = new Uint8Array(HEADERS + fields.payload.length)
  const view = new DataView(bytes.buffer)
  bytes.set(macBytes(fields.to), 0)
  bytes.set(macBytes(fields.from), 6)
  view.setUint16(12, 0x0800)
  view.setUint16(14, 0x4500)
  view.setUint16(16, bytes.length - 14)
  view.setUint16(20, 0x4000)
  view.setUint16(22, 0x4006)
  bytes.set([198, 51, 100, 1, 198, 51, 100, 2], 26)
  view.setUint16(24, ~onesSum(bytes.subarray(14, 34)) & 0xffff)
  view.setUint16(34, 1000)
  view.setUint16(36, 2000)
  view.setUint32(38, fields.sequence ?? 17)
  view.setUint16(46, 0x5010)
  view.setUint16(48, 1000)
  view.setUint16(50, pseudo(bytes, 6))
  bytes.set(fields.payload, HEADERS)
  return bytes
}

/** For the header of a frame of {@link tcpFrame}. */
export const NEEDS_CSUM = { flags: 1, csumStart: 34, csumOffset: 16 }
export const TSO4 = { ...NEEDS_CSUM, gsoType: 1, hdrLen: HEADERS }

export function parseTcp(frame: Uint8Array) {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.length)
  return {
    sequence: view.getUint32(38),
    payload: frame.subarray(HEADERS, 14 + view.getUint16(16)),
    ipChecksumRight: onesSum(frame.subarray(14, 34)) === 0xffff,
    tcpChecksumRight: onesSum(frame.subarray(34), pseudo(frame, 6)) === 0xffff,
  }
}
