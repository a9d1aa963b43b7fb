import { ConfigError } from "@virtkit/interface"
import type { NetBackend } from "./backend.js"
import type { DgramBackendOptions } from "./backends/dgram.js"
import type { PasstBackendOptions } from "./backends/passt.js"
import type { StreamBackendOptions } from "./backends/stream.js"
import type { TapByDescriptor, TapByName } from "./backends/tap-open.js"
import { type CaptureFile, captureFile } from "./capture.js"
import { DUPLEX_FULL, DUPLEX_HALF, DUPLEX_UNKNOWN, SPEED_UNKNOWN } from "./constants.js"
import { NetDevice } from "./device.js"
import { parseMac, randomMac } from "./mac.js"
import { OFFLOAD_ALL } from "./offloads.js"
import { checkRateLimit, type RateLimit } from "./rate.js"

export type { NetBackend, NetBackendInfo, NetSession, ReceiveBuffers, TransmitFrame } from "./backend.js"
export { loopbackBackend } from "./backends/loopback.js"
export { nullBackend } from "./backends/null.js"
export type { TapByDescriptor, TapByName } from "./backends/tap-open.js"
export { type Capture, type CaptureFile, type CaptureFileOptions, captureFile } from "./capture.js"
export type { NetCounters, NetQueueCounters } from "./counters.js"
export type { NetDevice, NetEvents } from "./device.js"
export type { MacTable, ReceiveModes } from "./filter.js"
export type { NetHeader } from "./header.js"
export {
  OFFLOAD_ALL,
  OFFLOAD_CSUM,
  OFFLOAD_ECN,
  OFFLOAD_TSO4,
  OFFLOAD_TSO6,
  OFFLOAD_UFO,
  OFFLOAD_USO4,
  OFFLOAD_USO6,
} from "./offloads.js"
export type { RateLimit } from "./rate.js"
export type { FilterState, NetState } from "./state.js"

export interface NetCommonOptions {
  /** For messages. Default "net". */
  name?: string
  /** Such as "52:54:00:12:34:56". Default: a random one. */
  mac?: string
  /** Bytes of an IP packet, 68 to 65535: offered to the guest. Default: what the backend says, if anything. */
  mtu?: number
  /** Pairs of queues, 1 to 16, as far as the backend can; one for each CPU of the guest is best. Default 1. */
  queues?: number
  /** Largest size of each receive and transmit queue: a power of two from 64 to 1024. Default 256. */
  queueSize?: number
  /** False: offer no checksum and no segmentation offload, though the backend could. Default true. */
  offloads?: boolean
  /** Shown to the guest: Mbit/s, and whether it can send and receive at once. Default: unknown. */
  speed?: number
  duplex?: "full" | "half"
  /** File for a capture of all frames, in pcapng format; it is emptied first. Closed with the device. */
  capture?: string
  /** What the guest may receive and transmit. Default: no limits. */
  limits?: { readonly receive?: RateLimit; readonly transmit?: RateLimit }
}

export interface NetBackendOptions extends NetCommonOptions {
  /** Owned by the device from now on. */
  backend: NetBackend
}

export interface NetTapOptions extends NetCommonOptions {
  /** Name of a TAP interface, or more about it. Offered offloads are those of the kernel. */
  tap: string | TapByName | TapByDescriptor
}

export interface NetPasstOptions extends NetCommonOptions {
  /** User-mode networking, without privilege. */
  passt: PasstBackendOptions | true
}

export interface NetSocketOptions extends NetCommonOptions {
  /** One wire to another virtual machine, of virtkit or QEMU. */
  socket: StreamBackendOptions | DgramBackendOptions
}

export type NetOptions = NetBackendOptions | NetTapOptions | NetPasstOptions | NetSocketOptions

/** Makes a virtio network device. Throws ConfigError, or SystemError when the host fails. */
export async function net(options: NetOptions): Promise<NetDevice> {
  const { name = "net", queues = 1, queueSize = 256, mtu, limits = {} } = options
  const mac = options.mac === undefined ? randomMac() : parseMac(options.mac)
  if (!Number.isInteger(queues) || queues < 1 || queues > 16) {
    throw new ConfigError(`network device ${name} can have 1 to 16 pairs of queues, not ${queues}`)
  }
  if (!Number.isInteger(Math.log2(queueSize)) || queueSize < 64 || queueSize > 1024) {
    throw new ConfigError(
      `queue size of network device ${name} must be a power of two from 64 to 1024, not ${queueSize}`,
    )
  }
  if (mtu !== undefined && (!Number.isInteger(mtu) || mtu < 68 || mtu > 65535)) {
    throw new ConfigError(`mtu of network device ${name} must be from 68 to 65535, not ${mtu}`)
  }
  const { speed = SPEED_UNKNOWN, duplex } = options
  if (speed !== SPEED_UNKNOWN && (!Number.isInteger(speed) || speed < 0 || speed > 0x7fff_ffff)) {
    throw new ConfigError(`speed of network device ${name} must be in Mbit/s, not ${speed}`)
  }
  if (limits.receive !== undefined) checkRateLimit(`receive limit of ${name}`, limits.receive)
  if (limits.transmit !== undefined) checkRateLimit(`transmit limit of ${name}`, limits.transmit)
  const backend = await openBackend(options, queues)
  if (queues > backend.info.maxQueuePairs) {
    await backend.close()
    throw new ConfigError(
      `network device ${name}: ${backend.info.description} has at most ${backend.info.maxQueuePairs} pairs of queues, not ${queues}`,
    )
  }
  const capture = await openCapture(options.capture, name, backend)
  return new NetDevice({
    name,
    capture,
    backend,
    queueSize,
    offloads: options.offloads === false ? 0 : OFFLOAD_ALL,
    receiveLimit: limits.receive,
    transmitLimit: limits.transmit,
    config: {
      mac,
      queuePairs: queues,
      mtu: mtu ?? backend.info.mtu,
      speed,
      duplex: duplex === "full" ? DUPLEX_FULL : duplex === "half" ? DUPLEX_HALF : DUPLEX_UNKNOWN,
    },
  })
}

/** What needs the addon or child processes is loaded only when it is asked for. */
async function openBackend(options: NetOptions, queues: number): Promise<NetBackend> {
  if ("backend" in options) return options.backend
  if ("passt" in options) {
    const { passtBackend } = await import("./backends/passt.js")
    return passtBackend(options.passt === true ? {} : options.passt)
  }
  if ("socket" in options) {
    const { socket } = options
    if ("local" in socket) return (await import("./backends/dgram.js")).dgramBackend(socket)
    return (await import("./backends/stream.js")).streamBackend(socket)
  }
  const { tap } = options
  const { tapBackend } = await import("./backends/tap.js")
  return tapBackend({ ...(typeof tap === "string" ? { name: tap } : tap), queues })
}

async function openCapture(
  path: string | undefined,
  name: string,
  backend: NetBackend,
): Promise<CaptureFile | undefined> {
  if (path === undefined) return undefined
  try {
    return await captureFile({ path, name })
  } catch (error) {
    await backend.close()
    throw error
  }
}
