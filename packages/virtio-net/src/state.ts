import { RestoreError } from "@virtkit/interface"
import { MAC_BYTES } from "./constants.js"
import { MAX_MAC_ENTRIES, type MacTable, type ReceiveFilter, type ReceiveModes } from "./filter.js"

/** Saved state of a network device: what the driver has set by commands. */
export interface NetState {
  readonly version: 1
  readonly mac: Uint8Array
  /** Pairs of queues that the device has, and that the driver uses. */
  readonly maxQueuePairs: number
  readonly queuePairs: number
  /** OFFLOAD_ bits of received frames. Null: the device was not active. */
  readonly receiveOffloads: number | null
  readonly filter: FilterState
}

export interface FilterState {
  readonly modes: ReceiveModes
  readonly unicast: MacTable
  readonly multicast: MacTable
  readonly vlans: Uint8Array
}

export function filterState(filter: ReceiveFilter): FilterState {
  const { modes, unicast, multicast, vlans } = filter
  return {
    modes: { ...modes },
    unicast: { ...unicast, entries: unicast.entries.slice() },
    multicast: { ...multicast, entries: multicast.entries.slice() },
    vlans: vlans.slice(),
  }
}

export function restoreFilter(filter: ReceiveFilter, state: FilterState): void {
  Object.assign(filter.modes, state.modes)
  filter.unicast = state.unicast
  filter.multicast = state.multicast
  filter.vlans.set(state.vlans)
}

const MODES: readonly (keyof ReceiveModes)[] = [
  "promisc",
  "allmulti",
  "alluni",
  "nomulti",
  "nouni",
  "nobcast",
]

/** Checks a saved state against the device that is to go on with it (bad-input #31). Throws {@link RestoreError}. */
export function parseNetState(state: unknown, maxQueuePairs: number): NetState {
  const saved = record(state, "state")
  if (saved.version !== 1) throw new RestoreError(`network device state has version ${saved.version}, not 1`)
  if (saved.maxQueuePairs !== maxQueuePairs) {
    throw new RestoreError(
      `network device state is of a device with ${saved.maxQueuePairs} pairs of queues, this one has ${maxQueuePairs}`,
    )
  }
  const filter = record(saved.filter, "filter")
  const modes = record(filter.modes, "modes")
  const { receiveOffloads } = saved
  if (receiveOffloads !== null) integer(receiveOffloads, "receiveOffloads", 0, 127)
  return {
    version: 1,
    mac: bytes(saved.mac, "mac", MAC_BYTES),
    maxQueuePairs,
    queuePairs: integer(saved.queuePairs, "queuePairs", 1, maxQueuePairs),
    receiveOffloads: receiveOffloads as number | null,
    filter: {
      modes: Object.fromEntries(
        MODES.map((mode) => [mode, boolean(modes[mode], mode)]),
      ) as unknown as ReceiveModes,
      unicast: table(filter.unicast, "unicast"),
      multicast: table(filter.multicast, "multicast"),
      vlans: bytes(filter.vlans, "vlans", 4096 / 8),
    },
  }
}

function table(value: unknown, what: string): MacTable {
  const { entries, overflow } = record(value, what)
  if (!(entries instanceof Uint8Array)) throw wrong(what)
  if (entries.length % MAC_BYTES !== 0 || entries.length > MAX_MAC_ENTRIES * MAC_BYTES) throw wrong(what)
  return { entries: entries.slice(), overflow: boolean(overflow, what) }
}

function record(value: unknown, what: string): Record<string, unknown> {
  if (typeof value !== "object" || value === null) throw wrong(what)
  return value as Record<string, unknown>
}

function bytes(value: unknown, what: string, length: number): Uint8Array {
  if (!(value instanceof Uint8Array) || value.length !== length) throw wrong(what)
  return value.slice()
}

function boolean(value: unknown, what: string): boolean {
  if (typeof value !== "boolean") throw wrong(what)
  return value
}

function integer(value: unknown, what: string, least: number, most: number): number {
  if (!Number.isInteger(value) || (value as number) < least || (value as number) > most) throw wrong(what)
  return value as number
}

function wrong(what: string): RestoreError {
  return new RestoreError(`network device state: ${what} is wrong`)
}
