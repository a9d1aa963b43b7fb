import { VhostUserError } from "../error.js"
import { completeConfig, configIs } from "./config-space.js"
import type { VhostUserSettings } from "./options.js"
import type { BackEndSession } from "./session.js"

/** What a device has, of which back end and options each know a part. */
export interface DeviceLayout {
  /** The configuration space as the driver reads it. */
  readonly config: Uint8Array
  /** How many there are of those queues that there can be several of; of a card, pairs. */
  readonly units: number
  /** Queues that the back end works on. */
  readonly queues: number
}

/** Throws {@link VhostUserError} for a back end that has too little. */
export async function layOut(settings: VhostUserSettings, session: BackEndSession): Promise<DeviceLayout> {
  const { kind } = settings
  const config = new Uint8Array(kind.configBytes)
  const { theirs, needed } = configIs(settings)
  if (theirs && session.hasConfig) await session.readConfig(config)
  else if (needed) throw new VhostUserError("it has no configuration space (CONFIG)")
  const units = settings.units ?? unitsOf(settings, session, config)
  const queues = kind.perUnit * units + kind.fixed
  // Back ends of cards count pairs.
  const counted = kind.name === "net" ? units : queues
  if (counted > session.queueCount) {
    throw new VhostUserError(`it has ${session.queueCount} queues, not ${counted}`)
  }
  completeConfig(config, settings, units)
  return { config, units, queues }
}

/** As many as the configuration space and the number of queues say. */
function unitsOf({ kind }: VhostUserSettings, session: BackEndSession, config: Uint8Array): number {
  if (kind.countField === undefined || kind.perUnit === 0) return 1
  const said = new DataView(config.buffer).getUint16(kind.countField, true)
  const most = Math.floor((session.queueCount - kind.fixed) / kind.perUnit)
  return Math.max(1, Math.min(said, most))
}
