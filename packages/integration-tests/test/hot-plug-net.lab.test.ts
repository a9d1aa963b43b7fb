import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { EXPECTED_COMPLAINTS, LinuxLab } from "../src/index.js"

const GiB = 2 ** 30
const ROUNDS = 10

/** Shell scripts that guests execute as their process 1. */
const scripts = {
  "hot-plug-net": `(
  read -r line
  echo "complaints:"
  dmesg -r | grep '^<[0-4]>' | sed 's/^.*\\] //'
  echo "end of complaints"
) </dev/console &
echo ready
round=0
while :; do
  while [ ! -e /sys/class/net/eth0/address ]; do usleep 20000; done
  round=$((round + 1))
  ip addr add 10.0.5.2/24 dev eth0
  ip link set eth0 up
  ping -c 3 -A -q 10.0.5.1 >/tmp/said 2>&1
  answered=$(sed -n 's/.* \\([0-9]*\\) packets received.*/\\1/p' /tmp/said)
  echo round $round mac $(cat /sys/class/net/eth0/address) answered \${answered:-0}
  ping -A -q 10.0.5.1 >/dev/null 2>&1 &
  ping=$!
  while [ -e /sys/class/net/eth0 ]; do usleep 20000; done
  kill $ping 2>/dev/null
  wait $ping
  echo gone $round
done
`,
}

interface Result {
  readonly rounds: readonly { answered: number; mac: string; frames: number; errors: number }[]
  readonly before: object
  readonly after: object
  readonly complaints: string
}

describe("a network device that comes and goes while a Linux guest runs", { timeout: 300_000 }, () => {
  let linux: LinuxLab

  beforeAll(async () => {
    linux = await LinuxLab.start(scripts, { memory: 2 * GiB, include: ["ip"], modules: ["virtio_net"] })
    await linux.sh(`modprobe tun
ip() { /usr/bin/ip "$@"; } # busybox has one, too
ip tuntap add dev tap0 mode tap multi_queue
ip addr add 10.0.5.1/24 dev tap0
ip link set tap0 up`)
  }, 240_000)
  afterAll(() => linux?.lab.close(), 60_000)

  it(`${ROUNDS} times, while the guest sends: each answers pings, nothing is left`, async () => {
    const { rounds, before, after, complaints } = (await linux.program(
      "hot-plug-net",
      String(ROUNDS),
    )) as Result
    expect(rounds.map(({ answered, mac, errors }) => ({ answered, mac, errors }))).toEqual(
      Array.from({ length: ROUNDS }, (_none, index) => ({
        answered: 3,
        mac: `52:54:00:00:00:${String(index + 1).padStart(2, "0")}`,
        errors: 0,
      })),
    )
    for (const { frames } of rounds) expect(frames).toBeGreaterThan(20)
    expect(after).toEqual(before)
    const expected = new RegExp(`${EXPECTED_COMPLAINTS}|^$`)
    expect(complaints.split("\n").filter((line) => !expected.test(line))).toEqual([])
  })
})
