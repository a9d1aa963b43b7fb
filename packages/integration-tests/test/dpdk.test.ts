import { spawn } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { serve } from "@virtkit/vhost-user"
import {
  type NetBackend,
  type NetBackendInfo,
  type NetSession,
  net,
  type TransmitFrame,
} from "@virtkit/virtio-net"
import {
  VIRTIO_F_IN_ORDER as IN_ORDER,
  VIRTIO_F_RING_PACKED as PACKED,
  VIRTIO_F_RING_INDIRECT_DESC,
} from "@virtkit/virtqueue"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { testPmd } from "../src/index.js"

const FRAMES = 2000
const WINDOW = 64
const MRG_RXBUF = 1n << 15n
const SPLIT = 0n

const folder = mkdtempSync(join(tmpdir(), "virtkit-dpdk-"))
afterAll(() => rmSync(folder, { recursive: true }))

/** Frame `number`, of 60 to 1514 bytes, to everybody. */
function frame(number: number): Uint8Array {
  const bytes = new Uint8Array(60 + ((number * 37) % 1455))
  for (let index = 0; index < bytes.length; index++) bytes[index] = number * 31 + index * 7
  bytes.fill(0xff, 0, 6)
  new DataView(bytes.buffer).setUint32(16, number)
  return bytes
}

/** Sends numbered frames and compares what comes back. */
class Checker implements NetBackend {
  readonly info: NetBackendInfo = {
    description: "checker",
    maxQueuePairs: 1,
    transmitOffloads: 0,
    receiveOffloads: 0,
    linkUp: true,
  }
  readonly wrong: number[] = []
  came = 0
  readonly done: Promise<void>
  #resolve = (): void => {}
  #begun = false
  #sent = 0
  #session: NetSession | undefined

  constructor() {
    this.done = new Promise((resolve) => {
      this.#resolve = resolve
    })
  }

  start(session: NetSession): void {
    this.#session = session
  }

  /** Both queues are there: what came before would be dropped. */
  begin(): void {
    this.#begun = true
    this.#pump()
  }

  stop(): void {
    this.#session = undefined
  }

  receiveReady(): void {
    this.#pump()
  }

  transmit(_pair: number, returned: TransmitFrame): boolean {
    const bytes = new Uint8Array(returned.byteLength)
    returned.copyTo(bytes)
    if (Buffer.compare(bytes, frame(this.came)) !== 0) this.wrong.push(this.came)
    this.came++
    if (this.came === FRAMES) this.#resolve()
    return true
  }

  commit(): void {
    this.#pump()
  }

  async close(): Promise<void> {}

  #pump(): void {
    while (this.#begun && this.#sent < FRAMES && this.#sent - this.came < WINDOW) {
      if (!this.#session?.receive(0, frame(this.#sent))) break
      this.#sent++
    }
    this.#session?.received(0)
  }
}

describe("DPDK's virtio driver, which knows nothing of Linux's, forwards frames over our rings", () => {
  // The packages are downloaded once.
  beforeAll(() => testPmd("", "").then(() => undefined), 600_000)

  it.each([
    ["buffers that are merged", "mrg_rxbuf=1", SPLIT],
    ["buffers that are not", "mrg_rxbuf=0", SPLIT],
    ["its vector instructions", "mrg_rxbuf=0,vectorized=1", SPLIT],
    ["a split ring in order", "mrg_rxbuf=1,in_order=1", IN_ORDER],
    ["a packed ring", "mrg_rxbuf=1,packed_vq=1", PACKED],
    ["a packed ring, buffers that are not merged", "mrg_rxbuf=0,packed_vq=1", PACKED],
    ["a packed ring in order", "mrg_rxbuf=1,packed_vq=1,in_order=1", PACKED | IN_ORDER],
  ])("with %s", { timeout: 120_000 }, async (_, options, ring) => {
    const checker = new Checker()
    const card = await net({ backend: checker })
    const activations: bigint[] = []
    const activate = card.activate.bind(card)
    card.activate = (context) => {
      activations.push(context.features)
      activate(context)
    }
    const socket = join(folder, "socket")
    const server = serve(card, {
      socket,
      rings: { packed: (ring & PACKED) !== 0n, inOrder: (ring & IN_ORDER) !== 0n },
    })
    server.on("queues", ([receive, transmit]) => {
      if (receive && transmit) checker.begin()
    })
    const reasons: (string | undefined)[] = []
    server.on("disconnected", (reason) => reasons.push(reason))
    const { command, args, env } = await testPmd(socket, options)
    const child = spawn(command, args, { env })
    let said = ""
    child.stdout.on("data", (text: Buffer) => {
      said += text
    })
    child.stderr.on("data", (text: Buffer) => {
      said += text
    })
    const exited = new Promise<number | null>((resolve) => {
      child.once("close", resolve)
    })
    await Promise.race([checker.done, exited])
    child.stdin.end("stop\nquit\n")
    expect(await exited, said).toBe(0)
    await server.close()
    await card.close()
    expect(checker.came, said).toBe(FRAMES)
    expect(checker.wrong).toEqual([])
    expect(said).toContain(`RX-packets: ${FRAMES}`)
    expect(said).toContain(`TX-packets: ${FRAMES}`)
    expect(reasons).toEqual([undefined])
    expect(activations).toHaveLength(1)
    expect((activations[0]! & MRG_RXBUF) !== 0n).toBe(options.includes("mrg_rxbuf=1"))
    expect(activations[0]! & (PACKED | IN_ORDER)).toBe(ring)
    expect(activations[0]! & VIRTIO_F_RING_INDIRECT_DESC).toBe(VIRTIO_F_RING_INDIRECT_DESC)
  })
})
