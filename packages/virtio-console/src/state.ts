import { RestoreError } from "@virtkit/interface"

/** What of a console the guest depends on. Bytes that the stream holds belong to the host. */
export interface ConsoleState {
  version: 1
  cols: number
  rows: number
  /** Bytes already taken of the chain that is next in the transmit queue. */
  transmitOffset: number
}

const MAX_CHAIN_BYTES = 2 ** 32

/** Throws RestoreError for anything that is not a {@link ConsoleState}. */
export function parseConsoleState(state: unknown): ConsoleState {
  if (typeof state !== "object" || state === null)
    throw new RestoreError("the console state is not an object")
  const fields = state as Record<string, unknown>
  if (fields.version !== 1) {
    throw new RestoreError(`the console state has version ${String(fields.version)}, this is version 1`)
  }
  const integer = (name: string, max: number): number => {
    const value = fields[name]
    if (typeof value !== "number" || !Number.isInteger(value) || value < 0 || value > max) {
      throw new RestoreError(`the console state has no integer from 0 to ${max} as ${name}`)
    }
    return value
  }
  return {
    version: 1,
    cols: integer("cols", 0xffff),
    rows: integer("rows", 0xffff),
    transmitOffset: integer("transmitOffset", MAX_CHAIN_BYTES),
  }
}
