import type { PciMsixLayout } from "@virtkit/interface"
import {
  CAP_BAR,
  CAP_CFG_TYPE,
  CAP_EXTRA,
  CAP_LEN,
  CAP_LENGTH,
  CAP_OFFSET,
  MAX_MSIX_VECTORS,
  MSIX_BAR,
  NOTIFY_MULTIPLIER,
  NOTIFY_OFFSET,
  REGISTERS_BAR,
} from "./constants.js"

const PAGE_BYTES = 4096
const MSIX_ENTRY_BYTES = 16

/** Sizes that depend on the number of queues. */
export interface BarLayout {
  /** Bytes of the notification structure. */
  readonly notifyBytes: number
  /** Bytes of the two BARs, powers of two. */
  readonly registersBytes: number
  readonly msixBytes: number
  /** A vector a queue and one for configuration changes, as far as MSI-X has them. */
  readonly msix: PciMsixLayout
}

export function barLayout(queues: number): BarLayout {
  const vectors = Math.min(queues + 1, MAX_MSIX_VECTORS)
  // A capability of no bytes would be wrong; nobody writes there.
  const notifyBytes = NOTIFY_MULTIPLIER * Math.max(queues, 1)
  const pbaOffset = roundUp(vectors * MSIX_ENTRY_BYTES, PAGE_BYTES)
  const pbaBytes = 8 * Math.ceil(vectors / 64)
  return {
    notifyBytes,
    registersBytes: powerOfTwo(NOTIFY_OFFSET + notifyBytes),
    msixBytes: powerOfTwo(pbaOffset + pbaBytes),
    msix: { vectors, bar: MSIX_BAR, tableOffset: 0, pbaOffset },
  }
}

/**
 * The body of a virtio capability (4.1.4): struct virtio_pci_cap without ID and link, with `extra` further bytes. It
 * points to `length` bytes at `offset` of the register BAR.
 */
export function capabilityBody(type: number, offset: number, length: number, extra = 0): Uint8Array {
  const body = new Uint8Array(CAP_EXTRA + extra)
  const view = new DataView(body.buffer)
  view.setUint8(CAP_LEN, body.length + 2)
  view.setUint8(CAP_CFG_TYPE, type)
  view.setUint8(CAP_BAR, REGISTERS_BAR)
  view.setUint32(CAP_OFFSET, offset, true)
  view.setUint32(CAP_LENGTH, length, true)
  return body
}

function roundUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit
}

function powerOfTwo(bytes: number): number {
  return 2 ** Math.ceil(Math.log2(bytes))
}
