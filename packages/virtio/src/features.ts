import { ConfigError, type VirtioDevice } from "@virtkit/interface"
import {
  VIRTIO_F_IN_ORDER,
  VIRTIO_F_RING_EVENT_IDX,
  VIRTIO_F_RING_INDIRECT_DESC,
  VIRTIO_F_RING_PACKED,
} from "@virtkit/virtqueue"
import { VIRTIO_F_RING_RESET, VIRTIO_F_VERSION_1 } from "./constants.js"

/** Feature words of 32 bits that there are. */
const WORDS = 4

/**
 * Features of transports and queues: a device cannot know whether they are there. Those that are get offered by the
 * transport.
 */
const NOT_THE_DEVICES: readonly (readonly [name: string, bit: bigint])[] = [
  ["VIRTIO_F_RING_PACKED", 34n],
  ["VIRTIO_F_IN_ORDER", 35n],
  ["VIRTIO_F_SR_IOV", 37n],
  ["VIRTIO_F_NOTIFICATION_DATA", 38n],
  ["VIRTIO_F_NOTIF_CONFIG_DATA", 39n],
  ["VIRTIO_F_RING_RESET", 40n],
  ["VIRTIO_F_ADMIN_VQ", 41n],
]

/** What a transport offers for the rings of any device. A driver need not accept any of it. */
export interface RingOffers {
  /** VIRTIO_F_RING_PACKED. Default false, as in QEMU: drivers take it when it is offered. */
  readonly packed?: boolean
  /** VIRTIO_F_IN_ORDER. Default false: a request that takes long holds up those behind it. */
  readonly inOrder?: boolean
  /** VIRTIO_F_RING_EVENT_IDX. Default true; without, both sides notify each other more often. */
  readonly eventIdx?: boolean
  /** VIRTIO_F_RING_INDIRECT_DESC. Default true; without, each buffer of a request takes a place in the ring. */
  readonly indirect?: boolean
}

/** Those offers as feature bits. */
export function ringOffers(offers: RingOffers): bigint {
  const { packed = false, inOrder = false, eventIdx = true, indirect = true } = offers
  return (
    (packed ? VIRTIO_F_RING_PACKED : 0n) |
    (inOrder ? VIRTIO_F_IN_ORDER : 0n) |
    (eventIdx ? VIRTIO_F_RING_EVENT_IDX : 0n) |
    (indirect ? VIRTIO_F_RING_INDIRECT_DESC : 0n)
  )
}

/** What rings can have, which needs whoever works on them to be able to. */
const RING_FEATURES =
  VIRTIO_F_RING_PACKED | VIRTIO_F_IN_ORDER | VIRTIO_F_RING_EVENT_IDX | VIRTIO_F_RING_INDIRECT_DESC

/** Feature negotiation (virtio 1.3, section 2.2): what is offered, and what the driver wrote so far. */
export class FeatureNegotiation {
  readonly offered: bigint
  readonly #offeredWords: Uint32Array
  readonly #driverWords: Uint32Array = new Uint32Array(WORDS)

  /** `transport`: what it offers by itself, with what the rings can do. Throws {@link ConfigError} for a device that offers what is not its own. */
  constructor(device: VirtioDevice, transport: bigint = 0n) {
    for (const [name, bit] of NOT_THE_DEVICES) {
      if ((device.features & (1n << bit)) !== 0n) {
        throw new ConfigError(`${device.name} offers ${name}, which is for its transport to offer`)
      }
    }
    const reset = device.resetQueue === undefined ? 0n : VIRTIO_F_RING_RESET
    const rings = device.external === undefined ? RING_FEATURES : device.external.ringFeatures
    this.offered = device.features | (transport & (rings | ~RING_FEATURES)) | reset | VIRTIO_F_VERSION_1
    this.#offeredWords = Uint32Array.from({ length: WORDS }, (_, word) => wordOf(this.offered, word))
  }

  /** Word `select` of what is offered; 0 past the last one. */
  offeredWord(select: number): number {
    return this.#offeredWords[select] ?? 0
  }

  /** Writes past the last word are lost. */
  setDriverWord(select: number, value: number): void {
    if (select < WORDS) this.#driverWords[select] = value
  }

  /** Word `select` of what the driver wrote; 0 past the last one. */
  driverWord(select: number): number {
    return this.#driverWords[select] ?? 0
  }

  /** What the driver wrote. */
  get driver(): bigint {
    return this.#driverWords.reduce((sum, word, index) => sum | (BigInt(word) << BigInt(32 * index)), 0n)
  }

  set driver(features: bigint) {
    for (let word = 0; word < WORDS; word++) this.#driverWords[word] = wordOf(features, word)
  }

  /** 2.2.2: no feature that was not offered; and not without VERSION_1, since there is no legacy interface (6.2). */
  get isAcceptable(): boolean {
    return this.isOffered(this.driver) && (this.driver & VIRTIO_F_VERSION_1) !== 0n
  }

  /** Whether the driver wrote bit `number`; no BigInt. */
  driverHas(number: number): boolean {
    return ((this.driverWord(number >>> 5) >>> (number & 31)) & 1) !== 0
  }

  isOffered(features: bigint): boolean {
    return (features & ~this.offered) === 0n
  }
}

function wordOf(features: bigint, word: number): number {
  return Number((features >> BigInt(32 * word)) & 0xffff_ffffn)
}
