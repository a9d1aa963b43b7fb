import { execFileSync } from "node:child_process"
import { createHash } from "node:crypto"
import { existsSync, mkdtempSync, rmSync, statSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { findTool } from "@virtkit/lab"
import { afterAll, afterEach, describe, expect, it } from "vitest"
import {
  type GuestShell,
  makeRootDisk,
  PingPeer,
  qemuGuest,
  ROOT_MODULES,
  ROOT_SCRIPT,
  ServeProcess,
} from "../src/index.js"

const folder = mkdtempSync(join(tmpdir(), "virtkit-vhost-user-"))
const MiB = 2 ** 20
/** Writers, files of each, and what every file is a copy of. */
const WRITERS = 3
const FILES = 5
const FILE_MIB = 4

/** A program that e2fsprogs has outside of the PATH of some. */
const tool = (name: string, ...args: string[]) =>
  execFileSync(findTool(name) ?? name, args, { maxBuffer: 64 * MiB, stdio: ["ignore", "pipe", "pipe"] })
const frontEnd = (id: string, socket: string) => ["-chardev", `socket,id=${id},path=${socket},reconnect=1`]
const written = (path: string) => statSync(path).blocks * 512

/** Empty where TAP interfaces can be made, else why not, to be part of the test's name. */
const noTap =
  process.geteuid?.() === 0 && existsSync("/dev/net/tun") && findTool("ip")
    ? ""
    : " (skipped: it takes root, /dev/net/tun and ip to make a TAP interface)"

describe("QEMU's guests with devices of virtkit serve", { timeout: 480_000 }, () => {
  let guest: GuestShell | undefined
  const serving: ServeProcess[] = []
  const taps: string[] = []
  async function serve(...args: string[]): Promise<ServeProcess> {
    const process = await ServeProcess.start(args)
    serving.push(process)
    return process
  }

  afterEach(async () => {
    await guest?.end()
    guest = undefined
    for (const process of serving.splice(0)) await process.kill()
    for (const name of taps.splice(0)) tool("ip", "link", "delete", name)
  }, 60_000)
  afterAll(() => rmSync(folder, { recursive: true, force: true }))

  /** A TAP interface of this host with several queues and an address, for as long as the test. */
  function makeTap(name: string, address: string): void {
    tool("ip", "tuntap", "add", "dev", name, "mode", "tap", "multi_queue")
    taps.push(name)
    tool("ip", "addr", "add", address, "dev", name)
    tool("ip", "link", "set", name, "up")
  }

  it.skipIf(noTap !== "")(
    `boot from their root disk and reach this host by their card, over all queues, and lose nothing when both servers are killed while they write${noTap}`,
    async () => {
      const image = join(folder, "disk.img")
      makeRootDisk(image, 192)
      makeTap("vkq0", "10.0.9.1/24")
      const [diskSocket, netSocket] = [join(folder, "disk.sock"), join(folder, "card.sock")]
      const blk = ["blk", "--socket", diskSocket, "--disk", `${image},serial=vhost`]
      const net = ["net", "--socket", netSocket, "--net", "tap=vkq0,queues=2"]
      let [disk, card] = [await serve(...blk), await serve(...net)]
      guest = await qemuGuest({
        script: ROOT_SCRIPT,
        args: [
          ...frontEnd("disk", diskSocket),
          ...["-device", "vhost-user-blk-pci,chardev=disk,num-queues=2"],
          ...frontEnd("card", netSocket),
          ...["-netdev", "vhost-user,id=net,chardev=card,queues=2"],
          // Without KVM, QEMU 7.2 crashes when the driver of such a card unmasks a vector of MSI-X.
          ...["-device", "virtio-net-pci,netdev=net,mac=52:54:00:aa:bb:cc,mq=on,vectors=0"],
        ],
        modules: [...ROOT_MODULES, "virtio_net"],
      })
      expect(await guest.run("ls /sys/block/vda/mq | wc -l; cat /sys/block/vda/serial; echo")).toBe(
        "2\nvhost\n",
      )
      expect(
        await guest.run("grep -c ' / ext4 ' /proc/mounts; ls -d /sys/class/net/eth0/queues/* | wc -l"),
      ).toBe("1\n4\n")
      await guest.run("ip addr add 10.0.9.2/24 dev eth0; ip link set eth0 up")
      const ping = "ping -c 5 -i 0.2 -s 1400 -W 10 10.0.9.1 | grep received"
      expect(await guest.run(ping)).toContain("5 packets received")
      const sum = await guest.run(
        `dd if=/dev/urandom of=/tmp/file bs=1M count=${FILE_MIB} 2>/dev/null && md5sum </tmp/file`,
      )

      // Direct and in small pieces, so that requests are in flight at nearly every moment; others by way of the cache.
      await guest.run(
        `write() { for k in $(seq ${FILES}); do dd if=/tmp/file of=/data/$1.$k bs=16k $2 conv=fsync 2>/dev/null || echo $1.$k >>/tmp/failed; done; }`,
      )
      await guest.run(`write 1 & for n in $(seq 2 ${WRITERS}); do write $n oflag=direct & done`)
      // At least three times, and until there was something in flight.
      for (let killed = 0, resumed = false; killed < 3 || !resumed; killed++) {
        const before = written(image)
        while (written(image) < before + 4 * MiB) await new Promise((resolve) => setTimeout(resolve, 5))
        resumed ||= disk.said.includes("were in flight")
        await disk.kill()
        disk = await serve(...blk)
        await disk.hears("a front end connected")
      }
      await card.kill()
      card = await serve(...net)
      await card.hears("a front end connected")
      expect(await guest.run("wait; cat /tmp/failed 2>/dev/null; true")).toBe("")
      expect(await guest.run(ping)).toContain("5 packets received")
      await guest.run("sync; echo 3 >/proc/sys/vm/drop_caches")
      expect(await guest.run("for f in /data/*; do md5sum <$f; done | sort | uniq -c")).toMatch(
        new RegExp(`^\\s*${WRITERS * FILES} ${sum.trim()}\\s*$`),
      )
      expect(await guest.run("dmesg | grep -iE 'i/o error|ext4-fs error|timeout' || true")).toBe("")
      await guest.run("mount -o remount,ro /")
      await guest.end()
      guest = undefined
      expect([await disk.stop(), await card.stop()]).toEqual([0, 0])

      tool("e2fsck", "-fn", image)
      const onDisk = createHash("md5")
        .update(tool("debugfs", "-R", "cat /data/2.3", image))
        .digest("hex")
      expect(`${onDisk}  -`).toBe(sum.trim())
    },
  )

  it("reach others through a network card, also after its server was killed", async () => {
    const socket = join(folder, "net.sock")
    const wire = join(folder, "wire.sock")
    const peer = await PingPeer.listen(wire, "10.0.7.1")
    try {
      const net = ["net", "--socket", socket, "--net", `socket,connect=${wire}`]
      const server = await serve(...net)
      guest = await qemuGuest({
        args: [
          ...frontEnd("card", socket),
          ...["-netdev", "vhost-user,id=net,chardev=card"],
          // Without KVM, QEMU 7.2 crashes when the driver of such a card unmasks a vector of MSI-X.
          ...["-device", "virtio-net-pci,netdev=net,mac=52:54:00:aa:bb:cc,vectors=0"],
        ],
        modules: ["virtio_net"],
      })
      const ping = "ping -c 5 -i 0.2 -s 1400 -W 10 10.0.7.1 | grep received"
      await guest.run("ip addr add 10.0.7.2/24 dev eth0; ip link set eth0 up")
      expect(await guest.run("cat /sys/class/net/eth0/address")).toBe("52:54:00:aa:bb:cc\n")
      expect(await guest.run(ping)).toContain("5 packets received")
      await server.kill()
      const next = await serve(...net)
      await next.hears("a front end connected")
      expect(await guest.run(ping)).toContain("5 packets received")
      expect(peer.pings).toBe(10)
    } finally {
      await peer.close()
    }
  })

  it("get random numbers", async () => {
    const socket = join(folder, "rng.sock")
    await serve("rng", "--socket", socket)
    guest = await qemuGuest({
      args: ["-chardev", `socket,id=rng,path=${socket}`, "-device", "vhost-user-rng-pci,chardev=rng"],
      cpus: 1,
    })
    expect(await guest.run("cat /sys/class/misc/hw_random/rng_current")).toMatch(/^virtio_rng/)
    const bytes = await guest.run("dd if=/dev/hwrng bs=1k count=4 iflag=fullblock 2>/dev/null | gzip | wc -c")
    expect(Number(bytes)).toBeGreaterThan(4096)
  })
})
