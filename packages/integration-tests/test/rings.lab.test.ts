import { execFile } from "node:child_process"
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { promisify } from "node:util"
import { findTool } from "@virtkit/lab"
import { readTrace } from "@virtkit/testkit"
import { createQueue } from "@virtkit/virtqueue"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import {
  DISK_REQUESTS,
  DISK_SECTORS,
  FRAMES,
  guestFiles,
  guestProgram,
  IN_LAB,
  LinuxLab,
  RING_GUEST,
  type RingDevice,
  type RingGuestReport,
  ringChoices,
  SECOND_GUEST,
} from "../src/index.js"
import { replayMount } from "./mount-trace.js"

const run = promisify(execFile)
const GiB = 2 ** 30
/** Mounts its disk, reads a file of it, writes one and unmounts it. */
const MOUNT_GUEST = `mount -t ext4 /dev/vda /mnt
echo hello $(cat /mnt/hello)
seq 1 2000 >/mnt/numbers
sync
umount /mnt
`
const scripts = { rings: RING_GUEST, mount: MOUNT_GUEST }

/** virtio 1.3, section 6: bits of the features in sysfs. */
const BITS = { indirect: 28, eventIdx: 29, packed: 34, inOrder: 35 } as const

const has = (device: RingDevice, bit: number): boolean => device.features[bit] === "1"

/** The least number of chains that the checking programs cause. */
const LEAST = { blk: DISK_REQUESTS, net: 2 * FRAMES, console: 2 } as const

describe("Linux drives rings of every kind", { timeout: 400_000 }, () => {
  let linux: LinuxLab
  let directory = ""

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), "virtkit-rings-"))
    const options = { files: [await guestProgram("ring-judge")], modules: ["virtio_net", "ext4"] }
    const second = await guestFiles(scripts, { ...options, series: "6.12" })
    linux = await LinuxLab.start(scripts, {
      ...options,
      memory: 3 * GiB,
      shares: [
        { source: second.kernel.vmlinuz, target: SECOND_GUEST.kernel },
        { source: second.initrd, target: SECOND_GUEST.initrd },
      ],
    })
  }, 300_000)
  afterAll(async () => {
    await linux?.lab.close()
    await rm(directory, { recursive: true, force: true })
  }, 60_000)

  /** Every device did all its work without an error, with the features that it was made with. */
  function expectAll(report: RingGuestReport, inOrder: boolean): void {
    expect(report.reason).toBe("poweroff")
    expect(report.complaints).toEqual([])
    expect(report.devices).toHaveLength(24)
    for (const [index, device] of report.devices.entries()) {
      const { kind, rings } = device
      const name = `${kind} ${JSON.stringify(rings)}: ${report.said}`
      expect(rings, name).toEqual(ringChoices(inOrder)[Math.floor(index / 3)])
      expect(device.features, name).toMatch(/^[01]{64}$/)
      expect(
        [has(device, BITS.packed), has(device, BITS.eventIdx), has(device, BITS.indirect)],
        name,
      ).toEqual([rings.packed, rings.eventIdx, rings.indirect])
      expect(device.passed, name).toBe(true)
      expect(device.goodSectors, name).toBe(kind === "blk" ? DISK_SECTORS : undefined)
      expect(device.chains, name).toBeGreaterThanOrEqual(LEAST[kind])
      expect(device.malformed, name).toBe(0)
    }
  }

  it("Debian's 6.1: disks, cards and consoles, split and packed, with and without event_idx and indirect", async () => {
    const report = (await linux.program(
      "rings",
      IN_LAB.kernel,
      IN_LAB.initrd,
      "not-offered",
    )) as RingGuestReport
    expectAll(report, false)
  })

  it("Debian's 6.12, offered IN_ORDER as well", async () => {
    const { kernel, initrd } = SECOND_GUEST
    const report = (await linux.program("rings", kernel, initrd, "offered")) as RingGuestReport
    expectAll(report, true)
    // No driver of Linux up to 6.12 knows it. One that does takes it for all of its devices.
    const taken = new Set(report.devices.map((device) => has(device, BITS.inOrder)))
    expect(taken.size).toBe(1)
  })

  it("a disk that is mounted is recorded, and the trace replayed without the guest", async () => {
    const image = join(directory, "image")
    await writeFile(image, "")
    await run("truncate", ["-s", "1M", image])
    await writeFile(join(directory, "hello"), "from the image\n")
    await run(findTool("mke2fs")!, ["-q", "-F", "-t", "ext2", "-b", "1024", image])
    await run(findTool("debugfs")!, ["-w", "-R", `write ${join(directory, "hello")} hello`, image])
    await linux.lab.copyIn(image, "/tmp/image")
    const told = await linux.program("record-mount", "/tmp/image", "/tmp/trace")
    expect(told).toEqual({ reason: "poweroff", hello: "from the image", errors: [] })
    const trace = await linux.read("/tmp/trace")
    if (process.env.VIRTKIT_KEEP_TRACE) {
      await writeFile(process.env.VIRTKIT_KEEP_TRACE, trace)
      await writeFile(`${process.env.VIRTKIT_KEEP_TRACE}.image`, await readFile(image))
    }
    const kinds = new Set([...readTrace(trace).records].map(({ kind }) => kind))
    expect([...kinds]).toEqual(
      expect.arrayContaining(["read", "write", "doorbell", "interrupt", "chain", "used"]),
    )
    for (const target of ["transport", "device"] as const) {
      const result = await replayMount(target, trace, await readFile(image), createQueue)
      expect(result.differences).toEqual([])
      expect(result.chains).toBeGreaterThan(20)
    }
  })
})
