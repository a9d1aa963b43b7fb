import { RestoreError } from "@virtkit/interface"
import { VIRTIO_CONFIG_S_FEATURES_OK } from "./constants.js"
import { DeviceStatus } from "./device-status.js"

/** Saved state of a transport but for the registers of its own kind. */
export interface TransportState {
  readonly version: 1
  readonly deviceType: number
  readonly status: number
  readonly driverFeatures: bigint
  readonly configGeneration: number
  readonly queues: readonly QueueConfigState[]
  /** What the device's own `state()` gave. */
  readonly device: unknown
}

/** Registers of one queue. */
export interface QueueConfigState {
  readonly size: number
  /** Low and high half of the three addresses: desc, avail, used. */
  readonly addressHalves: readonly number[]
  /** State of the ring, or null for a queue that is not enabled. */
  readonly ring: unknown
}

/** What a state has to agree with. */
export interface ExpectedTransport {
  readonly name: string
  readonly deviceType: number
  readonly queueCount: number
  isOffered(features: bigint): boolean
}

/** Checks lengths, types and ranges before anything is made of them (bad-input #31). Throws {@link RestoreError}. */
export function parseTransportState(state: unknown, expected: ExpectedTransport): TransportState {
  const wrong = problem(state, expected)
  if (wrong !== undefined) throw new RestoreError(`${expected.name}: ${wrong}`)
  return state as TransportState
}

export function isUint32(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= 0xffff_ffff
}

function problem(state: unknown, expected: ExpectedTransport): string | undefined {
  if (typeof state !== "object" || state === null) return "the state is not an object"
  const { version, deviceType, status, driverFeatures, configGeneration, queues } =
    state as Partial<TransportState>
  if (version !== 1) return `unknown state version ${version}`
  if (deviceType !== expected.deviceType) {
    return `the state is of device type ${deviceType}, not ${expected.deviceType}`
  }
  if (!DeviceStatus.isPossible(status)) return `impossible device status ${status}`
  if (typeof driverFeatures !== "bigint") return "the features are not a bigint"
  if ((status & VIRTIO_CONFIG_S_FEATURES_OK) !== 0 && !expected.isOffered(driverFeatures)) {
    return `the driver accepted features that are not offered (0x${driverFeatures.toString(16)})`
  }
  if (!isUint32(configGeneration)) return "the configuration generation is not a 32-bit number"
  if (!Array.isArray(queues) || queues.length !== expected.queueCount) {
    return `the state does not have ${expected.queueCount} queues`
  }
  if (!queues.every(isQueueConfigState)) return "the registers of a queue are not all there"
  const inSetup = (status & VIRTIO_CONFIG_S_FEATURES_OK) !== 0
  if (!inSetup && queues.some((queue) => queue.ring !== null)) return "a queue is enabled before FEATURES_OK"
  return undefined
}

function isQueueConfigState(value: unknown): value is QueueConfigState {
  if (typeof value !== "object" || value === null) return false
  const { size, addressHalves, ring } = value as Partial<QueueConfigState>
  if (!isUint32(size) || ring === undefined) return false
  return Array.isArray(addressHalves) && addressHalves.length === 6 && addressHalves.every(isUint32)
}
