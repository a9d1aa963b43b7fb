import { resolve } from "node:path"
import type { VhostUserOptions } from "@virtkit/vhost-user"
import { choiceKey, countKey, type ListOption, parseListOption, textKey } from "./list-option.js"
import { UsageError } from "./usage.js"

const TYPES = [
  "blk",
  "console",
  "fs",
  "gpio",
  "i2c",
  "input",
  "net",
  "rng",
  "scmi",
  "sound",
  "vsock",
] as const

/** One `--device vhost-user,...` of the command line, such as `vhostUser` of @virtkit/vhost-user takes it. */
export interface DeviceOption {
  readonly type: (typeof TYPES)[number]
  readonly socket: string
  readonly tag?: string
  readonly mac?: string
  readonly queues?: number
  readonly queueSize?: number
  readonly reconnect?: boolean
}

const OPTION = "--device"
const KEYS = ["type", "socket", "tag", "mac", "queues", "queue-size", "reconnect"]

/** Throws {@link UsageError}. */
export function parseDevice(text: string): DeviceOption {
  const list = parseListOption(text, OPTION, KEYS)
  if (list.name !== "vhost-user") throw new UsageError(`${OPTION} "${text}": it must be vhost-user,...`)
  const type = choiceKey(list, OPTION, "type", TYPES)
  const socket = textKey(list, OPTION, "socket")
  if (type === undefined)
    throw new UsageError(`${OPTION} ${list.name}: type is missing, one of ${TYPES.join(", ")}`)
  if (socket === undefined)
    throw new UsageError(`${OPTION} ${list.name}: socket is missing, the path where the back end listens`)
  return { type, socket, ...details(list) }
}

function details(list: ListOption): Omit<DeviceOption, "type" | "socket"> {
  const tag = textKey(list, OPTION, "tag")
  const mac = textKey(list, OPTION, "mac")
  const queues = countKey(list, OPTION, "queues")
  const queueSize = countKey(list, OPTION, "queue-size")
  const reconnect = choiceKey(list, OPTION, "reconnect", ["on", "off"])
  return {
    ...(tag === undefined ? {} : { tag }),
    ...(mac === undefined ? {} : { mac }),
    ...(queues === undefined ? {} : { queues }),
    ...(queueSize === undefined ? {} : { queueSize }),
    ...(reconnect === undefined ? {} : { reconnect: reconnect === "on" }),
  }
}

/** What `vhostUser` is given. */
export function vhostUserOptions(device: DeviceOption, index: number): VhostUserOptions {
  return { ...device, socket: resolve(device.socket), name: `${device.type}${index}` }
}
