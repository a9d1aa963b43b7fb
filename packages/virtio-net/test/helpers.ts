import { mmapMemory } from "@virtkit/memory/mmap"
import {
  type ChainLayout,
  DeviceHarness,
  type DeviceHarnessOptions,
  type DriverChain,
  TestMemory,
  until,
} from "@virtkit/testkit"
import { type NetBackend, type NetDevice, type NetOptions, type NetSession, net } from "@virtkit/virtio-net"
import { createQueue } from "@virtkit/virtqueue"

// Written from virtio 1.3, section 5.1, not from the package's constants.
const bit = (n: number) => 1n << BigInt(n)
export const F = {
  CSUM: bit(0),
  GUEST_CSUM: bit(1),
  CTRL_GUEST_OFFLOADS: bit(2),
  MTU: bit(3),
  MAC: bit(5),
  GUEST_TSO4: bit(7),
  GUEST_TSO6: bit(8),
  HOST_TSO4: bit(11),
  HOST_UFO: bit(14),
  MRG_RXBUF: bit(15),
  STATUS: bit(16),
  CTRL_VQ: bit(17),
  CTRL_RX: bit(18),
  CTRL_VLAN: bit(19),
  GUEST_ANNOUNCE: bit(21),
  MQ: bit(22),
  CTRL_MAC_ADDR: bit(23),
  INDIRECT: bit(28),
  VERSION_1: bit(32),
}
export const RX = 0
export const TX = 1
export const HEADER = 12
export const OK = 0
export const ERR = 1
export const GUEST_MAC = "52:54:00:00:00:01"
export const HOST_MAC = "52:54:00:00:00:02"

/** Test memory that system calls can use. Freed when the process ends. */
export class MappedTestMemory extends TestMemory {
  override readonly regions: TestMemory["regions"]
  readonly #mapped: ReturnType<typeof mmapMemory>

  constructor(size: number) {
    super({ regions: [] })
    this.#mapped = mmapMemory(size)
    this.regions = this.#mapped.regions
  }

  override hostAddress(address: number, length: number): number {
    return this.#mapped.hostAddress(address, length)
  }
}

export interface HeaderFields {
  flags?: number
  gsoType?: number
  hdrLen?: number
  gsoSize?: number
  csumStart?: number
  csumOffset?: number
}

/** struct virtio_net_hdr of a transmitted frame. */
export function header(fields: HeaderFields = {}): Uint8Array {
  const bytes = new Uint8Array(HEADER)
  const view = new DataView(bytes.buffer)
  view.setUint8(0, fields.flags ?? 0)
  view.setUint8(1, fields.gsoType ?? 0)
  view.setUint16(2, fields.hdrLen ?? 0, true)
  view.setUint16(4, fields.gsoSize ?? 0, true)
  view.setUint16(6, fields.csumStart ?? 0, true)
  view.setUint16(8, fields.csumOffset ?? 0, true)
  return bytes
}

export const macBytes = (mac: string) => Uint8Array.from(mac.split(":"), (byte) => Number.parseInt(byte, 16))

/** An Ethernet frame of `length` bytes whose payload follows from `seed`; of the type for experiments. */
export function frame(
  length = 60,
  seed = 1,
  options: { to?: string; from?: string; vlan?: number } = {},
): Uint8Array {
  const bytes = Uint8Array.from({ length }, (_, i) => (i * 7 + seed) & 0xff)
  bytes.set(macBytes(options.to ?? GUEST_MAC), 0)
  bytes.set(macBytes(options.from ?? HOST_MAC), 6)
  bytes.set(options.vlan === undefined ? [0x88, 0xb5] : [0x81, 0, options.vlan >> 8, options.vlan & 0xff], 12)
  return bytes
}

/** A backend that keeps what the guest sends, and has the session at hand. */
export function recorder(info: Partial<NetBackend["info"]> = {}) {
  const backend = {
    info: {
      description: "recorder",
      maxQueuePairs: 4,
      transmitOffloads: 127,
      receiveOffloads: 127,
      linkUp: true,
      ...info,
    },
    frames: [] as { pair: number; bytes: Uint8Array; flags: number; gsoType: number; hdrLen: number }[],
    session: undefined as NetSession | undefined,
    offloads: -1,
    pairs: 1,
    commits: 0,
    stops: 0,
    closes: 0,
    ready: [] as number[],
    /** Frames that it still takes. */
    room: Number.POSITIVE_INFINITY,
    start(session: NetSession, offloads: number) {
      this.session = session
      this.offloads = offloads
    },
    stop() {
      this.stops++
    },
    transmit(pair: number, sent: Parameters<NetBackend["transmit"]>[1]) {
      if (this.room === 0) return false
      this.room--
      const bytes = new Uint8Array(sent.byteLength)
      sent.copyTo(bytes)
      const { flags, gsoType, hdrLen } = sent.header
      this.frames.push({ pair, bytes, flags, gsoType, hdrLen })
      return true
    },
    commit() {
      this.commits++
    },
    receiveReady(pair: number) {
      this.ready.push(pair)
    },
    setQueuePairs(pairs: number) {
      this.pairs = pairs
    },
    setOffloads(offloads: number) {
      this.offloads = offloads
    },
    async close() {
      this.closes++
    },
  }
  return backend satisfies NetBackend
}

/** A device with a driver. */
export class Nic {
  readonly device: NetDevice
  readonly harness: DeviceHarness

  constructor(device: NetDevice, options: Partial<DeviceHarnessOptions> = {}) {
    this.device = device
    this.harness = new DeviceHarness({ device, createQueue, ...options })
  }

  get control(): number {
    return this.harness.queues.length - 1
  }

  /** Offers receive buffers and kicks. */
  post(sizes: readonly (readonly number[])[], queue = RX, layout: ChainLayout = "direct"): DriverChain[] {
    const chains = sizes.map((writable) => this.harness.ring(queue).add({ writable, layout }))
    this.harness.kick(queue)
    return chains
  }

  /** Sends frames, each a list of readable buffers; resolves when the chains came back. */
  async send(
    frames: readonly (readonly Uint8Array[])[],
    queue = TX,
    layout: ChainLayout = "indirect",
  ): Promise<DriverChain[]> {
    const ring = this.harness.ring(queue)
    const chains = frames.map((readable) => ring.add({ readable, layout }))
    this.harness.kick(queue)
    await until(() => {
      ring.reap()
      return chains.every((chain) => chain.written !== undefined)
    }, "transmitted frames")
    return chains
  }

  /** A command; returns the answer. */
  async command(kind: number, command: number, data: Uint8Array | number[] = [], queue = this.control) {
    const chain = await this.harness.request(queue, {
      readable: [Uint8Array.of(kind, command), Uint8Array.from(data)],
      writable: [1],
      layout: "indirect",
    })
    return chain.data![0]!
  }
}

/** A started device. */
export async function nic(
  options: Partial<NetOptions> & { backend: NetBackend },
  harness: Partial<DeviceHarnessOptions> = {},
): Promise<Nic> {
  const made = new Nic(await net({ mac: GUEST_MAC, ...options }), harness)
  made.harness.start()
  return made
}

/** Header and frame of a received chain. */
export function received(chain: DriverChain): { head: DataView; bytes: Uint8Array } {
  const data = chain.data!.subarray(0, chain.written)
  return {
    head: new DataView(data.buffer, data.byteOffset, HEADER),
    bytes: data.subarray(HEADER),
  }
}

export const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
