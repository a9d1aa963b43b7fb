import type { NetBackendInfo } from "./backend.js"
import {
  CONFIG,
  VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
  VIRTIO_NET_F_CTRL_MAC_ADDR,
  VIRTIO_NET_F_CTRL_RX,
  VIRTIO_NET_F_CTRL_RX_EXTRA,
  VIRTIO_NET_F_CTRL_VLAN,
  VIRTIO_NET_F_CTRL_VQ,
  VIRTIO_NET_F_GUEST_ANNOUNCE,
  VIRTIO_NET_F_MAC,
  VIRTIO_NET_F_MQ,
  VIRTIO_NET_F_MRG_RXBUF,
  VIRTIO_NET_F_MTU,
  VIRTIO_NET_F_SPEED_DUPLEX,
  VIRTIO_NET_F_STATUS,
} from "./constants.js"
import { offloadFeatures } from "./offloads.js"

/** What the guest reads of the device before it is used. */
export interface NetConfig {
  readonly mac: Uint8Array
  readonly queuePairs: number
  /** Bytes; undefined: not offered. */
  readonly mtu: number | undefined
  /** Mbit/s, or SPEED_UNKNOWN. */
  readonly speed: number
  readonly duplex: number
}

/** Device-specific feature bits for such a backend (5.1.3). */
export function netFeatures(info: NetBackendInfo, config: NetConfig, offloads: number): bigint {
  const offered = offloadFeatures(info.transmitOffloads & offloads, info.receiveOffloads & offloads)
  let features =
    VIRTIO_NET_F_MAC |
    VIRTIO_NET_F_STATUS |
    VIRTIO_NET_F_MRG_RXBUF |
    VIRTIO_NET_F_CTRL_VQ |
    VIRTIO_NET_F_CTRL_RX |
    VIRTIO_NET_F_CTRL_RX_EXTRA |
    VIRTIO_NET_F_CTRL_VLAN |
    VIRTIO_NET_F_CTRL_MAC_ADDR |
    VIRTIO_NET_F_GUEST_ANNOUNCE |
    VIRTIO_NET_F_SPEED_DUPLEX |
    offered
  if ((info.receiveOffloads & offloads) !== 0) features |= VIRTIO_NET_F_CTRL_GUEST_OFFLOADS
  if (config.mtu !== undefined) features |= VIRTIO_NET_F_MTU
  if (config.queuePairs > 1) features |= VIRTIO_NET_F_MQ
  return features
}

/** Device configuration space (5.1.4). */
export function netConfigSpace(config: NetConfig): Uint8Array {
  const bytes = new Uint8Array(CONFIG.bytes)
  const view = new DataView(bytes.buffer)
  bytes.set(config.mac, CONFIG.mac)
  view.setUint16(CONFIG.maxVirtqueuePairs, config.queuePairs, true)
  view.setUint16(CONFIG.mtu, config.mtu ?? 0, true)
  view.setUint32(CONFIG.speed, config.speed, true)
  view.setUint8(CONFIG.duplex, config.duplex)
  return bytes
}

/** Sets or clears bits of the status field; returns whether that changed it. */
export function setStatus(config: Uint8Array, bits: number, on: boolean): boolean {
  const before = config[CONFIG.status]!
  const after = on ? before | bits : before & ~bits
  config[CONFIG.status] = after
  return after !== before
}
