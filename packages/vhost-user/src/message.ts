import * as protocol from "./constants.js"
import { VhostUserError } from "./error.js"
import { type RequestRule, requestRules } from "./requests.js"

/** What comes before the payload of every message; all fields 32 bits, little-endian. */
export interface Header {
  readonly request: number
  readonly flags: number
  /** Bytes of the payload. */
  readonly size: number
}

/** A request of the front end, checked: its payload has a size that the request can have. */
export interface Request {
  readonly code: number
  /** For messages to people, such as "SET_FEATURES". */
  readonly name: string
  readonly needsReply: boolean
  readonly payload: DataView
  /** Descriptors that came with it, in order. Those that somebody keeps are -1 afterwards; the others will be closed. */
  readonly fds: number[]
}

/** A message to the other end. */
export interface Reply {
  readonly payload: Uint8Array
  readonly fds?: readonly number[]
}

/** Parses 12 bytes of a message of either end. Throws {@link VhostUserError} for another version of the protocol. */
export function decodeHeader(bytes: Uint8Array): Header {
  const view = new DataView(bytes.buffer, bytes.byteOffset, protocol.HEADER_BYTES)
  const header = {
    request: view.getUint32(0, true),
    flags: view.getUint32(4, true),
    size: view.getUint32(8, true),
  }
  const version = header.flags & protocol.VERSION_MASK
  if (version !== protocol.VHOST_USER_VERSION) {
    throw new VhostUserError(
      `message version ${version}, not ${protocol.VHOST_USER_VERSION}: not vhost-user?`,
    )
  }
  return header
}

/** Parses 12 bytes. Throws {@link VhostUserError} for what cannot be the start of a request. */
export function parseHeader(bytes: Uint8Array): Header {
  const header = decodeHeader(bytes)
  if ((header.flags & protocol.FLAG_REPLY) !== 0) {
    throw new VhostUserError(`${ruleOf(header).name}: a reply where a request is due`)
  }
  // Bounds what is kept of a message that is not there yet.
  if (header.size > protocol.MAX_PAYLOAD_BYTES) {
    throw new VhostUserError(`${ruleOf(header).name}: a payload of ${header.size} bytes`)
  }
  ruleOf(header)
  return header
}

/**
 * Checks number of bytes and of descriptors against what the request can have. Throws {@link VhostUserError}.
 * What the payload says is not looked at.
 */
export function parseRequest(header: Header, payload: Uint8Array, fds: number[]): Request {
  const { name, bytes, fds: allowed } = ruleOf(header)
  const sizes = typeof bytes === "number" ? [bytes] : bytes
  if (sizes !== undefined && !sizes.includes(payload.length)) {
    throw new VhostUserError(`${name}: a payload of ${payload.length} bytes, not ${sizes.join(" or ")}`)
  }
  const [least, most] = allowed ?? [0, 0]
  if (fds.length < least || fds.length > most) {
    const wanted = least === most ? `${least}` : `${least} to ${most}`
    throw new VhostUserError(`${name}: came with ${fds.length} descriptors, not ${wanted}`)
  }
  return {
    code: header.request,
    name,
    needsReply: (header.flags & protocol.FLAG_NEED_REPLY) !== 0,
    payload: new DataView(payload.buffer, payload.byteOffset, payload.length),
    fds,
  }
}

function ruleOf({ request }: Header): RequestRule {
  const rule = requestRules.get(request)
  if (rule === undefined) throw new VhostUserError(`request ${request} is not known or not supported`)
  return rule
}

/** The protocol feature without which a request must not come, as a mask; 0 if there is none. */
export function neededFeature(request: number): bigint {
  return requestRules.get(request)?.needs ?? 0n
}

/** A whole message, header included. `flags` beside the version: `FLAG_REPLY` for an answer. */
export function encodeMessage(request: number, flags: number, payload: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(protocol.HEADER_BYTES + payload.length)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, request, true)
  view.setUint32(4, flags | protocol.VHOST_USER_VERSION, true)
  view.setUint32(8, payload.length, true)
  bytes.set(payload, protocol.HEADER_BYTES)
  return bytes
}

/** The payload of most answers. */
export function u64(value: bigint): Uint8Array {
  const bytes = new Uint8Array(8)
  new DataView(bytes.buffer).setBigUint64(0, value, true)
  return bytes
}
