import { createHash } from "node:crypto"
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import { GUEST_SHELL, type GuestShell, LinuxLab, NET_TOOLS, netTools } from "../src/index.js"

const GiB = 2 ** 30
const MAC = "52:54:00:12:34:56"
const HOST = "10.0.5.1"
const GUEST = "10.0.5.2"
const TOOLS = `export LD_LIBRARY_PATH=${NET_TOOLS} PATH=${NET_TOOLS}:$PATH`
/** Random bytes that TCP carries: MiB. */
const STREAM = 8

/** How the device is made in a round of tests. */
interface Card {
  readonly queues: number
  readonly offloads: "on" | "off"
}

const cards: Card[] = [
  { queues: 1, offloads: "off" },
  { queues: 2, offloads: "on" },
]

/** Sum of counters whose name says that something was wrong, of /proc/net/snmp and of interfaces' statistics. */
const ERRORS = (device: string) =>
  `awk '/^(Ip|Icmp|Tcp|Udp):/ { if (names[$1]++) { for (i = 2; i <= NF; i++) if (name[$1, i] ~ /InCsumErrors|InErrs|InHdrErrors/ && $i > 0) print $1, name[$1, i], $i } else for (i = 2; i <= NF; i++) name[$1, i] = $i }' /proc/net/snmp; for f in /sys/class/net/${device}/statistics/*err*; do read -r n <$f; [ $n = 0 ] || echo $f $n; done`

const COMPLAINTS =
  "dmesg -r | grep '^<[0-4]>' | sed 's/^.*\\] //' | grep -vE 'No config space access function found|unable to open an initial console' || true"

interface IperfEnd {
  readonly error?: string
  readonly end: { readonly sum_received: { readonly bytes: number } }
}

describe("a Linux guest on a TAP interface", { timeout: 180_000 }, () => {
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
    // nc that is to receive must not see an end of its input: opened for both, a FIFO has none.
    await linux.sh(`modprobe tun; mkfifo /tmp/never; ${TOOLS}; iperf3 -s -D`)
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
    guest = await linux.shell("shell", ["--console=virtio", "--cpus=2", "--memory=256M", `--net=${net}`])
    await guest.run(`${TOOLS}; ip addr add ${GUEST}/24 dev eth0; ip link set eth0 up; mkfifo /tmp/never`)
    return guest
  }

  /** No error was counted on either side, and the guest's kernel did not complain. */
  async function expectClean(shell: GuestShell): Promise<void> {
    expect(await shell.run(ERRORS("eth0"))).toBe("")
    expect(await linux.sh(ERRORS("tap0"))).toBe("")
    expect(await shell.run(COMPLAINTS)).toBe("")
  }

  it("sees the card as it was made", async () => {
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
    await expectClean(shell)
  })

  describe.each(cards)("with $queues pairs of queues, offloads $offloads", (card) => {
    it(`gets and sends ${STREAM} MiB by TCP as they are, and runs iperf3`, async () => {
      const shell = await start(card)
      const features = await shell.run("ethtool -k eth0")
      expect(features).toMatch(new RegExp(`^tcp-segmentation-offload: ${card.offloads}`, "m"))
      expect(features).toMatch(new RegExp(`^tx-checksumming: ${card.offloads}`, "m"))
      await sendBothWays(shell)
      for (const [mtu, options] of [
        [9000, "-n 1M -P 4"],
        [9000, "-n 1M -P 4 -R"],
        [1500, "-n 1M"],
        [1500, "-n 1M -R"],
        [1500, "-u -b 20M -n 500K -P 4"],
        [1500, "-u -b 20M -n 500K -P 4 -R"],
      ] as const) {
        await shell.run(`ip link set eth0 mtu ${mtu}`)
        await linux.sh(`ip link set tap0 mtu ${mtu}`)
        await iperf(shell, options)
      }
      await expectClean(shell)
    })
  })

  it("and the host ping each other 10,000 times in flood, and nothing is lost", async () => {
    const shell = await start({ queues: 1, offloads: "on" })
    const flood = (address: string) => `${NET_TOOLS}/ping -f -q -w 60 -c 10000 ${address}`
    const lossless = "10000 packets transmitted, 10000 received, 0% packet loss"
    expect(await shell.run(flood(HOST))).toContain(lossless)
    expect(await linux.sh(`${TOOLS}; ${flood(GUEST)}`)).toContain(lossless)
    await expectClean(shell)
  })

  /** Random bytes from the host to the guest and back, each way compared by their hash. */
  async function sendBothWays(shell: GuestShell): Promise<void> {
    const sum = await linux.sh(
      `dd if=/dev/urandom of=/tmp/sent bs=1M count=${STREAM} 2>/dev/null; sha256sum </tmp/sent`,
    )
    expect(sum).toMatch(/^[0-9a-f]{64} /)
    const empty = createHash("sha256").digest("hex")
    expect(sum).not.toContain(empty)
    const down = linux.sh("nc -l -p 7001 </tmp/sent >/dev/null")
    expect(
      await shell.run(
        `until nc ${HOST} 7001 <>/tmp/never >/tmp/got; do usleep 50000; done; sha256sum </tmp/got`,
      ),
    ).toBe(sum)
    await down
    const up = linux.sh("nc -l -p 7002 >/tmp/got <>/tmp/never; sha256sum </tmp/got")
    await shell.run(`until nc ${HOST} 7002 </tmp/got >/dev/null; do usleep 50000; done`)
    expect(await up).toBe(sum)
  }

  /** One run, the guest the client. It is over when iperf3 has no error to tell. */
  async function iperf(shell: GuestShell, options: string): Promise<void> {
    const said = await shell.run(`iperf3 -c ${HOST} -J ${options}`)
    const { error, end } = JSON.parse(said) as IperfEnd
    expect({ options, error }).toEqual({ options, error: undefined })
    expect(end.sum_received.bytes).toBeGreaterThan(0)
  }
})
