import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { gunzipSync } from "node:zlib"
import type { Queue, VirtioDevice } from "@virtkit/interface"
import { FEATURE, type ReplayOptions, type ReplayResult, readTrace, record, replay } from "@virtkit/testkit"
import { block, memoryDisk } from "@virtkit/virtio-blk"
import { createQueue } from "@virtkit/virtqueue"
import { afterAll, describe, expect, it } from "vitest"
import { replayMount } from "./mount-trace.js"
import {
  blkSession,
  consoleSession,
  echoSession,
  pattern,
  RINGS,
  recordedMachine,
  rngSession,
  type Session,
  transportFor,
} from "./record-sessions.js"
import { TRANSPORTS, type TransportName } from "./transport-machine.js"

const folder = mkdtempSync(join(tmpdir(), "virtkit-record-"))
afterAll(() => rmSync(folder, { recursive: true }))
const path = join(folder, "trace")

const sessions: Readonly<Record<string, Session>> = {
  "virtio-blk": blkSession as Session,
  "virtio-console": consoleSession as Session,
  "virtio-rng": rngSession,
  "a device that resets single queues": echoSession as Session,
}

async function recordSession(transport: TransportName, session: Session, rings: bigint): Promise<void> {
  const device = await session.make()
  const { driver, close } = recordedMachine(transport, device, path)
  await session.drive(driver, device, rings)
  await close()
}

/** `broken`: makes the device worse than it was. */
async function replayOn(
  transport: TransportName | "none",
  session: Session,
  broken: (device: VirtioDevice) => VirtioDevice = (device) => device,
  options: ReplayOptions = {},
): Promise<ReplayResult> {
  const device = await session.make()
  const used = broken(device)
  const target = transport === "none" ? { device: used, createQueue } : transportFor(transport, used)
  try {
    return await replay(path, target, {
      timeoutMs: 300,
      host: (seen) => session.host?.(device, { ...seen }) as void | Promise<void>,
      ...options,
    })
  } finally {
    await device.close()
  }
}

describe.each(Object.keys(sessions))("a trace of %s", (name) => {
  const session = sessions[name]!
  describe.each(TRANSPORTS)("behind %s", (transport) => {
    it.each(Object.keys(RINGS))("with a ring that is %s is replayed without a difference", async (ring) => {
      await recordSession(transport, session, RINGS[ring]!)
      const records = [...readTrace(path).records]
      const features = records.flatMap((one) => (one.kind === "activate" ? [one.features] : []))
      expect(features[0]! & (FEATURE.RING_PACKED | FEATURE.IN_ORDER)).toBe(RINGS[ring])
      const used = records.filter(({ kind }) => kind === "used").length

      const behind = await replayOn(transport, session)
      expect(behind.differences).toEqual([])
      expect(behind.chains).toBe(used)
      expect(behind.registerReads).toBe(records.filter(({ kind }) => kind === "read").length)
      expect(behind.registerReads).toBeGreaterThan(10)
      const alone = await replayOn("none", session)
      expect(alone).toEqual({ ...behind, registerReads: 0 })
    })
  })
})

/** The device with another behaviour of its queues. */
function withQueues(device: VirtioDevice, change: (queue: Queue) => Partial<Queue>): VirtioDevice {
  const changed = new Map<Queue, Queue>()
  const wrap = (queue: Queue | undefined) => {
    if (queue === undefined) return undefined
    const known = changed.get(queue)
    if (known !== undefined) return known
    const { index, size } = queue
    const same: Queue = {
      index,
      size,
      broken: false,
      pop: () => queue.pop(),
      push: (chain, written) => queue.push(chain, written),
      unpop: (chain) => queue.unpop(chain),
      flush: () => queue.flush(),
      disableNotification: () => queue.disableNotification(),
      enableNotification: () => queue.enableNotification(),
    }
    const made = { ...same, ...change(queue) }
    changed.set(queue, made)
    return made
  }
  return changedDevice(device, {
    activate: (context) =>
      device.activate({
        ...context,
        get queues() {
          return context.queues.map(wrap)
        },
      }),
  })
}

function changedDevice(device: VirtioDevice, change: Partial<VirtioDevice>): VirtioDevice {
  return {
    name: device.name,
    deviceType: device.deviceType,
    features: device.features,
    queueMaxSizes: device.queueMaxSizes,
    get config() {
      return device.config
    },
    writeConfig: (offset, data) => device.writeConfig?.(offset, data),
    activate: (context) => device.activate(context),
    notify: (queue) => device.notify(queue),
    resetQueue: (queue) => device.resetQueue?.(queue),
    reset: () => device.reset(),
    close: () => device.close(),
    state: () => device.state(),
    restore: (state) => device.restore(state),
    ...change,
  }
}

describe("a device that is not as it was when it was recorded is found out", () => {
  const blk = blkSession as Session
  const first = (result: ReplayResult) => result.differences[0]?.what

  it("by a byte of what it reads, and the record is told", async () => {
    await recordSession("virtio-mmio", blk, 0n)
    const contents = pattern(64 * 1024, 1)
    contents[2 * 512 + 5] = 0
    const make = () => block({ backend: memoryDisk(contents.slice()), serial: "record-1", queueSize: 16 })
    const { differences } = await replayOn("none", { ...blk, make })
    const used = [...readTrace(path).records].filter(({ kind }) => kind === "used")
    expect(differences).toEqual([
      { record: used[2]!.number, what: "chain 2 of queue 0: byte 5 of what was written to it is different" },
      { record: used[6]!.number, what: "chain 6 of queue 0: byte 5 of what was written to it is different" },
    ])
  })

  it("by a status that is beyond the used length", async () => {
    await recordSession("virtio-mmio", blk, 0n)
    const noErrors = (device: VirtioDevice) =>
      withQueues(device, (queue) => ({
        push: (chain, written) => {
          chain.copyIn(chain.writableBytes - 1, Uint8Array.of(0))
          queue.push(chain, written)
        },
      }))
    expect(first(await replayOn("none", blk, noErrors))).toBe(
      "chain 3 of queue 0: its last bytes are different",
    )
  })

  it("by a used length", async () => {
    await recordSession("virtio-mmio", blk, 0n)
    const short = (device: VirtioDevice) =>
      withQueues(device, (queue) => ({ push: (chain, written) => queue.push(chain, written - 1) }))
    expect(first(await replayOn("none", blk, short))).toBe(
      "chain 0 of queue 0 has a used length of 20, the trace has 21",
    )
  })

  it("by chains that do not come back, or that nobody is told of", async () => {
    await recordSession("virtio-mmio", blk, 0n)
    const lost = (device: VirtioDevice) => withQueues(device, () => ({ push: () => {} }))
    const { differences } = await replayOn("virtio-mmio", blk, lost)
    expect(differences.map(({ what }) => what)).toEqual(["chain 0 of queue 0 did not come back"])
    const silent = { setup: transportFor("virtio-mmio", await blk.make()).setup }
    const { differences: without } = await replay(path, {
      setup: (memory) => silent.setup(memory, { signal: () => {} }),
    })
    expect(without[0]?.what).toBe("chains came back without an interrupt")
  })

  it("by the order of chains, unless any order will do", async () => {
    await recordSession("virtio-mmio", blk, 0n)
    // The four reads that are in flight together, the last one first.
    const backwards = (device: VirtioDevice) =>
      withQueues(device, (queue) => {
        const pushed: [Parameters<Queue["push"]>[0], number][] = []
        return {
          push: (chain, written) => void pushed.unshift([chain, written]),
          flush: () => {
            for (const [chain, written] of pushed.splice(0)) queue.push(chain, written)
            queue.flush()
          },
        }
      })
    const { differences } = await replayOn("none", blk, backwards)
    expect(differences[0]?.what).toBe("chain 7 of queue 0 came back where the trace has chain 4")
    expect((await replayOn("none", blk, backwards, { order: false })).differences).toEqual([])
  })

  it("by a register, its features and its configuration among them", async () => {
    await recordSession("virtio-pci with MSI-X", blk, 0n)
    const other = (device: VirtioDevice) => changedDevice(device, { features: device.features & ~(1n << 9n) })
    expect(first(await replayOn("virtio-pci with MSI-X", blk, other))).toMatch(
      /^register 0x4 of window 0 reads 0x[0-9a-f]+, the trace has 0x[0-9a-f]+$/,
    )
    const config = (device: VirtioDevice) => changedDevice(device, { config: pattern(60, 3) })
    expect(first(await replayOn("virtio-pci with MSI-X", blk, config))).toMatch(/^register /)
  })

  it("by a configuration change that does not come, or is another", async () => {
    await recordSession("virtio-mmio", blk, 0n)
    expect(first(await replayOn("none", blk, undefined, { host: () => {} }))).toBe(
      "the configuration did not change",
    )
    const smaller = {
      ...blk,
      host: (device: VirtioDevice, seen: { kind: string }) =>
        seen.kind === "config"
          ? (device as Awaited<ReturnType<typeof blkSession.make>>).resize(96 * 1024)
          : undefined,
    }
    expect(first(await replayOn("none", smaller))).toBe("byte 0 of the configuration is different")
  })

  it("by what it does beyond the trace", async () => {
    await recordSession("virtio-mmio", consoleSession as Session, 0n)
    const chatty = (device: VirtioDevice) =>
      changedDevice(device, {
        activate: (context) => {
          context.needsReset("of its own accord")
          device.activate(context)
        },
      })
    const { differences } = await replayOn("none", consoleSession as Session, chatty)
    expect(differences.map(({ what }) => what)).toEqual(["the device asks for a reset: of its own accord"])
  })
})

it("records a device alone, whose transport knows nothing of it", async () => {
  const device = record(await blkSession.make(), { path })
  const { driver } = (await import("./transport-machine.js")).machine("virtio-mmio", device)
  await driver.start({ queueSize: 8 })
  await driver.request(0, { readable: [new Uint8Array(16)], writable: [512, 1] })
  await device.close()
  expect([...readTrace(path).records].map(({ kind }) => kind)).toEqual([
    "activate",
    "notify",
    "chain",
    "used",
    "flush",
  ])
  expect((await replayOn("none", blkSession as Session)).differences).toEqual([])
})

describe("the trace of a real guest: Debian's Linux 6.1 boots, mounts its disk, reads a file and writes one", () => {
  const trace = readFileSync(new URL("../traces/linux-6.1-mount.trace", import.meta.url))
  const image = gunzipSync(readFileSync(new URL("../traces/mounted.img.gz", import.meta.url)))
  const broken = (changes: Partial<VirtioDevice>) => (device: VirtioDevice) => changedDevice(device, changes)

  it.each(["transport", "device"] as const)(
    "is replayed against the %s without a difference",
    async (target) => {
      const result = await replayMount(target, trace, image, createQueue)
      expect(result.differences).toEqual([])
      expect(result.chains).toBe([...readTrace(trace).records].filter(({ kind }) => kind === "used").length)
      expect(result.chains).toBeGreaterThan(20)
      if (target === "transport") expect(result.registerReads).toBeGreaterThan(30)
    },
  )

  it("tells a device with other features or contents from the one that was there", async () => {
    const features = broken({ features: 0n })
    expect((await replayMount("transport", trace, image, createQueue, features)).differences).not.toEqual([])
    const other = Buffer.from(image)
    other[1024 + 56] = 0 // half of the magic number of the file system
    const { differences } = await replayMount("device", trace, other, createQueue)
    expect(differences[0]?.what).toMatch(
      /^chain \d+ of queue 0: byte \d+ of what was written to it is different$/,
    )
  })
})
