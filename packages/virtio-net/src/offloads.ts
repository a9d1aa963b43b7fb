import {
  VIRTIO_NET_F_CSUM,
  VIRTIO_NET_F_GUEST_CSUM,
  VIRTIO_NET_F_GUEST_ECN,
  VIRTIO_NET_F_GUEST_TSO4,
  VIRTIO_NET_F_GUEST_TSO6,
  VIRTIO_NET_F_GUEST_UFO,
  VIRTIO_NET_F_GUEST_USO4,
  VIRTIO_NET_F_GUEST_USO6,
  VIRTIO_NET_F_HOST_ECN,
  VIRTIO_NET_F_HOST_TSO4,
  VIRTIO_NET_F_HOST_TSO6,
  VIRTIO_NET_F_HOST_UFO,
  VIRTIO_NET_F_HOST_USO,
} from "./constants.js"

/**
 * What one side can leave to the other, as a mask of these. The values are those of TUNSETOFFLOAD.
 *
 * CSUM: frames whose checksum is not filled in (NEEDS_CSUM). The others need it: frames larger than the MTU that are to
 * be cut into TCP segments (TSO4, TSO6; with the ECN bits handled: ECN), IP fragments (UFO) or UDP datagrams (USO4, USO6).
 */
export const OFFLOAD_CSUM = 1
export const OFFLOAD_TSO4 = 2
export const OFFLOAD_TSO6 = 4
export const OFFLOAD_ECN = 8
export const OFFLOAD_UFO = 16
export const OFFLOAD_USO4 = 32
export const OFFLOAD_USO6 = 64

const USO: number = OFFLOAD_USO4 | OFFLOAD_USO6
const NEED_CSUM: number = OFFLOAD_TSO4 | OFFLOAD_TSO6 | OFFLOAD_UFO | USO
/** Frames with any of these may be larger than the MTU. */
export const OFFLOAD_GSO: number = NEED_CSUM
export const OFFLOAD_ALL: number = OFFLOAD_CSUM | OFFLOAD_ECN | NEED_CSUM

/** Offloads of frames to the guest, and the feature that stands for each. */
const GUEST: readonly (readonly [number, bigint])[] = [
  [OFFLOAD_CSUM, VIRTIO_NET_F_GUEST_CSUM],
  [OFFLOAD_TSO4, VIRTIO_NET_F_GUEST_TSO4],
  [OFFLOAD_TSO6, VIRTIO_NET_F_GUEST_TSO6],
  [OFFLOAD_ECN, VIRTIO_NET_F_GUEST_ECN],
  [OFFLOAD_UFO, VIRTIO_NET_F_GUEST_UFO],
  [OFFLOAD_USO4, VIRTIO_NET_F_GUEST_USO4],
  [OFFLOAD_USO6, VIRTIO_NET_F_GUEST_USO6],
]

/** The same of frames from the guest. HOST_USO is both. */
const HOST: readonly (readonly [number, bigint])[] = [
  [OFFLOAD_CSUM, VIRTIO_NET_F_CSUM],
  [OFFLOAD_TSO4, VIRTIO_NET_F_HOST_TSO4],
  [OFFLOAD_TSO6, VIRTIO_NET_F_HOST_TSO6],
  [OFFLOAD_ECN, VIRTIO_NET_F_HOST_ECN],
  [OFFLOAD_UFO, VIRTIO_NET_F_HOST_UFO],
  [USO, VIRTIO_NET_F_HOST_USO],
]

/** 5.1.3.1: every segmentation needs the checksum offload, and ECN a TCP segmentation. Leaves out what lacks its need. */
export function consistentOffloads(offloads: number): number {
  if ((offloads & OFFLOAD_CSUM) === 0) return 0
  return (offloads & (OFFLOAD_TSO4 | OFFLOAD_TSO6)) === 0 ? offloads & ~OFFLOAD_ECN : offloads
}

/** Feature bits to offer for what a backend can do. */
export function offloadFeatures(transmit: number, receive: number): bigint {
  return features(HOST, consistentOffloads(transmit)) | features(GUEST, consistentOffloads(receive))
}

/** What may be left to the host in transmitted frames, of the negotiated features. */
export function transmitOffloads(negotiated: bigint): number {
  return consistentOffloads(mask(HOST, negotiated))
}

/** What may be left to the guest in received frames: of negotiated features, or of the mask of GUEST_OFFLOADS_SET. */
export function receiveOffloads(negotiated: bigint): number {
  return consistentOffloads(mask(GUEST, negotiated))
}

/** The features that VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET may switch (5.1.6.5.6.1). */
export const GUEST_OFFLOAD_FEATURES: bigint = GUEST.reduce((all, [, feature]) => all | feature, 0n)

function features(table: readonly (readonly [number, bigint])[], offloads: number): bigint {
  return table.reduce((all, [bits, feature]) => ((offloads & bits) === bits ? all | feature : all), 0n)
}

function mask(table: readonly (readonly [number, bigint])[], negotiated: bigint): number {
  return table.reduce((all, [bits, feature]) => ((negotiated & feature) !== 0n ? all | bits : all), 0)
}
