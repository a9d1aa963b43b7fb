import { execFileSync } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { findTool, type LabProcess } from "@virtkit/lab"
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import {
  GUEST_SHELL,
  type GuestShell,
  IN_LAB,
  LinuxLab,
  makeRootDisk,
  ROOT_MODULES,
  ROOT_SCRIPT,
} from "../src/index.js"

const GiB = 2 ** 30
const VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
const MEMORY = "--memory=256M"
const CONSOLE = "--console=virtio"

describe("a guest of virtkit run with devices of other programs", { timeout: 480_000 }, () => {
  let linux: LinuxLab
  let guest: GuestShell | undefined
  const backEnds: LabProcess[] = []
  const folder = mkdtempSync(join(tmpdir(), "virtkit-vhost-user-"))
  const image = join(folder, "root.img")

  beforeAll(async () => {
    makeRootDisk(image, 64)
    linux = await LinuxLab.start(
      { shell: GUEST_SHELL, root: ROOT_SCRIPT },
      {
        memory: 2 * GiB,
        disks: [{ path: image }],
        include: ["qemu-storage-daemon", VIRTIOFSD, "ip"],
        modules: ["virtiofs", "virtio_net", ...ROOT_MODULES],
      },
    )
  }, 240_000)
  afterEach(async () => {
    await guest?.end()
    guest = undefined
    for (const child of backEnds.splice(0)) {
      child.kill("SIGKILL")
      await child.exited
    }
  }, 60_000)
  afterAll(async () => {
    await linux?.lab.close()
    rmSync(folder, { recursive: true, force: true })
  }, 60_000)

  /** Starts a program in the lab and waits for its socket. */
  async function serve(socket: string, ...command: string[]): Promise<LabProcess> {
    const child = linux.lab.spawn(command)
    let said = ""
    for (const stream of [child.stdout, child.stderr])
      stream.on("data", (bytes: Buffer) => {
        said += bytes
      })
    backEnds.push(child)
    const ended = child.exited.then(({ status }) => {
      throw new Error(`${command[0]} ended with ${status}: ${said}`)
    })
    ended.catch(() => {})
    await Promise.race([linux.sh(`until [ -S ${socket} ]; do sleep 0.1; done`), ended])
    return child
  }

  it("mounts a directory through Debian's virtiofsd, reads and writes it, and outlives its end", async () => {
    await linux.sh("mkdir -p /tmp/shared && head -c 2000000 /dev/urandom >/tmp/shared/theirs")
    const socket = "/tmp/fs.sock"
    const options = ["-f", "-o", "source=/tmp/shared,sandbox=chroot", `--socket-path=${socket}`]
    const daemon = await serve(socket, VIRTIOFSD, ...options)
    const device = `--device=vhost-user,type=fs,socket=${socket},tag=shared`
    guest = await linux.shell("shell", [MEMORY, CONSOLE, device])
    await guest.run("mount -t virtiofs shared /mnt")
    const theirs = await linux.sh("sha256sum </tmp/shared/theirs")
    expect(await guest.run("sha256sum </mnt/theirs")).toBe(theirs)
    await guest.run("dd if=/dev/urandom of=/mnt/ours bs=64k count=24 2>/dev/null && mkdir /mnt/sub")
    await guest.run(
      "for n in $(seq 20); do echo $n >/mnt/sub/$n; done; mv /mnt/sub/1 /mnt/sub/one; rm /mnt/sub/2",
    )
    const ours = await guest.run("sha256sum </mnt/ours; cat /mnt/sub/* | sha256sum; ls /mnt/sub | wc -l")
    expect(await linux.sh("cd /tmp/shared; sha256sum <ours; cat sub/* | sha256sum; ls sub | wc -l")).toBe(
      ours,
    )
    expect(await guest.run("umount /mnt && mount -t virtiofs shared /mnt && sha256sum </mnt/ours")).toBe(
      `${ours.split("\n")[0]}\n`,
    )
    // What it had open is gone with it: the device needs a reset, the guest goes on.
    daemon.kill("SIGKILL")
    await daemon.exited
    expect(await guest.run("echo alive")).toBe("alive\n")
    const { stderr } = await guest.end()
    guest = undefined
    expect(stderr).toContain("virtkit: fs0: the back end has gone; the guest can reset it")
  })

  it("reaches its host by a card of virtkit serve, over two pairs of queues", async () => {
    const socket = "/tmp/net.sock"
    await linux.sh("modprobe tun")
    const net = ["--socket", socket, "--net=tap=tap0,create,queues=2"]
    await serve(socket, "node", IN_LAB.virtkit, "serve", "net", ...net)
    await linux.sh("ip addr add 10.0.9.1/24 dev tap0; ip link set tap0 up")
    const device = `--device=vhost-user,type=net,socket=${socket},mac=52:54:00:12:34:56,queues=2`
    guest = await linux.shell("shell", [MEMORY, CONSOLE, "--cpus=2", device])
    expect(await guest.run("cat /sys/class/net/eth0/address; ls /sys/class/net/eth0/queues | wc -l")).toBe(
      "52:54:00:12:34:56\n4\n",
    )
    await guest.run("ip addr add 10.0.9.2/24 dev eth0; ip link set eth0 up")
    const ping = "ping -c 5 -i 0.2 -s 1400 -W 10 10.0.9.1 | grep received"
    expect(await guest.run(ping)).toContain("5 packets received")
  })

  it("has its root file system on a disk of qemu-storage-daemon", async () => {
    const socket = "/tmp/disk.sock"
    await serve(
      socket,
      "qemu-storage-daemon",
      ...["--blockdev", `driver=host_device,node-name=disk,filename=${linux.lab.disks[0]}`],
      ...[
        "--export",
        `vhost-user-blk,id=e,node-name=disk,addr.type=unix,addr.path=${socket},writable=on,num-queues=2`,
      ],
    )
    const device = `--device=vhost-user,type=blk,socket=${socket}`
    guest = await linux.shell("root", [MEMORY, CONSOLE, "--cpus=2", device])
    expect(await guest.run("stat -f -c %T / && ls /sys/block/vda/mq | wc -l")).toBe("ext2/ext3\n2\n")
    const sum = await guest.run(
      "dd if=/dev/urandom of=/data/file bs=64k count=48 2>/dev/null; sha256sum </data/file",
    )
    expect(await guest.run("sync; echo 3 >/proc/sys/vm/drop_caches; sha256sum </data/file")).toBe(sum)
    expect(await guest.run("dmesg | grep -iE 'i/o error|ext4-fs error' || true")).toBe("")
    expect((await guest.end()).status).toBe(0)
    guest = undefined
    // The guest's own end leaves the journal to be replayed.
    const again = await linux.shell("root", [MEMORY, CONSOLE, "--transport=mmio", device])
    expect(await again.run("sha256sum </data/file; mount -o remount,ro /")).toBe(sum)
    await again.end()
    await linux.sh("sync")
    execFileSync(findTool("e2fsck") ?? "e2fsck", ["-fn", image], { stdio: "pipe" })
  })
})
