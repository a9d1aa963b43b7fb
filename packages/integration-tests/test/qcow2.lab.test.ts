import { execFile } from "node:child_process"
import { createHash } from "node:crypto"
import { copyFile, mkdtemp, readFile, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { promisify } from "node:util"
import { findTool } from "@virtkit/lab"
import { createQcow2, extendQcow2 } from "@virtkit/virtio-blk"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { LinuxLab } from "../src/index.js"

const run = promisify(execFile)
const MiB = 2 ** 20
const GiB = 2 ** 30
const OVERLAY = "/tmp/overlay.qcow2"

/** Shell scripts that guests execute as their process 1. */
const scripts = {
  fill: `set -e
/usr/bin/mke2fs -F -q -t ext4 /dev/vda
mount -t ext4 /dev/vda /mnt
dd if=/dev/urandom of=/mnt/data bs=1M count=40 2>/dev/null
dd if=/dev/urandom of=/mnt/junk bs=1M count=8 2>/dev/null
sync
rm /mnt/junk
fstrim /mnt
echo 3 >/proc/sys/vm/drop_caches
echo sum $(sha256sum </mnt/data)
umount /mnt
`,
  change: `set -e
mount -t ext4 /dev/vda /mnt
echo before $(sha256sum </mnt/data)
dd if=/dev/urandom of=/mnt/data bs=4096 seek=1000 count=500 conv=notrunc 2>/dev/null
dd if=/dev/urandom of=/mnt/more bs=1M count=5 2>/dev/null
sync
echo 3 >/proc/sys/vm/drop_caches
echo after $(sha256sum </mnt/data)
umount /mnt
`,
  look: `set -e
mount -t ext4 -o ro /dev/vda /mnt
echo sum $(sha256sum </mnt/data)
umount /mnt
`,
}

/** The hash of a line "name hash -" of what a guest said. */
function hashIn(said: string, name: string): string | undefined {
  return new RegExp(`^${name} ([0-9a-f]{64})`, "m").exec(said)?.[1]
}

describe("a qcow2 disk of a Linux guest", { timeout: 300_000 }, () => {
  let linux: LinuxLab
  let directory = ""
  let image = ""
  let cutOff = async () => {}
  let sum: string | undefined

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), "virtkit-qcow2-lab-"))
    image = join(directory, "disk.qcow2")
    await createQcow2({ path: image, size: 256 * MiB })
    cutOff = await extendQcow2(image)
    const overlay = join(directory, "overlay.qcow2")
    // It is laid over an image that is a block device of the lab.
    await createQcow2({
      path: overlay,
      size: 256 * MiB,
      backing: { path: "/dev/lab/disk0", format: "qcow2" },
    })
    linux = await LinuxLab.start(scripts, {
      memory: 2 * GiB,
      disks: [{ path: image }],
      programs: ["mke2fs"],
    })
    await linux.lab.copyIn(overlay, OVERLAY)
  }, 240_000)
  afterAll(async () => {
    await linux?.lab.close()
    await rm(directory, { recursive: true, force: true })
  }, 60_000)

  /** Looks at an image from the host: qemu-img finds nothing wrong with it, and what is in its file system? */
  async function dataFromHost(path: string): Promise<string> {
    const [raw, data] = [join(directory, "raw"), join(directory, "data")]
    await run("qemu-img", ["check", "-f", "qcow2", path])
    await run("qemu-img", ["convert", "-f", "qcow2", "-O", "raw", path, raw])
    await run(findTool("e2fsck")!, ["-fn", raw])
    await run(findTool("debugfs")!, ["-R", `dump /data ${data}`, raw])
    return createHash("sha256")
      .update(await readFile(data))
      .digest("hex")
  }

  it("is made a file system, filled and trimmed, and qemu-img agrees with every bit of it", async () => {
    const { status, stdout, stderr } = await linux.run("fill", {
      args: [`--disk=${linux.lab.disks[0]},format=qcow2,queues=2`, "--cpus=2", "--timeout=120"],
    })
    expect({ status, stderr }, stdout).toEqual({ status: 0, stderr: "" })
    sum = hashIn(stdout, "sum")
    expect(sum).toBeDefined()
    const copy = join(directory, "copy.qcow2")
    await copyFile(image, copy)
    expect(await dataFromHost(copy)).toBe(sum)
  })

  it("is left alone by a guest on an overlay", async () => {
    const { status, stdout, stderr } = await linux.run("change", {
      args: [`--disk=${OVERLAY},format=qcow2,backing=${linux.lab.disks[0]},cache=writethrough`],
    })
    expect({ status, stderr }, stdout).toEqual({ status: 0, stderr: "" })
    expect(hashIn(stdout, "before")).toBe(sum)
    const after = hashIn(stdout, "after")
    expect(after).not.toBe(sum)
    const look = await linux.run("look", {
      args: [`--disk=${OVERLAY},readonly,format=qcow2,backing=${linux.lab.disks[0]},bps=64M`],
    })
    expect(hashIn(look.stdout, "sum"), look.stdout + look.stderr).toBe(after)
    const base = await linux.run("look", { args: [`--disk=${linux.lab.disks[0]},readonly,format=qcow2`] })
    expect(hashIn(base.stdout, "sum"), base.stdout + base.stderr).toBe(sum)
  })

  it("is refused when the user did not allow what it is laid over (bad-input #25)", async () => {
    const { status, stderr } = await linux.run("look", { args: [`--disk=${OVERLAY},format=qcow2`] })
    expect(status).toBe(2)
    expect(stderr).toMatch(/has the backing file \/dev\/lab\/disk0, which was not allowed/)
  })

  it("has a file as long as what is used, after the lab", async () => {
    await linux.lab.close()
    await cutOff()
    expect((await readFile(image)).length).toBeLessThan(128 * MiB)
    expect(await dataFromHost(image)).toBe(sum)
  })
})
