import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Worker } from "node:worker_threads"
import type { GuestMemory } from "@virtkit/interface"
import { type DriverChain, FakeInterrupt, FEATURE, MmioDriver, until } from "@virtkit/testkit"
import { VirtioMmio } from "@virtkit/virtio"
import { type BlockDevice, type BlockFileOptions, block } from "@virtkit/virtio-blk"
import { afterAll, afterEach, vi } from "vitest"
import { answer, header, IN, MappedTestMemory, OUT, pattern } from "./helpers.js"

const MiB = 2 ** 20
export const MEMORY_BYTES: number = 4 * MiB

/** A disk behind virtio-mmio, with its driver. */
export interface Machine {
  readonly device: BlockDevice
  readonly driver: MmioDriver
  readonly transport: VirtioMmio
  readonly memory: MappedTestMemory
  readonly interrupt: FakeInterrupt
  /** What went wrong: errors of the device, and why it needs a reset. */
  readonly wrong: string[]
}

export function machineOf(device: BlockDevice, other?: GuestMemory): Machine {
  const memory = (other ?? new MappedTestMemory(MEMORY_BYTES)) as MappedTestMemory
  const interrupt = new FakeInterrupt()
  const wrong: string[] = []
  const transport = new VirtioMmio({
    device,
    memory,
    interrupt,
    packed: true,
    onError: (error) => wrong.push(error.message),
    onNeedsReset: (reason) => wrong.push(reason),
  })
  return {
    device,
    driver: new MmioDriver({ device: transport, memory }),
    transport,
    memory,
    interrupt,
    wrong,
  }
}

export interface ThreadsBench {
  /** A path in a folder that goes in the end; `image`: what the new file there has. */
  path(image?: Uint8Array): string
  /** A machine with a disk of 1 MiB on threads; closed after the test. */
  machine(options?: Partial<BlockFileOptions>): Promise<Machine>
}

export function threadsBench(): ThreadsBench {
  const folder = mkdtempSync(join(tmpdir(), "virtkit-blk-threads-"))
  const opened: Machine[] = []
  let files = 0
  afterAll(() => rmSync(folder, { recursive: true }))
  afterEach(async () => {
    vi.restoreAllMocks()
    for (const { transport } of opened.splice(0)) await transport.close()
  })
  const path = (image?: Uint8Array): string => {
    const name = join(folder, `${files++}`)
    if (image !== undefined) writeFileSync(name, image)
    return name
  }
  return {
    path,
    async machine(options = {}) {
      const device = await block({ path: options.path ?? path(pattern(MiB, 5)), thread: true, ...options })
      const machine = machineOf(device)
      opened.push(machine)
      return machine
    },
  }
}

/** Starts the driver, with packed rings and resets of single queues if asked. */
export function start(
  { driver }: Machine,
  { packed = false, queueSize = 64 }: { packed?: boolean; queueSize?: number } = {},
): Promise<void> {
  driver.wantedFeatures |= FEATURE.RING_RESET
  if (packed) driver.wantedFeatures |= FEATURE.RING_PACKED
  return driver.start({ queueSize })
}

/** Offers writes of one sector to that queue, each with its own number in all bytes. */
export function offerWrites({ driver }: Machine, queue: number, sectors: readonly number[]): DriverChain[] {
  const chains = sectors.map((sector) =>
    driver.ring(queue).add({
      readable: [header(OUT, sector), new Uint8Array(512).fill(sector)],
      writable: [1],
      layout: "indirect",
    }),
  )
  driver.kick(queue)
  return chains
}

export async function finished(
  { driver }: Machine,
  queue: number,
  chains: readonly DriverChain[],
): Promise<number[]> {
  await until(() => {
    driver.ring(queue).reap()
    return chains.every(({ written }) => written !== undefined)
  }, `chains of queue ${queue}`)
  return chains.map((chain) => answer(chain).status)
}

export async function readSectors(
  { driver }: Machine,
  sector: number,
  sectors: number,
  queue = 0,
): Promise<{ status: number; data: Uint8Array }> {
  const chain = await driver.request(queue, {
    readable: [header(IN, sector)],
    writable: [512 * sectors, 1],
    layout: "indirect",
  })
  return answer(chain)
}

/** The threads that are started from now on, and what is posted to them. */
export function spyOnThreads(): { workers(): Worker[]; posted(kind: string): unknown[] } {
  const post = vi.spyOn(Worker.prototype, "postMessage")
  return {
    workers: () => [...new Set(post.mock.contexts as Worker[])],
    posted: (kind) =>
      post.mock.calls.map(([message]) => message.command).filter((each) => each.kind === kind),
  }
}
