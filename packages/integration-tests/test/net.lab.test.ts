import { execFile } from "node:child_process"
import { mkdtemp, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { promisify } from "node:util"
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import {
  EXPECTED_COMPLAINTS,
  GUEST_SHELL,
  type GuestShell,
  LinuxLab,
  NET_TOOLS,
  netTools,
} from "../src/index.js"

const execute = promisify(execFile)
const GiB = 2 ** 30
const MAC = "52:54:00:12:34:56"
const HOST = "10.0.5.1"
const GUEST = "10.0.5.2"
const TOOLS = `export LD_LIBRARY_PATH=${NET_TOOLS} PATH=${NET_TOOLS}:$PATH`

/** How the device is made. */
interface Card {
  readonly queues: number
  readonly offloads: "on" | "off"
  /** A file of the lab. */
  readonly capture?: string
}

/** How the driver is told to use it. */
interface Setting {
  readonly queues: number
  readonly offloads: "on" | "off"
  readonly mtu: number
}

const settings: Setting[] = [2, 1].flatMap((queues) =>
  (["on", "off"] as const).flatMap((offloads) => [9000, 1500].map((mtu) => ({ queues, offloads, mtu }))),
)

/** Both ways at once, one and four streams. What a UDP run sends fits the time that such a guest needs for it. */
const runs = ["-n 8M", "-u -b 20M -n 400K"].flatMap((kind) =>
  [1, 4].map((streams) => `${kind} -P ${streams}`),
)

/** Sum of counters whose name says that something was wrong, of /proc/net/snmp and of interfaces' statistics. */
const ERRORS = (device: string) =>
  `awk '/^(Ip|Icmp|Tcp|Udp):/ { if (names[$1]++) { for (i = 2; i <= NF; i++) if (name[$1, i] ~ /InCsumErrors|InErrs|InHdrErrors/ && $i > 0) print $1, name[$1, i], $i } else for (i = 2; i <= NF; i++) name[$1, i] = $i }' /proc/net/snmp; for f in /sys/class/net/${device}/statistics/*err*; do read -r n <$f; [ $n = 0 ] || echo $f $n; done`

const COMPLAINTS = `dmesg -r | grep '^<[0-4]>' | sed 's/^.*\\] //' | grep -vE '${EXPECTED_COMPLAINTS}|unable to open an initial console' || true`

describe("a Linux guest on a TAP interface", { timeout: 600_000 }, () => {
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
    await linux.sh(`modprobe tun; ${TOOLS}; iperf3 -s -D`)
  }, 240_000)
  afterEach(async () => {
    await guest?.end()
    guest = undefined
  }, 60_000)
  afterAll(() => linux?.lab.close(), 60_000)

  /** Makes the interface anew and starts a guest that has it as its eth0. */
  async function start({ queues, offloads, capture }: Card): Promise<GuestShell> {
    await linux.sh(`ip() { /usr/bin/ip "$@"; } # busybox has one, too
ip link del tap0 2>/dev/null || true
ip tuntap add dev tap0 mode tap ${queues > 1 ? "multi_queue" : ""}
ip addr add ${HOST}/24 dev tap0
ip link set tap0 mtu 9000 up`)
    const file = capture === undefined ? "" : `,capture=${capture}`
    const net = `tap=tap0,mac=${MAC},queues=${queues},offloads=${offloads}${file}`
    guest = await linux.shell("shell", [
      "--console=virtio",
      "--cpus=2",
      "--memory=256M",
      "--timeout=500",
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

  /** One run of iperf3, the guest the client: it ends without an error, and all streams of both ways carried something. */
  async function iperf(shell: GuestShell, options: string): Promise<void> {
    const said = await shell.run(`iperf3 -c ${HOST} --bidir -i 0 -f k ${options} 2>&1`)
    expect(said).toMatch(/^iperf Done\.$/m)
    const sent = [...said.matchAll(/^\[ *\d+\]\[([RT]X)-C\].* +([\d.]+) Kbits\/sec.* sender$/gm)]
    const streams = Number(/-P (\d)/.exec(options)?.[1])
    for (const way of ["TX", "RX"]) expect(sent.filter(([, kind]) => kind === way)).toHaveLength(streams)
  }

  it("shows the card as it was made, and runs iperf3 with 1 and 2 queues, MTU 1500 and 9000, offloads and none", async () => {
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

    for (const setting of settings) {
      await use(shell, setting)
      for (const options of runs) await iperf(shell, options)
    }
    await expectClean(shell)
  })

  it("runs iperf3 without any offload", async () => {
    const shell = await start({ queues: 1, offloads: "off" })
    const features = await shell.run("ethtool -k eth0")
    for (const name of ["tx-checksumming", "tcp-segmentation-offload", "rx-gro-hw"]) {
      expect(features).toMatch(new RegExp(`^${name}: off`, "m"))
    }
    for (const mtu of [9000, 1500]) {
      await use(shell, { queues: 1, offloads: "off", mtu })
      for (const options of runs) await iperf(shell, options)
    }
    await expectClean(shell)
  })

  it("and the host ping each other 10,000 times in flood, and nothing is lost", async () => {
    const shell = await start({ queues: 1, offloads: "on" })
    const flood = (address: string) => `${NET_TOOLS}/ping -f -q -w 120 -c 10000 ${address}`
    const lossless = "10000 packets transmitted, 10000 received, 0% packet loss"
    expect(await shell.run(flood(HOST))).toContain(lossless)
    expect(await linux.sh(`${TOOLS}; ${flood(GUEST)}`)).toContain(lossless)
    await expectClean(shell)
  })

  it("is captured: tcpdump and tshark read what the guest counted", async () => {
    const capture = "/tmp/capture.pcapng"
    const clock = async () => Number(await linux.sh("date +%s"))
    const began = await clock()
    const shell = await start({ queues: 1, offloads: "on", capture })
    await iperf(shell, "-n 2M -P 1")
    await iperf(shell, "-u -b 20M -n 400K -P 4")
    await shell.run("ip link set eth0 down")
    const counted = await shell.run(
      "cd /sys/class/net/eth0/statistics; cat rx_packets rx_bytes tx_packets tx_bytes; cd /",
    )
    await guest?.end()
    guest = undefined
    const ended = await clock()

    const directory = await mkdtemp(join(tmpdir(), "virtkit-capture-"))
    try {
      const file = join(directory, "capture.pcapng")
      await linux.lab.copyOut(capture, file)
      const { stdout: lines } = await execute("tcpdump", ["-n", "-r", file], { maxBuffer: 2 ** 27 })
      const fields = ["frame.time_epoch", "frame.len", "frame.packet_flags_direction"]
      const words = ["-n", "-r", file, "-T", "fields", ...fields.flatMap((field) => ["-e", field])]
      const { stdout: table } = await execute("tshark", words, { maxBuffer: 2 ** 27 })
      const frames = table
        .trimEnd()
        .split("\n")
        .map((line) => {
          const [time, length, direction] = line.split("\t").map(Number) as [number, number, number]
          return { time, length, direction }
        })
      // What tcpdump does not know it adds as lines of bytes.
      expect(lines.match(/^\d\d:\d\d:\d\d\.\d+ /gm)).toHaveLength(frames.length)

      const [rxPackets, rxBytes, txPackets, txBytes] = counted.trim().split("\n").map(Number)
      const lengths = (direction: number) =>
        frames.filter((frame) => frame.direction === direction).map(({ length }) => length)
      const sum = (numbers: readonly number[]) => numbers.reduce((all, one) => all + one, 0)
      const [received, sent] = [lengths(1), lengths(2)]
      expect(received.length).toBeGreaterThan(100)
      expect({ packets: received.length, bytes: sum(received) }).toEqual({
        packets: rxPackets,
        bytes: rxBytes,
      })
      // The driver counts what it sent when it looks for its buffers: the last ones may be missing.
      expect(txPackets).toBeGreaterThan(100)
      expect(sent.length - txPackets!).toBeGreaterThanOrEqual(0)
      expect(sent.length - txPackets!).toBeLessThanOrEqual(256)
      expect(sum(sent.slice(0, txPackets))).toBe(txBytes)

      const times = frames.map(({ time }) => time)
      expect(times).toEqual([...times].sort((a, b) => a - b))
      expect(times[0]).toBeGreaterThanOrEqual(began)
      expect(times.at(-1)).toBeLessThanOrEqual(ended + 1)
    } finally {
      await rm(directory, { recursive: true, force: true })
    }
  })

  /** By the driver's own commands. What is so already, ethtool refuses. */
  async function use(shell: GuestShell, { queues, offloads, mtu }: Setting): Promise<void> {
    const said = await shell.run(
      `ip link set eth0 mtu ${mtu}; ethtool -L eth0 combined ${queues} 2>/dev/null; ethtool -K eth0 tx ${offloads} sg ${offloads} tso ${offloads} gso ${offloads} gro ${offloads} rx-gro-hw ${offloads} >/dev/null 2>&1; ethtool -l eth0 | grep Combined; ethtool -k eth0 | grep -E '^(tx-checksumming|tcp-segmentation-offload|rx-gro-hw)'`,
    )
    expect(said).toMatch(new RegExp(`Combined:\\s*${queues}\n.*: ${offloads}`))
    await linux.sh(`/usr/bin/ip link set tap0 mtu ${mtu}`)
  }
})
