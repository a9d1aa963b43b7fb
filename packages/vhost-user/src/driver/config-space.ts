import { VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_MQ } from "./net-control.js"
import type { VhostUserSettings } from "./options.js"

/** VIRTIO_NET_F_MAC. */
const VIRTIO_NET_F_MAC = 1n << 5n
/** Where virtio_fs_config has num_request_queues, behind the tag. */
const FS_NUM_REQUEST_QUEUES = 36

/** Device features that the front end has itself, beside those of the back end. */
export function ownFeatures(settings: VhostUserSettings): bigint {
  const control = hasNetControl(settings) ? VIRTIO_NET_F_CTRL_VQ | VIRTIO_NET_F_MQ : 0n
  return control | (settings.mac === undefined ? 0n : VIRTIO_NET_F_MAC)
}

/** Whether it is a card with several pairs of queues, and behind them one that the front end works on. */
export function hasNetControl({ kind, units }: VhostUserSettings): boolean {
  return kind.name === "net" && units !== undefined && units > 1
}

/** Device features that it has not, whatever the back end says. */
export function missingFeatures({ kind }: VhostUserSettings, hasConfig: boolean): bigint {
  return (kind.without ?? 0n) | (hasConfig ? 0n : (kind.needConfig ?? 0n))
}

/** Whether the configuration space is the back end's, and whether there is no device without it. */
export function configIs({ kind }: VhostUserSettings): {
  readonly theirs: boolean
  readonly needed: boolean
} {
  const theirs = kind.configBytes > 0 && kind.name !== "fs"
  return { theirs, needed: theirs && kind.needConfig === undefined }
}

/** Puts into the configuration space, of which the rest is the back end's, what the front end decides. */
export function completeConfig(config: Uint8Array, settings: VhostUserSettings, units: number): void {
  const { kind, tag, mac } = settings
  const view = new DataView(config.buffer, config.byteOffset, config.length)
  if (tag !== undefined) {
    config.fill(0)
    config.set(tag)
    view.setUint32(FS_NUM_REQUEST_QUEUES, units, true)
  }
  if (mac !== undefined) config.set(mac)
  if (kind.countField !== undefined) view.setUint16(kind.countField, units, true)
}
