import { VIRTIO_NET_HDR_F_NEEDS_CSUM } from "./constants.js"
import type { NetHeader } from "./header.js"

/**
 * Fills in the checksum that the sender left to others (5.1.6.2: the ones' complement sum from csum_start to the end,
 * the field holding the pseudo header's). `at` and `length` say where the frame is; the header was checked against it.
 */
export function completeChecksum(bytes: Uint8Array, at: number, length: number, header: NetHeader): void {
  if ((header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) === 0) return
  const end = at + length
  let sum = 0
  let i = at + header.csumStart
  for (; i + 1 < end; i += 2) sum += (bytes[i]! << 8) | bytes[i + 1]!
  if (i < end) sum += bytes[i]! << 8
  // At most 32768 words of 16 bits: 31 bits, so no carry was lost.
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16)
  // A UDP checksum of 0 means that there is none; ffff is the same number.
  const checksum = sum === 0xffff ? 0xffff : ~sum & 0xffff
  const field = at + header.csumStart + header.csumOffset
  bytes[field] = checksum >> 8
  bytes[field + 1] = checksum & 0xff
}
