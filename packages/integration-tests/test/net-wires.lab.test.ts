import { qemuInclude } from "@virtkit/lab"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { GUEST_SHELL, GuestShell, IN_LAB, LinuxLab, NET_TOOLS, netTools } from "../src/index.js"

const GiB = 2 ** 30
/**
 * What each end of a wire sends, MiB, in packets of so many bytes. More, when it is worth the time: VIRTKIT_TEST_WIRE_MIB=1024, and
 * VIRTKIT_TEST_WIRE_MTU=65000 for fewer packets.
 */
const MIB = Number(process.env.VIRTKIT_TEST_WIRE_MIB ?? 16)
const MTU = Number(process.env.VIRTKIT_TEST_WIRE_MTU ?? 1500)
const HOST = "10.0.5.1"
const GUEST = "10.0.5.2"
const WIRE = "/tmp/wire.sock"

interface Rate {
  readonly bytes: number
  readonly frames: number
}

interface Limits {
  readonly bytes: { readonly unlimited: Rate; readonly limited: Rate; readonly held: number }
  readonly packets: { readonly unlimited: Rate; readonly limited: Rate; readonly held: number }
}

interface Switched {
  readonly there: { readonly sent: string; readonly got: string }
  readonly back: { readonly sent: string; readonly got: string }
  readonly frames: number
  readonly dropped: number
  readonly retransmitted: number
}

describe("wires between guests", { timeout: 300_000 + MIB * 4000 }, () => {
  let linux: LinuxLab

  beforeAll(async () => {
    const tools = await netTools()
    linux = await LinuxLab.start(
      { shell: GUEST_SHELL },
      {
        memory: 3 * GiB,
        include: ["ip", ...qemuInclude],
        shares: tools,
        files: tools,
        modules: ["virtio_net"],
        programs: ["/usr/lib/x86_64-linux-gnu/libm.so.6"],
      },
    )
  }, 240_000)
  afterAll(() => linux?.lab.close(), 60_000)

  it(`carry ${MIB} MiB each way between a guest of virtkit and one of QEMU`, async () => {
    const ours = await linux.shell("shell", [
      ...["--console=virtio", "--memory=256M", `--timeout=${300 + 4 * MIB}`, `--net=socket,listen=${WIRE}`],
    ])
    const theirs = await GuestShell.start(
      linux.lab.spawn([
        ...["qemu-system-x86_64", "-M", "microvm,rtc=on,pit=off,pic=off", "-accel", "kvm", "-cpu", "host"],
        ...["-m", "256M", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"],
        ...["-serial", "stdio", "-kernel", IN_LAB.kernel, "-initrd", IN_LAB.initrd],
        ...["-append", "console=ttyS0 quiet reboot=t panic=-1 script=shell"],
        ...["-netdev", `stream,id=n0,addr.type=unix,addr.path=${WIRE}`],
        ...["-device", "virtio-net-device,netdev=n0"],
      ]),
    )
    for (const [shell, address] of [
      [ours, "10.0.6.1"],
      [theirs, "10.0.6.2"],
    ] as const) {
      await shell.run(`ip addr add ${address}/24 dev eth0; ip link set eth0 mtu ${MTU} up; mkfifo /tmp/never`)
      await shell.run("head -c 1048576 /dev/urandom >/tmp/block")
    }
    const send = async (from: GuestShell, to: GuestShell, address: string): Promise<void> => {
      const all = `for i in $(seq ${MIB}); do cat /tmp/block; done`
      const sum = await from.run(`{ ${all}; } | md5sum`)
      const got = to.run("nc -l -p 7000 <>/tmp/never | md5sum")
      await from.run(`until ${all} | nc ${address} 7000 >/dev/null 2>&1; do usleep 100000; done`)
      expect(await got).toBe(sum)
      expect(sum).toMatch(/^[0-9a-f]{32} {2}-\n$/)
    }
    await send(ours, theirs, "10.0.6.2")
    await send(theirs, ours, "10.0.6.1")
    await theirs.end()
    // QEMU went, and its guest's peer lives.
    await ours.run('until [ "$(cat /sys/class/net/eth0/carrier)" = 0 ]; do usleep 20000; done')
    expect(await ours.end()).toEqual({ status: 0, stderr: "" })
  })

  it("of a switch that drops every 10th frame still carry what was sent", async () => {
    const result = (await linux.program("net-switch", "10", String(1 << 18))) as Switched
    const { there, back, frames, dropped, retransmitted } = result
    for (const { sent, got } of [there, back]) {
      expect(sent).toMatch(/^[0-9a-f]{32} {2}-\n$/)
      expect(got).toBe(sent)
    }
    // 256 KiB in segments of 1448 bytes, twice.
    expect(frames).toBeGreaterThan(360)
    expect(dropped).toBe(Math.floor(frames / 10))
    expect(retransmitted).toBeGreaterThan(0)
  })

  it("are as fast as rate limits allow, within 5 % over 10 s", async () => {
    const seconds = 10
    await linux.sh(`ip() { /usr/bin/ip "$@"; } # busybox has one, too
modprobe tun
ip tuntap add dev tap0 mode tap
ip addr add ${HOST}/24 dev tap0
ip link set tap0 up
export LD_LIBRARY_PATH=${NET_TOOLS}
${NET_TOOLS}/iperf3 -s -D`)
    const { bytes, packets } = (await linux.program("net-limits", HOST, GUEST, String(seconds))) as Limits
    for (const [unlimited, limited, held, limit] of [
      [bytes.unlimited.bytes, bytes.limited.bytes, bytes.held, 12_500_000],
      [packets.unlimited.frames, packets.limited.frames, packets.held, 1000],
    ] as const) {
      expect(limited / limit).toBeLessThanOrEqual(1.05)
      // On a machine that is busy with other things the guest may not come up to the limit.
      if (unlimited < 2 * limit) continue
      expect(limited / limit).toBeGreaterThanOrEqual(0.95)
      expect(held).toBeGreaterThan(0)
    }
  })
})
