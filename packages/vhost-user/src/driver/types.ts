import { ConfigError } from "@virtkit/interface"

/** Kinds of devices that are known by name. */
export type VhostUserType =
  | "blk"
  | "console"
  | "fs"
  | "gpio"
  | "i2c"
  | "input"
  | "net"
  | "rng"
  | "scmi"
  | "sound"
  | "vsock"

/** What a front end has to know of a kind of device beside what the back end says. */
export interface DeviceKind {
  readonly name: string
  /** Virtio device ID (virtio 1.3, section 5). */
  readonly deviceType: number
  /** Bytes of the device configuration space. */
  readonly configBytes: number
  /** Queues with n of those that there can be several of: `perUnit * n + fixed`. Where `perUnit` is 0 there is no choice. */
  readonly perUnit: number
  readonly fixed: number
  /** Default size of queues; no more than what back ends have. */
  readonly queueSize: number
  /** Where the configuration space says how many there are, a 16-bit field; undefined: nowhere. */
  readonly countField?: number
  /** Device features that only a front end could fulfil, and this one does not. */
  readonly without?: bigint
  /** Device features that say that a part of the configuration space is there: without one they are not. */
  readonly needConfig?: bigint
  /** Whether a back end that was started again has all that it needs to know in the rings and the in-flight memory. */
  readonly restartable: boolean
}

const bits = (...numbers: number[]): bigint => numbers.reduce((sum, bit) => sum | (1n << BigInt(bit)), 0n)

const QUEUE_SIZE = 128
const fixed = (deviceType: number, queues: number, configBytes: number) => ({
  deviceType,
  configBytes,
  perUnit: 0,
  fixed: queues,
  queueSize: 64,
})

/** Section 5 of virtio 1.3; where back ends differ from it, what they do. */
const KINDS: { readonly [type in VhostUserType]: Omit<DeviceKind, "name"> } = {
  // CTRL_VQ (17) and what is said by that queue: what is left of it is the front end's own.
  net: {
    deviceType: 1,
    configBytes: 12,
    perUnit: 2,
    fixed: 0,
    queueSize: 256,
    countField: 8,
    needConfig: bits(3, 5, 16, 63),
    without: bits(2, 17, 18, 19, 20, 21, 22, 23, 57, 60),
    restartable: true,
  },
  blk: {
    deviceType: 2,
    configBytes: 60,
    perUnit: 1,
    fixed: 0,
    queueSize: QUEUE_SIZE,
    countField: 34,
    restartable: true,
  },
  // MULTIPORT (1): the queue that ports are said by has to know them all.
  console: { ...fixed(3, 2, 12), without: bits(1), needConfig: bits(0), restartable: true },
  rng: { ...fixed(4, 1, 0), restartable: true },
  input: { ...fixed(18, 2, 136), restartable: true },
  vsock: { ...fixed(19, 3, 8), queueSize: QUEUE_SIZE, restartable: false },
  sound: { ...fixed(25, 4, 12), restartable: false },
  // A notification queue (feature 0) is a queue more, which nobody serves. What files are open is in the back end's memory.
  fs: {
    deviceType: 26,
    configBytes: 40,
    perUnit: 1,
    fixed: 1,
    queueSize: QUEUE_SIZE,
    without: bits(0),
    restartable: false,
  },
  scmi: { ...fixed(32, 2, 0), restartable: false },
  i2c: { ...fixed(34, 1, 0), restartable: true },
  gpio: { ...fixed(41, 2, 8), restartable: true },
}

export const vhostUserTypes: readonly VhostUserType[] = Object.keys(KINDS).sort() as VhostUserType[]

/** A kind of device that is not known by name. */
export interface OtherDevice {
  /** Virtio device ID. */
  readonly deviceType: number
  /** How many it has, all of them. */
  readonly queues: number
  /** Bytes of its configuration space, which the back end then has. Default 0. */
  readonly configBytes?: number
}

/** Throws {@link ConfigError}. */
export function kindOf(type: VhostUserType | OtherDevice): DeviceKind {
  if (typeof type === "string") {
    const kind = Object.hasOwn(KINDS, type) ? KINDS[type] : undefined
    if (kind === undefined) {
      throw new ConfigError(`vhost-user type "${type}" is not known, give ${vhostUserTypes.join(", ")}`)
    }
    return { name: type, ...kind }
  }
  const { deviceType, queues, configBytes = 0 } = type
  checkNumber("deviceType", deviceType, 1, 63)
  checkNumber("queues", queues, 1, MAX_QUEUES)
  checkNumber("configBytes", configBytes, 0, MAX_CONFIG_BYTES)
  return { name: `virtio${deviceType}`, ...fixed(deviceType, queues, configBytes), restartable: false }
}

/** As many as SET_VRING_KICK can name. */
export const MAX_QUEUES = 256
/** What one GET_CONFIG can carry. */
const MAX_CONFIG_BYTES = 256

export function checkNumber(name: string, value: number, least: number, most: number): void {
  if (!Number.isInteger(value) || value < least || value > most)
    throw new ConfigError(`vhost-user: ${name} is ${value}, it must be a number from ${least} to ${most}`)
}
