export {
  MAX_QUEUE_SIZE,
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_RING_EVENT_IDX,
  VIRTIO_F_RING_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
} from "./constants.js"
export { createQueue } from "./create-queue.js"
export { type DrainResult, drainQueue } from "./drain.js"
export { Limiter } from "./limiter.js"
export { NearRegion } from "./near-region.js"
export {
  type CreateQueueResult,
  type DeviceQueue,
  type QueueCounters,
  type QueueOptions,
  type RingFeatures,
  ringFeatures,
} from "./options.js"
export { type Rate, TokenBuckets } from "./rate.js"
export { isQueueSize } from "./ring-layout.js"
export { SharedLimit } from "./shared-limit.js"
export type { QueueState, SavedChain } from "./state.js"
