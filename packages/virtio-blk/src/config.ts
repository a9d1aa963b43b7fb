import type { BlockBackendInfo } from "./backend.js"
import {
  CONFIG,
  MAX_RANGES,
  SECTOR_BYTES,
  SIZE_MAX,
  VIRTIO_BLK_F_BLK_SIZE,
  VIRTIO_BLK_F_CONFIG_WCE,
  VIRTIO_BLK_F_DISCARD,
  VIRTIO_BLK_F_FLUSH,
  VIRTIO_BLK_F_MQ,
  VIRTIO_BLK_F_RO,
  VIRTIO_BLK_F_SEG_MAX,
  VIRTIO_BLK_F_SIZE_MAX,
  VIRTIO_BLK_F_TOPOLOGY,
  VIRTIO_BLK_F_WRITE_ZEROES,
} from "./constants.js"

/** Device-specific feature bits of a disk with such a backend (5.2.3). */
export function blockFeatures(info: BlockBackendInfo, queues: number): bigint {
  let features =
    VIRTIO_BLK_F_SIZE_MAX |
    VIRTIO_BLK_F_SEG_MAX |
    VIRTIO_BLK_F_BLK_SIZE |
    VIRTIO_BLK_F_FLUSH |
    VIRTIO_BLK_F_TOPOLOGY |
    VIRTIO_BLK_F_CONFIG_WCE
  if (queues > 1) features |= VIRTIO_BLK_F_MQ
  if (info.readonly) return features | VIRTIO_BLK_F_RO
  if (info.maxDiscard > 0) features |= VIRTIO_BLK_F_DISCARD
  if (info.maxWriteZeroes > 0) features |= VIRTIO_BLK_F_WRITE_ZEROES
  return features
}

/** Device configuration space (5.2.4). */
export function blockConfig(
  info: BlockBackendInfo,
  queues: number,
  segMax: number,
  writeback: boolean,
): Uint8Array {
  const config = new Uint8Array(CONFIG.bytes)
  const view = new DataView(config.buffer)
  setCapacity(config, info.size)
  view.setUint32(CONFIG.sizeMax, SIZE_MAX, true)
  view.setUint32(CONFIG.segMax, segMax, true)
  view.setUint32(CONFIG.blkSize, info.logicalBlockSize, true)
  view.setUint8(CONFIG.physicalBlockExp, Math.log2(info.physicalBlockSize / info.logicalBlockSize))
  view.setUint16(CONFIG.minIoSize, info.physicalBlockSize / info.logicalBlockSize, true)
  view.setUint32(CONFIG.optIoSize, info.optimalIoSize / info.logicalBlockSize, true)
  view.setUint8(CONFIG.writeback, writeback ? 1 : 0)
  view.setUint16(CONFIG.numQueues, queues, true)
  view.setUint32(CONFIG.maxDiscardSectors, info.maxDiscard / SECTOR_BYTES, true)
  view.setUint32(CONFIG.maxDiscardSeg, info.maxDiscard > 0 ? MAX_RANGES : 0, true)
  view.setUint32(CONFIG.discardSectorAlignment, info.discardAlignment / SECTOR_BYTES, true)
  view.setUint32(CONFIG.maxWriteZeroesSectors, info.maxWriteZeroes / SECTOR_BYTES, true)
  view.setUint32(CONFIG.maxWriteZeroesSeg, info.maxWriteZeroes > 0 ? MAX_RANGES : 0, true)
  view.setUint8(CONFIG.writeZeroesMayUnmap, info.maxWriteZeroes > 0 ? 1 : 0)
  return config
}

/** Writes the capacity field; `size` is in bytes. */
export function setCapacity(config: Uint8Array, size: number): void {
  const view = new DataView(config.buffer, config.byteOffset)
  view.setBigUint64(CONFIG.capacity, BigInt(size / SECTOR_BYTES), true)
}
