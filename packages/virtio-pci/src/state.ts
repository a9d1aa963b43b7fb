import { RestoreError } from "@virtkit/interface"
import type { TransportState } from "@virtkit/virtio"

/** Saved state of the transport and all that is behind it; configuration space and MSI-X table are the bus's. */
export interface VirtioPciState {
  readonly version: 1
  readonly kind: "pci"
  readonly deviceFeatureSelect: number
  readonly driverFeatureSelect: number
  readonly queueSelect: number
  readonly configVector: number
  /** By queue. */
  readonly queueVectors: readonly number[]
  readonly isr: number
  readonly transport: TransportState
}

/** What a state has to agree with. */
export interface ExpectedState {
  readonly name: string
  readonly queueCount: number
  isVector(value: unknown): boolean
}

const CAUSES = 3

/** Checks what is this transport's own (bad-input #31); `transport` is checked by its core. Throws {@link RestoreError}. */
export function parseState(state: unknown, expected: ExpectedState): VirtioPciState {
  const wrong = problem(state, expected)
  if (wrong !== undefined) throw new RestoreError(`${expected.name}: ${wrong}`)
  return state as VirtioPciState
}

function problem(state: unknown, expected: ExpectedState): string | undefined {
  if (typeof state !== "object" || state === null) return "the state is not an object"
  const saved = state as Partial<VirtioPciState>
  if (saved.version !== 1 || saved.kind !== "pci") return "not a version 1 state of virtio-pci"
  const { deviceFeatureSelect, driverFeatureSelect, queueSelect, isr } = saved
  if (!isBelow(deviceFeatureSelect, 2 ** 32) || !isBelow(driverFeatureSelect, 2 ** 32)) {
    return "a feature selector is not a 32-bit number"
  }
  if (!isBelow(queueSelect, 2 ** 16)) return "the queue selector is not a 16-bit number"
  if (!isBelow(isr, CAUSES + 1)) return "impossible ISR status"
  const { configVector, queueVectors } = saved
  if (!expected.isVector(configVector)) return "the configuration vector is not in the table"
  if (!Array.isArray(queueVectors) || queueVectors.length !== expected.queueCount) {
    return `the state does not have the vectors of ${expected.queueCount} queues`
  }
  if (!queueVectors.every((vector) => expected.isVector(vector)))
    return "a queue's vector is not in the table"
  return undefined
}

function isBelow(value: unknown, limit: number): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value < limit
}
