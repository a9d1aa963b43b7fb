import type { DeviceContext } from "@virtkit/interface"
import type { Limiter } from "@virtkit/virtqueue"
import type { NetBackend } from "./backend.js"
import type { Capture } from "./capture.js"
import type { NetCounters } from "./counters.js"
import type { ReceiveFilter } from "./filter.js"

/** What the queues of an activated device share. */
export interface NetCore {
  readonly context: DeviceContext
  readonly backend: NetBackend
  readonly counters: NetCounters
  readonly filter: ReceiveFilter
  readonly receiveLimiter: Limiter
  readonly transmitLimiter: Limiter
  readonly mergeable: boolean
  /** OFFLOAD_ bits of frames from the guest, as negotiated. */
  readonly transmitOffloads: number
  /** OFFLOAD_ bits of frames to the guest; the driver may change them. */
  receiveOffloads: number
  /** Pairs of queues in use; the driver may change it. */
  queuePairs: number
  linkUp: boolean
  capture: Capture | undefined
}
