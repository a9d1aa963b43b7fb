import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import { GUEST_SHELL, type GuestShell, LinuxLab, NET_TOOLS, netTools } from "../src/index.js"

const GiB = 2 ** 30
const MAC = "52:54:00:12:34:56"
const HOST = "10.0.5.1"
const GUEST = "10.0.5.2"
const TOOLS = `export LD_LIBRARY_PATH=${NET_TOOLS} PATH=${NET_TOOLS}:$PATH`

/** How the device is made. */
interface Card {
  readonly queues: number
  readonly offloads: "on" | "off"
}

/** Sum of counters whose name says that something was wrong, of /proc/net/snmp and of interfaces' statistics. */
const ERRORS = (device: string) =>
  `awk '/^(Ip|Icmp|Tcp|Udp):/ { if (names[$1]++) { for (i = 2; i <= NF; i++) if (name[$1, i] ~ /InCsumErrors|InErrs|InHdrErrors/ && $i > 0) print $1, name[$1, i], $i } else for (i = 2; i <= NF; i++) name[$1, i] = $i }' /proc/net/snmp; for f in /sys/class/net/${device}/statistics/*err*; do read -r n <$f; [ $n = 0 ] || echo $f $n; done`

const COMPLAINTS =
  "dmesg -r | grep '^<[0-4]>' | sed 's/^.*\\] //' | grep -vE 'No config space access function found|unable to open an initial console' || true"

describe("a Linux guest on a TAP interface", { timeout: 300_000 }, () => {
  let linux: LinuxLab
  let guest: GuestShell | undefined

  beforeAll(async () => {
    const tools = await netTools()
    linux = await LinuxLab.start(
      { shell: GUEST_SHELL },
      {
        memory: 2 * GiB,
        include: ["ip"],
        shares: tools,
        files: tools,
        modules: ["virtio_net"],
        programs: ["/usr/lib/x86_64-linux-gnu/libm.so.6"],
      },
    )
    await linux.sh("modprobe tun")
  }, 240_000)
  afterEach(async () => {
    await guest?.end()
    guest = undefined
  }, 60_000)
  afterAll(() => linux?.lab.close(), 60_000)

  /** Makes the interface anew and starts a guest that has it as its eth0. */
  async function start({ queues, offloads }: Card): Promise<GuestShell> {
    await linux.sh(`ip() { /usr/bin/ip "$@"; } # busybox has one, too
ip link del tap0 2>/dev/null || true
ip tuntap add dev tap0 mode tap ${queues > 1 ? "multi_queue" : ""}
ip addr add ${HOST}/24 dev tap0
ip link set tap0 mtu 9000 up`)
    const net = `tap=tap0,mac=${MAC},queues=${queues},offloads=${offloads}`
    guest = await linux.shell("shell", [
      "--console=virtio",
      "--cpus=2",
      "--memory=256M",
      "--timeout=240",
      `--net=${net}`,
    ])
    await guest.run(`${TOOLS}; ip addr add ${GUEST}/24 dev eth0; ip link set eth0 up`)
    return guest
  }

  /** No error was counted on either side, and the guest's kernel did not complain. */
  async function expectClean(shell: GuestShell): Promise<void> {
    expect(await shell.run(ERRORS("eth0"))).toBe("")
    expect(await linux.sh(ERRORS("tap0"))).toBe("")
    expect(await shell.run(COMPLAINTS)).toBe("")
  }

  it("shows the card as it was made", async () => {
    const shell = await start({ queues: 2, offloads: "on" })
    expect(await shell.run("cd /sys/class/net/eth0; cat address mtu carrier; ls -1 queues; cd /")).toBe(
      `${MAC}\n9000\n1\nrx-0\nrx-1\ntx-0\ntx-1\n`,
    )
    expect(await shell.run("ethtool -i eth0")).toMatch(/^driver: virtio_net\n/)
    expect(await shell.run("ethtool -l eth0")).toMatch(
      /maximums:\n(.*\n)*?Combined:\s*2\n(.*\n)*?Combined:\s*2\n/,
    )
    const features = await shell.run("ethtool -k eth0")
    for (const name of [
      ...["rx-checksumming", "tx-checksumming", "tcp-segmentation-offload", "tx-tcp6-segmentation"],
      "generic-receive-offload",
    ]) {
      expect(features).toMatch(new RegExp(`^\\s*${name}: on`, "m"))
    }
    expect(await shell.run("ethtool -S eth0")).toMatch(/rx_queue_1_packets/)
    expect(await shell.run(`ping -c 20 -i 0.05 ${HOST}`)).toMatch(
      /20 packets transmitted, 20 (packets )?received/,
    )
    await expectClean(shell)
  })
})
