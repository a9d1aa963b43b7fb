import * as protocol from "./constants.js"

/** What a request may look like before its payload is read. */
export interface RequestRule {
  readonly name: string
  /** Sizes of payload that it can have; undefined where the payload says itself, and its parser checks. */
  readonly bytes: number | readonly number[] | undefined
  /** Fewest and most descriptors; absent: none. */
  readonly fds?: readonly [least: number, most: number]
  /** Protocol feature that has to be negotiated. */
  readonly needs?: bigint
}

const ONE: readonly [number, number] = [1, 1]
/** A descriptor, unless the payload says that there is none. */
const PERHAPS: readonly [number, number] = [0, 1]

/** Every request that is understood, by its number. */
export const requestRules: ReadonlyMap<number, RequestRule> = new Map<number, RequestRule>([
  [protocol.VHOST_USER_GET_FEATURES, { name: "GET_FEATURES", bytes: 0 }],
  [protocol.VHOST_USER_SET_FEATURES, { name: "SET_FEATURES", bytes: 8 }],
  [protocol.VHOST_USER_SET_OWNER, { name: "SET_OWNER", bytes: 0 }],
  [protocol.VHOST_USER_RESET_OWNER, { name: "RESET_OWNER", bytes: 0 }],
  [
    protocol.VHOST_USER_SET_MEM_TABLE,
    {
      name: "SET_MEM_TABLE",
      bytes: undefined,
      fds: [1, protocol.VHOST_MEMORY_BASELINE_NREGIONS],
    },
  ],
  [
    protocol.VHOST_USER_SET_LOG_BASE,
    { name: "SET_LOG_BASE", bytes: 16, fds: ONE, needs: protocol.VHOST_USER_PROTOCOL_F_LOG_SHMFD },
  ],
  [protocol.VHOST_USER_SET_LOG_FD, { name: "SET_LOG_FD", bytes: [0, 8], fds: ONE }],
  [protocol.VHOST_USER_SET_VRING_NUM, { name: "SET_VRING_NUM", bytes: 8 }],
  [protocol.VHOST_USER_SET_VRING_ADDR, { name: "SET_VRING_ADDR", bytes: 40 }],
  [protocol.VHOST_USER_SET_VRING_BASE, { name: "SET_VRING_BASE", bytes: 8 }],
  [protocol.VHOST_USER_GET_VRING_BASE, { name: "GET_VRING_BASE", bytes: 8 }],
  [protocol.VHOST_USER_SET_VRING_KICK, { name: "SET_VRING_KICK", bytes: 8, fds: PERHAPS }],
  [protocol.VHOST_USER_SET_VRING_CALL, { name: "SET_VRING_CALL", bytes: 8, fds: PERHAPS }],
  [protocol.VHOST_USER_SET_VRING_ERR, { name: "SET_VRING_ERR", bytes: 8, fds: PERHAPS }],
  [protocol.VHOST_USER_GET_PROTOCOL_FEATURES, { name: "GET_PROTOCOL_FEATURES", bytes: 0 }],
  [protocol.VHOST_USER_SET_PROTOCOL_FEATURES, { name: "SET_PROTOCOL_FEATURES", bytes: 8 }],
  [
    protocol.VHOST_USER_GET_QUEUE_NUM,
    { name: "GET_QUEUE_NUM", bytes: 0, needs: protocol.VHOST_USER_PROTOCOL_F_MQ },
  ],
  [protocol.VHOST_USER_SET_VRING_ENABLE, { name: "SET_VRING_ENABLE", bytes: 8 }],
  [
    protocol.VHOST_USER_SET_BACKEND_REQ_FD,
    {
      name: "SET_BACKEND_REQ_FD",
      bytes: [0, 8],
      fds: ONE,
      needs: protocol.VHOST_USER_PROTOCOL_F_BACKEND_REQ,
    },
  ],
  [
    protocol.VHOST_USER_GET_CONFIG,
    { name: "GET_CONFIG", bytes: undefined, needs: protocol.VHOST_USER_PROTOCOL_F_CONFIG },
  ],
  [
    protocol.VHOST_USER_SET_CONFIG,
    { name: "SET_CONFIG", bytes: undefined, needs: protocol.VHOST_USER_PROTOCOL_F_CONFIG },
  ],
  // 20 bytes of fields, which a C compiler makes 24.
  [
    protocol.VHOST_USER_GET_INFLIGHT_FD,
    { name: "GET_INFLIGHT_FD", bytes: [20, 24], needs: protocol.VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD },
  ],
  [
    protocol.VHOST_USER_SET_INFLIGHT_FD,
    {
      name: "SET_INFLIGHT_FD",
      bytes: [20, 24],
      fds: ONE,
      needs: protocol.VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD,
    },
  ],
  [
    protocol.VHOST_USER_RESET_DEVICE,
    { name: "RESET_DEVICE", bytes: 0, needs: protocol.VHOST_USER_PROTOCOL_F_RESET_DEVICE },
  ],
  [
    protocol.VHOST_USER_GET_MAX_MEM_SLOTS,
    {
      name: "GET_MAX_MEM_SLOTS",
      bytes: 0,
      needs: protocol.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS,
    },
  ],
  [
    protocol.VHOST_USER_ADD_MEM_REG,
    {
      name: "ADD_MEM_REG",
      bytes: 40,
      fds: ONE,
      needs: protocol.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS,
    },
  ],
  // Front ends that send a descriptor are not turned away; it is closed.
  [
    protocol.VHOST_USER_REM_MEM_REG,
    {
      name: "REM_MEM_REG",
      bytes: 40,
      fds: PERHAPS,
      needs: protocol.VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS,
    },
  ],
  [
    protocol.VHOST_USER_SET_STATUS,
    { name: "SET_STATUS", bytes: 8, needs: protocol.VHOST_USER_PROTOCOL_F_STATUS },
  ],
  [
    protocol.VHOST_USER_GET_STATUS,
    { name: "GET_STATUS", bytes: 0, needs: protocol.VHOST_USER_PROTOCOL_F_STATUS },
  ],
])
