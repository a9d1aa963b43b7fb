import { ConfigError } from "@virtkit/interface"
import { isQueueSize } from "@virtkit/virtqueue"
import {
  checkNumber,
  type DeviceKind,
  kindOf,
  MAX_QUEUES,
  type OtherDevice,
  type VhostUserType,
} from "./types.js"

export interface VhostUserOptions {
  /** What the back end is. */
  readonly type: VhostUserType | OtherDevice
  /** Path of the Unix socket that the back end listens on. */
  readonly socket: string
  /** For messages; default: the type. */
  readonly name?: string
  /** Of "fs": the name by which the guest mounts it, 1 to 36 bytes. */
  readonly tag?: string
  /** Of "net": the card's address, "52:54:00:12:34:56" say. Default: what the back end says, or the guest chooses. */
  readonly mac?: string
  /**
   * How many queues requests go through, for "blk" and "fs"; of "net", pairs of queues. Default: for "blk" as many as the back
   * end says, else 1.
   */
  readonly queues?: number
  /** Largest size of each queue, a power of two. Default 64 to 256, by type. */
  readonly queueSize?: number
  /**
   * Whether to wait for the back end to come back when it has gone, and to go on with it then. Default: where the type makes it
   * possible. Else the device needs a reset by the guest, which connects again.
   */
  readonly reconnect?: boolean
  /** How long the back end may take for an answer, in ms. Default 30000. */
  readonly timeoutMs?: number
}

/** The options with their defaults, checked. */
export interface VhostUserSettings {
  readonly kind: DeviceKind
  readonly socket: string
  readonly name: string
  readonly tag: Uint8Array | undefined
  readonly mac: Uint8Array | undefined
  /** Of those that there can be several of. Undefined: as many as the back end says. */
  readonly units: number | undefined
  readonly queueSize: number
  readonly reconnect: boolean
  readonly timeoutMs: number
}

const TAG_BYTES = 36

/** Throws {@link ConfigError}. */
export function checkVhostUserOptions(options: VhostUserOptions): VhostUserSettings {
  const kind = kindOf(options.type)
  const { socket, name = kind.name, queueSize = kind.queueSize, timeoutMs = 30_000 } = options
  if (typeof socket !== "string" || socket === "") {
    throw new ConfigError("vhost-user needs the path of the back end's socket")
  }
  if (!isQueueSize(queueSize))
    throw new ConfigError(`vhost-user: queueSize ${queueSize} is not a power of two`)
  checkNumber("timeoutMs", timeoutMs, 1, 2 ** 31 - 1)
  return {
    kind,
    socket,
    name,
    tag: checkTag(kind, options.tag),
    mac: checkMac(kind, options.mac),
    units: checkUnits(kind, options.queues),
    queueSize,
    reconnect: options.reconnect ?? kind.restartable,
    timeoutMs,
  }
}

function checkTag(kind: DeviceKind, tag: string | undefined): Uint8Array | undefined {
  if (kind.name !== "fs") {
    if (tag !== undefined) throw new ConfigError(`vhost-user: a tag is for "fs", not for "${kind.name}"`)
    return undefined
  }
  const bytes = new TextEncoder().encode(tag ?? "")
  if (bytes.length < 1 || bytes.length > TAG_BYTES || bytes.includes(0)) {
    throw new ConfigError(
      `vhost-user: "fs" needs a tag of 1 to ${TAG_BYTES} bytes, which the guest mounts it by`,
    )
  }
  return bytes
}

function checkMac(kind: DeviceKind, mac: string | undefined): Uint8Array | undefined {
  if (mac === undefined) return undefined
  if (kind.name !== "net") throw new ConfigError(`vhost-user: a mac is for "net", not for "${kind.name}"`)
  const bytes = mac.split(":").map((byte) => (/^[0-9a-f]{2}$/i.test(byte) ? Number.parseInt(byte, 16) : -1))
  if (bytes.length !== 6 || bytes.includes(-1) || (bytes[0]! & 1) !== 0) {
    throw new ConfigError(`vhost-user: mac "${mac}" is not one of a card, such as 52:54:00:12:34:56`)
  }
  return Uint8Array.from(bytes)
}

function checkUnits(kind: DeviceKind, queues: number | undefined): number | undefined {
  if (queues === undefined) return kind.countField === undefined || kind.name === "net" ? 1 : undefined
  const most = kind.perUnit === 0 ? 1 : Math.floor((MAX_QUEUES - kind.fixed) / kind.perUnit)
  checkNumber(`queues of "${kind.name}"`, queues, 1, most)
  return queues
}
