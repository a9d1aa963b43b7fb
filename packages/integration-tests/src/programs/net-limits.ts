// Runs in the lab: a Linux guest sends and receives as fast as it can by iperf3, first without and then with a rate limit of its
// network device on the TAP interface tap0. Tells what passed a second, unlimited and in SECONDS of each limit.
import { net, type RateLimit } from "@virtkit/virtio-net"
import { Vm } from "@virtkit/vmm"
import { IN_LAB } from "../linux-lab-paths.js"
import { NET_TOOLS } from "../net-tools-path.js"
import { serialShell } from "../serial-shell.js"

const [host = "", address = "", seconds] = process.argv.slice(2)
/** Longer than a busy machine may keep this process from its work: what it is late for is not lost then. */
const burstMs = 400
const BYTES = { bytesPerSecond: 12_500_000, burstMs }
const PACKETS = { packetsPerSecond: 1000, burstMs }
const UNLIMITED_SECONDS = 2

const card = await net({ tap: "tap0" })
const vm = await Vm.create({
  kernel: IN_LAB.kernel,
  initrd: IN_LAB.initrd,
  cmdline: "quiet script=shell",
  memory: "256M",
  cpus: 1,
  devices: [card],
})
await vm.start()
const shell = await serialShell(vm)
await shell(
  `export LD_LIBRARY_PATH=${NET_TOOLS}; ip addr add ${address}/24 dev eth0; ip link set eth0 up; ping -c 1 -q ${host}`,
)

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

interface Rate {
  readonly bytes: number
  readonly frames: number
}

/** What passed in one direction, a second. */
async function rate(direction: "tx" | "rx", length: number): Promise<Rate> {
  const { counters } = card
  const before = { bytes: counters[`${direction}Bytes`], frames: counters[`${direction}Frames`] }
  const began = performance.now()
  await pause(length * 1000)
  const passed = (performance.now() - began) / 1000
  return {
    bytes: (counters[`${direction}Bytes`] - before.bytes) / passed,
    frames: (counters[`${direction}Frames`] - before.frames) / passed,
  }
}

/** Of one run of iperf3: once its traffic flows without a limit, then with it, when the burst of its beginning is over. */
async function measure(
  direction: "tx" | "rx",
  limit: RateLimit,
  options: string,
): Promise<{ unlimited: Rate; limited: Rate; held: number }> {
  const { counters } = card
  const start = counters.txBytes + counters.rxBytes
  const traffic = shell(
    `${NET_TOOLS}/iperf3 -c ${host} -t ${UNLIMITED_SECONDS + Number(seconds) + 6} ${options} >/tmp/said 2>&1; true`,
  )
  while (counters.txBytes + counters.rxBytes - start < 100_000) await pause(100)
  const unlimited = await rate(direction, UNLIMITED_SECONDS)
  card.setLimits(direction === "tx" ? { transmit: limit } : { receive: limit })
  await pause(2000)
  const held = counters.txLimited + counters.rxLimited
  const limited = await rate(direction, Number(seconds))
  const result = { unlimited, limited, held: counters.txLimited + counters.rxLimited - held }
  card.setLimits({ receive: undefined, transmit: undefined })
  await traffic
  return result
}

const bytes = await measure("tx", BYTES, "")
const packets = await measure("rx", PACKETS, "-u -b 20M -l 200 -R")
await vm.kill()
await vm.close()
process.stdout.write(JSON.stringify({ bytes, packets }))
process.exit()
