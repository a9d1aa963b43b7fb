export { ActiveDevice, type ActiveDeviceOwner } from "./active-device.js"
export {
  MAX_CONFIG_BYTES,
  VIRTIO_CONFIG_S_ACKNOWLEDGE,
  VIRTIO_CONFIG_S_DRIVER,
  VIRTIO_CONFIG_S_DRIVER_OK,
  VIRTIO_CONFIG_S_FAILED,
  VIRTIO_CONFIG_S_FEATURES_OK,
  VIRTIO_CONFIG_S_NEEDS_RESET,
  VIRTIO_F_NOTIF_CONFIG_DATA,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_VERSION_1,
  VIRTIO_INTERRUPT_CONFIG,
  VIRTIO_INTERRUPT_QUEUE,
  VIRTIO_MMIO_BYTES,
} from "./constants.js"
export { type RingOffers, ringOffers } from "./features.js"
export { VirtioMmio, type VirtioMmioOptions, type VirtioMmioState } from "./mmio.js"
export { QueueConfig, type RingPart } from "./queue-config.js"
export { RegisterFile } from "./registers.js"
export type { QueueConfigState, TransportState } from "./state.js"
export { TransportCore, type TransportCoreOptions, type TransportEvents } from "./transport-core.js"
