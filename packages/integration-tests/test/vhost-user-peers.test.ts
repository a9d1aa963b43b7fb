import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { findTool } from "@virtkit/lab"
import { mmapMemory } from "@virtkit/memory/mmap"
import { type TransportDriver, until } from "@virtkit/testkit"
import { type VhostUserDevice, type VhostUserOptions, vhostUser } from "@virtkit/vhost-user"
import { afterAll, afterEach, describe, expect, it } from "vitest"
import { ServeProcess } from "../src/index.js"
import { machine } from "./transport-machine.js"

const folder = mkdtempSync(join(tmpdir(), "virtkit-peers-"))
const VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
const QSD = findTool("qemu-storage-daemon")
const missing = (program: string | undefined, name: string) =>
  program !== undefined && existsSync(program) ? "" : ` (skipped: there is no ${name})`

const closers: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

/** Starts a back end; settles when its socket is there. */
async function start(socket: string, command: string, ...args: string[]): Promise<ChildProcess> {
  const child = spawn(command, args, { stdio: ["ignore", "ignore", "pipe"] })
  const closed = once(child, "close")
  let said = ""
  child.stderr!.setEncoding("utf8").on("data", (text: string) => {
    said += text
  })
  closers.push(async () => {
    child.kill("SIGKILL")
    await closed
  })
  await until(() => existsSync(socket) || child.exitCode !== null, `${command}: ${said}`)
  if (child.exitCode !== null) throw new Error(`${command} has ended: ${said}`)
  return child
}

/** A socket is there a moment before anybody listens on it, and a connection for trial would be the only one for virtiofsd. */
async function connected(options: VhostUserOptions): Promise<VhostUserDevice> {
  for (;;) {
    try {
      return await vhostUser(options)
    } catch (error) {
      if ((error as { code?: string }).code !== "ECONNREFUSED") throw error
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
  }
}

/** The device behind virtio-pci, in memory that the back end can map, and its driver. */
async function driverOf(
  options: VhostUserOptions,
): Promise<{ device: VhostUserDevice; driver: TransportDriver }> {
  const device = await connected(options)
  const memory = mmapMemory(4 << 20, { backing: "memfd" })
  const { transport, driver } = machine("virtio-pci with MSI-X", device, memory)
  closers.push(
    () => memory.close(),
    () => transport.close(),
  )
  return { device, driver }
}

const le32 = (...values: number[]) => new Uint8Array(new Uint32Array(values).buffer)

/** A block request: type and sector; data to write, or bytes to read. Gives what was read, and the status. */
async function blk(
  driver: TransportDriver,
  queue: number,
  type: number,
  sector: number,
  body: Uint8Array | number,
) {
  const header = le32(type, 0, sector, 0)
  const chain = await driver.request(
    queue,
    typeof body === "number"
      ? { readable: [header], writable: [body, 1] }
      : { readable: [header, ...(body.length > 0 ? [body] : [])], writable: [1] },
  )
  return { data: chain.data!.subarray(0, -1), status: chain.data!.at(-1) }
}

describe(`a disk of qemu-storage-daemon${missing(QSD, "qemu-storage-daemon")}`, () => {
  it.skipIf(missing(QSD, "") !== "")("is read and written through all its queues", async () => {
    const image = join(folder, "disk.img")
    const socket = join(folder, "disk.sock")
    writeFileSync(image, new Uint8Array(1 << 20))
    await start(
      socket,
      QSD!,
      ...["--blockdev", `driver=file,node-name=disk,filename=${image}`],
      ...[
        "--export",
        `vhost-user-blk,id=e,node-name=disk,addr.type=unix,addr.path=${socket},writable=on,num-queues=3`,
      ],
    )
    const { device, driver } = await driverOf({ type: "blk", socket })
    expect(device.queueMaxSizes).toEqual([128, 128, 128])
    for (let round = 0; round < 2; round++) {
      await driver.start()
      const capacity = driver.readConfigAt(0, 4)
      expect([capacity, driver.readConfigAt(34, 2)]).toEqual([2048, 3])
      for (const queue of [0, 1, 2]) {
        const data = Uint8Array.from({ length: 1536 }, (_, at) => (at * 7 + queue + round) & 0xff)
        expect(await blk(driver, queue, 1, 10 * queue, data)).toMatchObject({ status: 0 })
        expect(await blk(driver, (queue + 1) % 3, 0, 10 * queue, data.length)).toEqual({ data, status: 0 })
        expect(await blk(driver, queue, 4, 0, new Uint8Array(0))).toMatchObject({ status: 0 })
        expect(readFileSync(image).subarray(5120 * queue, 5120 * queue + 1536)).toEqual(Buffer.from(data))
      }
      // Past the end.
      expect((await blk(driver, 0, 0, capacity, 512)).status).toBe(1)
      await driver.reset()
    }
  })
})

describe(`a killed qemu-storage-daemon${missing(QSD, "qemu-storage-daemon")}`, () => {
  // It has no INFLIGHT_SHMFD: of several requests in flight, done in any order, the ring does not tell which are.
  it.skipIf(missing(QSD, "") !== "")(
    "loses no request of a queue that has one at a time",
    async () => {
      const image = join(folder, "killed-qsd.img")
      const socket = join(folder, "killed-qsd.sock")
      const SECTORS = 2048
      writeFileSync(image, new Uint8Array(512 * SECTORS))
      const run = () => {
        rmSync(socket, { force: true })
        return start(
          socket,
          QSD!,
          ...["--blockdev", `driver=file,node-name=disk,filename=${image},locking=off`],
          ...[
            "--export",
            `vhost-user-blk,id=e,node-name=disk,addr.type=unix,addr.path=${socket},writable=on,num-queues=2`,
          ],
        )
      }
      let daemon = await run()
      const { device, driver } = await driverOf({ type: "blk", socket })
      await driver.start({ queueSize: 64 })
      await writeDuring({ driver, image, queues: 2, sectors: SECTORS, perQueue: 1 }, async (writes) => {
        for (let kill = 0; kill < 5; kill++) {
          await writes(100)
          const ended = once(daemon, "close")
          daemon.kill("SIGKILL")
          await ended
          await until(() => !device.connected, "the end of the connection")
          daemon = await run()
          await until(() => device.connected, "the connection")
        }
        await writes(100)
      })
    },
    60_000,
  )
})

describe(`a directory of virtiofsd${missing(VIRTIOFSD, VIRTIOFSD)}`, () => {
  it.skipIf(missing(VIRTIOFSD, "") !== "" || process.geteuid?.() !== 0)("answers FUSE", async () => {
    const directory = join(folder, "shared")
    const socket = join(folder, "fs.sock")
    mkdirSync(directory)
    await start(
      socket,
      VIRTIOFSD,
      "-f",
      "-o",
      `source=${directory},sandbox=chroot`,
      `--socket-path=${socket}`,
    )
    const { device, driver } = await driverOf({ type: "fs", socket, tag: "shared" })
    expect(device.deviceType).toBe(26)
    await driver.start()
    const tag = Array.from({ length: 6 }, (_, at) => driver.readConfigAt(at, 1))
    expect([Buffer.from(tag).toString(), driver.readConfigAt(36, 4)]).toEqual(["shared", 1])
    // FUSE_INIT, protocol 7.31: answered by one of the same major version.
    const init = concat(le32(56, 26, 1, 0, 1, 0, 0, 0, 0, 0), le32(7, 31, 4096, 0))
    const chain = await driver.request(1, { readable: [init], writable: [16 + 64] })
    const answer = new DataView(chain.data!.buffer, chain.data!.byteOffset)
    expect([answer.getInt32(4, true), answer.getUint32(8, true), answer.getUint32(16, true)]).toEqual([
      0, 1, 7,
    ])
    await driver.reset()
  })
})

describe("a disk of virtkit serve", () => {
  it("is written to while its process is killed again and again: nothing is lost, nothing waits for ever", async () => {
    const image = join(folder, "killed.img")
    const socket = join(folder, "killed.sock")
    const SECTORS = 4096
    writeFileSync(image, new Uint8Array(512 * SECTORS))
    const args = ["blk", "--socket", socket, "--disk", `${image},queues=2`]
    let server = await ServeProcess.start(args)
    closers.push(() => server.kill())
    const { device, driver } = await driverOf({ type: "blk", socket })
    await driver.start({ queueSize: 64 })
    let kills = 0
    let resumed = false
    await writeDuring({ driver, image, queues: 2, sectors: SECTORS, perQueue: 20 }, async (writes) => {
      // Until there were requests in flight that the next process took up.
      for (; kills < 3 || !resumed; kills++) {
        await writes(300)
        resumed ||= server.said.includes("were in flight")
        await server.kill()
        server = await ServeProcess.start(args)
        await server.hears("a front end connected")
        await until(() => device.connected, "the connection")
      }
    })
  }, 60_000)
})

interface Writing {
  readonly driver: TransportDriver
  readonly image: string
  readonly queues: number
  /** Of the disk. */
  readonly sectors: number
  /** Most requests in flight in a queue. */
  readonly perQueue: number
}

/**
 * Writes sectors while `disturb` does what it does, which can wait for so many writes more, and flushes. Each request has to be answered
 * without an error, and to be in the image.
 */
async function writeDuring(
  { driver, image, queues, sectors, perQueue }: Writing,
  disturb: (writes: (count: number) => Promise<void>) => Promise<void>,
): Promise<void> {
  let done = 0
  let over = false
  const disturbing = disturb((count) => {
    const wanted = done + count
    return until(() => done >= wanted, "writes")
  }).finally(() => (over = true))
  /** By sector, the byte that it is full of. */
  const expected = new Uint8Array(sectors)
  const statuses = new Set<number | undefined>()
  const inFlight = new Array<number>(queues).fill(0)
  for (let issued = 0; !over || inFlight.some((count) => count > 0); ) {
    for (let queue = 0; queue < queues; queue++) {
      const ring = driver.rings[queue]!
      // Each sector is one queue's, and written again only after all of a round.
      while (!over && ring.freeDescriptors >= 3 && inFlight[queue]! < perQueue) {
        const sector = queues * (Math.floor(issued / queues) % (sectors / queues)) + queue
        const byte = (issued * 7 + 1) & 0xff
        issued++
        expected[sector] = byte
        ring.add({ readable: [le32(1, 0, sector, 0), new Uint8Array(512).fill(byte)], writable: [1] })
        inFlight[queue]!++
      }
      driver.kick(queue)
      for (const { data } of ring.reap()) {
        statuses.add(data?.[0])
        inFlight[queue]!--
        done++
      }
    }
    await new Promise((resolve) => setImmediate(resolve))
  }
  await disturbing
  expect([...statuses]).toEqual([0])
  expect(await blk(driver, 0, 4, 0, new Uint8Array(0))).toMatchObject({ status: 0 })
  const disk = readFileSync(image)
  const wrong = [...expected.keys()].filter((sector) =>
    disk.subarray(512 * sector, 512 * sector + 512).some((byte) => byte !== expected[sector]),
  )
  expect(wrong).toEqual([])
}

function concat(...parts: Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(parts))
}
