import { existsSync } from "node:fs"
import { delimiter, join } from "node:path"
import type { NetOptions } from "@virtkit/virtio-net"
import {
  choiceKey,
  countKey,
  escapeWord,
  flagKey,
  type ListOption,
  parseListOption,
  textKey,
} from "./list-option.js"
import { UsageError } from "./usage.js"

type Address = { readonly path: string } | { readonly host?: string; readonly port: number }

/** What the guest's cable is plugged into. */
export type NetLink =
  | { readonly tap: { readonly name: string; readonly create: boolean } }
  | { readonly passt: { readonly tcp: readonly string[]; readonly udp: readonly string[] } }
  | { readonly socket: { readonly listen: Address } | { readonly connect: Address } }

/** One `--net` of the command line, such as `net` of @virtkit/virtio-net takes it. */
export type NetOption = NetLink & {
  readonly mac?: string
  readonly queues?: number
  readonly mtu?: number
  readonly offloads?: boolean
  readonly capture?: string
}

const COMMON_KEYS = ["mac", "mtu", "capture"] as const
const TAP_KEYS = ["queues", "offloads", "create"] as const

/** All `--net` of a command line. Throws {@link UsageError}. */
export function parseNets(texts: readonly string[]): NetOption[] {
  if (texts.includes("none") && texts.length > 1) throw new UsageError("--net none: there are other --net")
  return texts.filter((text) => text !== "none").map(parseNet)
}

/**
 * What a guest has without any `--net`: a user who is not root, and cannot make a network for it, gets passt where it is
 * installed; root, who can, is not guessed for.
 */
export function defaultNets(uid: number, searchPath: string): NetOption[] {
  const installed = searchPath.split(delimiter).some((directory) => existsSync(join(directory, "passt")))
  return uid !== 0 && installed ? [parseNet("passt")] : []
}

/** `tap=IF`, `passt` or `socket`, each with its keys; "none" is for {@link parseNets}. Throws {@link UsageError}. */
export function parseNet(text: string): NetOption {
  const [kind] = text.split(/[=,]/, 1)
  switch (kind) {
    case "tap":
      return parseTap(text)
    case "passt": {
      const list = parseListOption(text, "--net", COMMON_KEYS, ["tcp", "udp"])
      checkName(list, "passt")
      return {
        passt: { tcp: list.lists.get("tcp") ?? [], udp: list.lists.get("udp") ?? [] },
        ...common(list),
      }
    }
    case "socket":
      return parseSocket(text)
    default:
      throw new UsageError(`--net "${text}": it must be tap=IF, passt, socket or none`)
  }
}

function parseTap(text: string): NetOption {
  const list = parseListOption(text, "--net", [...COMMON_KEYS, ...TAP_KEYS])
  const name = list.name.slice("tap=".length)
  if (name === "")
    throw new UsageError(`--net "${text}": tap needs the name of an interface, such as tap=tap0`)
  const queues = countKey(list, "--net", "queues")
  const offloads = choiceKey(list, "--net", "offloads", ["on", "off"])
  return {
    tap: { name, create: flagKey(list, "--net", "create") },
    ...common(list),
    ...(queues === undefined ? {} : { queues }),
    ...(offloads === undefined ? {} : { offloads: offloads === "on" }),
  }
}

function parseSocket(text: string): NetOption {
  const list = parseListOption(text, "--net", [...COMMON_KEYS, "listen", "connect"])
  checkName(list, "socket")
  const listen = textKey(list, "--net", "listen")
  const connect = textKey(list, "--net", "connect")
  if ((listen === undefined) === (connect === undefined))
    throw new UsageError(`--net "${text}": socket needs listen=ADDRESS or connect=ADDRESS`)
  const socket =
    listen === undefined
      ? { connect: parseAddress(text, connect ?? "") }
      : { listen: parseAddress(text, listen) }
  return { socket, ...common(list) }
}

/** `/path`, `PORT` or `HOST:PORT`. */
function parseAddress(text: string, address: string): Address {
  if (address.includes("/")) return { path: address }
  const [, host, digits] = /^(?:(.+):)?(\d{1,5})$/.exec(address) ?? []
  const port = Number(digits)
  if (digits === undefined || port < 1 || port > 65535)
    throw new UsageError(`--net "${text}": "${address}" is no path with a "/", no PORT and no HOST:PORT`)
  return host === undefined ? { port } : { host: host.replace(/^\[(.*)\]$/, "$1"), port }
}

function checkName(list: ListOption, name: string): void {
  if (list.name !== name) throw new UsageError(`--net "${list.name}": ${name} takes no value`)
}

function common(list: ListOption): { mac?: string; mtu?: number; capture?: string } {
  const mac = textKey(list, "--net", "mac")
  const mtu = countKey(list, "--net", "mtu")
  const capture = textKey(list, "--net", "capture")
  return {
    ...(mac === undefined ? {} : { mac }),
    ...(mtu === undefined ? {} : { mtu }),
    ...(capture === undefined ? {} : { capture }),
  }
}

/** The text that {@link parseNet} turns into the same option. */
export function formatNet(net: NetOption): string {
  const words: string[] = []
  if ("tap" in net) {
    words.push(`tap=${net.tap.name}`)
    if (net.tap.create) words.push("create")
  } else if ("passt" in net) {
    words.push("passt")
    words.push(
      ...net.passt.tcp.map((ports) => `tcp=${ports}`),
      ...net.passt.udp.map((ports) => `udp=${ports}`),
    )
  } else {
    words.push("socket")
    words.push(
      "listen" in net.socket
        ? `listen=${formatAddress(net.socket.listen)}`
        : `connect=${formatAddress(net.socket.connect)}`,
    )
  }
  if (net.mac !== undefined) words.push(`mac=${net.mac}`)
  if (net.mtu !== undefined) words.push(`mtu=${net.mtu}`)
  if (net.queues !== undefined) words.push(`queues=${net.queues}`)
  if (net.offloads !== undefined) words.push(`offloads=${net.offloads ? "on" : "off"}`)
  if (net.capture !== undefined) words.push(`capture=${net.capture}`)
  return words.map(escapeWord).join(",")
}

function formatAddress(address: Address): string {
  if ("path" in address) return address.path
  const { host, port } = address
  if (host === undefined) return String(port)
  return `${host.includes(":") ? `[${host}]` : host}:${port}`
}

/** What `net` of @virtkit/virtio-net is given. */
export function deviceOptions(net: NetOption, name: string): NetOptions {
  return { ...net, name }
}
