import * as protocol from "./constants.js"
import { VhostUserError } from "./error.js"
import type { Request } from "./message.js"

/** Pure parsers of payloads. Whatever they read, they throw {@link VhostUserError} or return what is in bounds. */

/** "A vring state description". */
export interface VringState {
  readonly index: number
  readonly num: number
}

/** "A vring address description". Addresses are the front end's own ("user"), except `log`, a guest physical one. */
export interface VringAddresses {
  readonly index: number
  readonly flags: number
  readonly desc: number
  readonly avail: number
  readonly used: number
  readonly log: number
}

/** "Memory region description": `size` bytes that front end and guest know by different addresses. */
export interface RegionDescription {
  readonly guestAddress: number
  readonly size: number
  readonly userAddress: number
  /** Where the region starts in the file whose descriptor came along. */
  readonly fileOffset: number
}

/** A range of bytes in a file whose descriptor comes along. */
export interface FileRange {
  readonly size: number
  readonly offset: number
}

/** "Inflight description". */
export interface InflightDescription extends FileRange {
  readonly numQueues: number
  readonly queueSize: number
}

/** Payload of SET_VRING_KICK, CALL and ERR. */
export interface VringFd {
  readonly index: number
  readonly fd: number | undefined
}

export interface ConfigRange {
  readonly offset: number
  readonly size: number
  /** Of SET_CONFIG: what to write, `size` bytes. */
  readonly data: Uint8Array
}

/** A 64-bit field that has to be below 2^53, as every address and size of a process is. */
function number(request: Request, offset: number, what: string): number {
  const high = request.payload.getUint32(offset + 4, true)
  if (high >= 0x20_0000) throw new VhostUserError(`${request.name}: ${what} is above 2^53`)
  return high * 0x1_0000_0000 + request.payload.getUint32(offset, true)
}

export function parseU64(request: Request): bigint {
  return request.payload.getBigUint64(0, true)
}

/** `queues`: how many the device has. */
export function parseVringState(request: Request, queues: number): VringState {
  const index = request.payload.getUint32(0, true)
  return { index: checkIndex(request, index, queues), num: request.payload.getUint32(4, true) }
}

export function parseVringAddresses(request: Request, queues: number): VringAddresses {
  const index = checkIndex(request, request.payload.getUint32(0, true), queues)
  const flags = request.payload.getUint32(4, true)
  if ((flags & ~protocol.VHOST_VRING_F_LOG) !== 0) {
    throw new VhostUserError(`${request.name}: unknown flags 0x${flags.toString(16)}`)
  }
  return {
    index,
    flags,
    desc: number(request, 8, "the descriptor table's address"),
    used: number(request, 16, "the used ring's address"),
    avail: number(request, 24, "the available ring's address"),
    log: number(request, 32, "the log address"),
  }
}

export function parseVringFd(request: Request, queues: number): VringFd {
  const value = request.payload.getBigUint64(0, true)
  const known = BigInt(protocol.VRING_INDEX_MASK | protocol.VRING_NOFD_MASK)
  if ((value & ~known) !== 0n) throw new VhostUserError(`${request.name}: unknown bits in the payload`)
  const index = checkIndex(request, Number(value) & protocol.VRING_INDEX_MASK, queues)
  const without = (Number(value) & protocol.VRING_NOFD_MASK) !== 0
  const fd = request.fds[0]
  if (without && fd !== undefined)
    throw new VhostUserError(`${request.name}: a descriptor came along that the payload denies`)
  if (!without && fd === undefined) throw new VhostUserError(`${request.name}: came without its descriptor`)
  return { index, fd }
}

/** SET_MEM_TABLE: a region for each descriptor. Overlaps are for the table of regions to find. */
export function parseMemoryTable(request: Request): RegionDescription[] {
  const { payload, fds, name } = request
  if (payload.byteLength < 8) throw new VhostUserError(`${name}: a payload of ${payload.byteLength} bytes`)
  const count = payload.getUint32(0, true)
  if (count < 1 || count > protocol.VHOST_MEMORY_BASELINE_NREGIONS) {
    throw new VhostUserError(`${name}: ${count} regions, not 1 to ${protocol.VHOST_MEMORY_BASELINE_NREGIONS}`)
  }
  if (payload.byteLength !== 8 + 32 * count) {
    throw new VhostUserError(`${name}: a payload of ${payload.byteLength} bytes with ${count} regions`)
  }
  if (fds.length !== count)
    throw new VhostUserError(`${name}: ${count} regions came with ${fds.length} descriptors`)
  return Array.from({ length: count }, (_, index) => parseRegion(request, 8 + 32 * index))
}

/** ADD_MEM_REG and REM_MEM_REG. */
export function parseSingleRegion(request: Request): RegionDescription {
  return parseRegion(request, 8)
}

function parseRegion(request: Request, offset: number): RegionDescription {
  const region = {
    guestAddress: number(request, offset, "a guest address"),
    size: number(request, offset + 8, "a size"),
    userAddress: number(request, offset + 16, "a user address"),
    fileOffset: number(request, offset + 24, "an offset"),
  }
  const { guestAddress, size, userAddress, fileOffset } = region
  if (size === 0) throw new VhostUserError(`${request.name}: a region of 0 bytes`)
  for (const start of [guestAddress, userAddress, fileOffset]) {
    if (start + size > Number.MAX_SAFE_INTEGER)
      throw new VhostUserError(`${request.name}: a region of ${size} bytes wraps around`)
  }
  return region
}

/** SET_LOG_BASE. */
export function parseLogBase(request: Request): FileRange {
  const range = { size: number(request, 0, "the size"), offset: number(request, 8, "the offset") }
  if (range.size === 0) throw new VhostUserError(`${request.name}: a log of 0 bytes`)
  return range
}

/** GET_INFLIGHT_FD and SET_INFLIGHT_FD. */
export function parseInflight(request: Request, queues: number): InflightDescription {
  const numQueues = request.payload.getUint16(16, true)
  const queueSize = request.payload.getUint16(18, true)
  if (numQueues < 1 || numQueues > queues) {
    throw new VhostUserError(`${request.name}: ${numQueues} queues, the device has ${queues}`)
  }
  if (queueSize < 1 || queueSize > 32768) throw new VhostUserError(`${request.name}: queue size ${queueSize}`)
  return {
    size: number(request, 0, "the size"),
    offset: number(request, 8, "the offset"),
    numQueues,
    queueSize,
  }
}

/** GET_CONFIG and SET_CONFIG. */
export function parseConfig(request: Request): ConfigRange {
  const { payload, name } = request
  if (payload.byteLength < 12) throw new VhostUserError(`${name}: a payload of ${payload.byteLength} bytes`)
  const offset = payload.getUint32(0, true)
  const size = payload.getUint32(4, true)
  if (offset + size > protocol.VHOST_USER_MAX_CONFIG_SIZE) {
    throw new VhostUserError(
      `${name}: ${size} bytes at ${offset}, past ${protocol.VHOST_USER_MAX_CONFIG_SIZE}`,
    )
  }
  if (payload.byteLength !== 12 + size) {
    throw new VhostUserError(`${name}: a payload of ${payload.byteLength} bytes for ${size} bytes`)
  }
  return { offset, size, data: new Uint8Array(payload.buffer, payload.byteOffset + 12, size) }
}

function checkIndex(request: Request, index: number, queues: number): number {
  if (index >= queues) throw new VhostUserError(`${request.name}: queue ${index}, the device has ${queues}`)
  return index
}
