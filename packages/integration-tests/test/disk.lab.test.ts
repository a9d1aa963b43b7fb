import { execFile } from "node:child_process"
import { createHash } from "node:crypto"
import { createReadStream } from "node:fs"
import { mkdtemp, open, readFile, rm, stat, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { promisify } from "node:util"
import { findTool } from "@virtkit/lab"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { LinuxLab } from "../src/index.js"

const run = promisify(execFile)
const MiB = 2 ** 20
const GiB = 2 ** 30

/** Shell scripts that guests execute as their process 1. */
const scripts = {
  fill: `set -e
echo serial $(cat /sys/block/vda/serial)
echo queues $(ls /sys/block/vda/mq | wc -l)
echo cache $(cat /sys/block/vda/queue/write_cache)
/usr/bin/mke2fs -F -q -t ext4 /dev/vda
mount -t ext4 /dev/vda /mnt
dd if=/dev/urandom of=/mnt/data bs=1M count=200 2>/dev/null
dd if=/dev/urandom of=/mnt/junk bs=1M count=40 2>/dev/null
sync
echo 3 >/proc/sys/vm/drop_caches
echo sum $(sha256sum </mnt/data)
umount /mnt
echo filled
`,
  readonly: `echo ro $(cat /sys/block/vda/ro)
mount -t ext4 -o ro,noload /dev/vda /mnt
mount -o remount,rw /mnt || echo no remount
echo sum $(sha256sum </mnt/data)
touch /mnt/new || echo no new file
umount /mnt
blockdev --setrw /dev/vda
dd if=/dev/zero of=/dev/vda bs=4096 count=16 conv=fsync || echo no raw write
`,
  trim: `set -e
mount -t ext4 /dev/vda /mnt
rm /mnt/junk
sync
fstrim -v /mnt
umount /mnt
echo trimmed
`,
}

async function hashOf(path: string): Promise<string> {
  const hash = createHash("sha256")
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer)
  return hash.digest("hex")
}

/** Bytes that the file takes on the host's disk. */
async function allocated(path: string): Promise<number> {
  return (await stat(path)).blocks * 512
}

/** The value of a line "name value" of what a guest said. */
function fact(said: string, name: string): string | undefined {
  return new RegExp(`^${name} (.*)$`, "m").exec(said)?.[1]
}

describe("an ext4 disk of a Linux guest", { timeout: 300_000 }, () => {
  let linux: LinuxLab
  let directory = ""
  let image = ""
  let sum = ""

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), "virtkit-disk-"))
    image = join(directory, "disk")
    await writeFile(image, "")
    const file = await open(image, "r+")
    await file.truncate(512 * MiB)
    await file.close()
    const programs = ["mke2fs"]
    linux = await LinuxLab.start(scripts, { memory: 2 * GiB, disks: [{ path: image }], programs })
  }, 240_000)
  afterAll(async () => {
    await linux?.lab.close()
    await rm(directory, { recursive: true, force: true })
  }, 60_000)

  const guest = (script: string, disk: string, ...args: string[]) =>
    linux.run(script, { args: [`--disk=${linux.lab.disks[0]},${disk}`, "--timeout=120", ...args] })

  /** A look at the file system from the host, without the guest. */
  async function checkFromHost(): Promise<void> {
    await run(findTool("e2fsck")!, ["-fn", image]) // rejects unless it is clean
    const copy = join(directory, "data")
    await run(findTool("debugfs")!, ["-R", `dump /data ${copy}`, image])
    expect((await stat(copy)).size).toBe(200 * MiB)
    expect(await hashOf(copy)).toBe(sum)
  }

  it("has the serial number and the queues that it was given", async () => {
    const { status, stdout, stderr } = await guest("fill", "serial=virtkit-7,queues=2", "--cpus=2")
    expect({ status, stderr }, stdout).toEqual({ status: 0, stderr: "" })
    expect(stdout).toContain("filled\n")
    expect(fact(stdout, "serial")).toBe("virtkit-7")
    expect(fact(stdout, "queues")).toBe("2")
    expect(fact(stdout, "cache")).toBe("write back")
    sum = fact(stdout, "sum")?.split(" ")[0] ?? ""
    expect(sum).toMatch(/^[0-9a-f]{64}$/)
  })

  it("holds, seen from the host, what the guest wrote: 200 MB of random data", async () => {
    await checkFromHost()
  })

  it("cannot be written when it is read-only, and stays as it is to the byte", async () => {
    const before = await hashOf(image)
    const { status, stdout } = await guest("readonly", "readonly")
    expect(status).toBe(0)
    expect(fact(stdout, "ro")).toBe("1")
    expect(fact(stdout, "sum"), stdout).toContain(sum)
    expect(stdout).toContain("no remount\n")
    expect(stdout).toMatch(/(touch: .*Read-only file system|touch: .*Input\/output error)\nno new file\n/)
    expect(stdout).toMatch(
      /dd: .*(not permitted|Permission denied|Read-only|Input\/output error)(.*\n)*no raw write\n/,
    )
    expect(await hashOf(image)).toBe(before)
  })

  it("gives blocks back to the host that the guest discards", async () => {
    const before = await allocated(image)
    expect(before).toBeGreaterThan(230 * MiB)
    const { status, stdout } = await guest("trim", "cache=writethrough")
    expect(status).toBe(0)
    expect(stdout).toContain("trimmed\n")
    expect(before - (await allocated(image))).toBeGreaterThan(32 * MiB)
    await checkFromHost()
  })

  it("on two threads, one for each queue, holds what the guest wrote, too", async () => {
    const inLab = "/tmp/threads.json"
    const args = ["--cpus=2", `--report=${inLab}`]
    const { status, stdout, stderr } = await guest("fill", "queues=2,thread=2", ...args)
    expect({ status, stderr }, stdout).toEqual({ status: 0, stderr: "" })
    expect(fact(stdout, "queues")).toBe("2")
    sum = fact(stdout, "sum")?.split(" ")[0] ?? ""
    expect(sum).toMatch(/^[0-9a-f]{64}$/)
    await checkFromHost()
    // What the threads have counted.
    const report = join(directory, "report.json")
    await linux.lab.copyOut(inLab, report)
    const { devices } = JSON.parse(await readFile(report, "utf8"))
    const { queues } = devices.find(({ name }: { name: string }) => name.startsWith("blk"))
    expect(queues.length).toBe(2)
    for (const { chains, notifications, interrupts } of queues) {
      expect([chains > 0, notifications > 0, interrupts > 0]).toEqual([true, true, true])
    }
  })
})
