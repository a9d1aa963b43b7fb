import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { NET_TOOLS, netTools } from "@virtkit/integration-tests"
import { cachedInitramfs, findKernel, Lab, packageShares, qemuInclude } from "@virtkit/lab"
import { FILES } from "./lab-files.js"
import { BEGIN, NET_PHASES, type NetPhase, type NetResult, type NetResults } from "./net-phases.js"
import { row, type Section } from "./report.js"
import { type Summary, summarize } from "./summary.js"

const HOST = "10.0.5.1"
const GUEST = "10.0.5.2"

const INIT = `
exec >/dev/console 2>&1
export LD_LIBRARY_PATH=${NET_TOOLS}
ip addr add ${GUEST}/24 dev eth0
ip link set eth0 up
until ping -c 1 -W 1 ${HOST} >/dev/null 2>&1; do :; done
measure() { ${NET_TOOLS}/iperf3 -c ${HOST} -t 14 "$@" >/dev/null; }
${Object.entries(NET_PHASES)
  .map(
    ([name, options]) =>
      `echo "${BEGIN} ${name}"; measure ${options} || { usleep 500000; measure ${options}; }`,
  )
  .join("\n")}
poweroff -f
`

/** A lab with the guest, iperf3 and a TAP interface, the same for all. */
async function prepareLab(): Promise<Lab> {
  const kernel = await findKernel()
  const tools = await netTools()
  const initrd = await cachedInitramfs({
    kernel,
    modules: ["virtio_pci", "virtio_net", "virtio-rng"],
    programs: ["/usr/lib/x86_64-linux-gnu/libm.so.6"],
    files: tools,
    init: INIT,
  })
  const bench = dirname(dirname(fileURLToPath(import.meta.url)))
  const shares = [...(await packageShares(bench)), ...tools]
  const lab = await Lab.start({ include: ["ip", ...qemuInclude], shares })
  await lab.copyIn(kernel.vmlinuz, FILES.kernel)
  await lab.copyIn(initrd, FILES.initrd)
  const script = `ip() { /usr/bin/ip "$@"; }
mount -t tracefs none /sys/kernel/tracing
modprobe tun
ip tuntap add dev tap0 mode tap
ip addr add ${HOST}/24 dev tap0
ip link set tap0 up
export LD_LIBRARY_PATH=${NET_TOOLS}
${NET_TOOLS}/iperf3 -s -D`
  const { status, stderr } = await lab.exec(["sh", "-ec", script])
  if (status !== 0) throw new Error(stderr.toString())
  return lab
}

/** One guest, one TAP interface, one run for each VMM in turn, as often as `runs` says. */
export async function measureNet(runs: number): Promise<Section> {
  await using lab = await prepareLab()
  const results: Record<"virtkit" | "qemu", NetResults[]> = { virtkit: [], qemu: [] }
  for (let run = 0; run < runs; run++) {
    for (const vmm of ["virtkit", "qemu"] as const) {
      const script = join("/virtkit/node_modules/@virtkit/bench/dist/net-in-lab.js")
      const { status, stdout, stderr } = await lab.exec(["node", script, vmm], { timeout: 240_000 })
      if (status !== 0) throw new Error(`${vmm}: ${stderr.toString()}`)
      results[vmm].push(JSON.parse(stdout.toString()) as NetResults)
    }
  }
  const of = (vmm: "virtkit" | "qemu", phase: NetPhase, what: keyof NetResult): Summary =>
    summarize(results[vmm].map((result) => result[phase]?.[what] ?? Number.NaN))
  const line = (words: string, phase: NetPhase, what: keyof NetResult, goal = "") =>
    row(words, of("virtkit", phase, what), of("qemu", phase, what), goal)
  return {
    title: "A guest on a TAP interface in the lab (1 CPU, 1 pair of queues, offloads, QEMU with vhost=off)",
    rows: [
      line("TCP, guest sends, Mbit/s", "send", "megabitsPerSecond", ">= 1"),
      line("TCP, guest receives, Mbit/s", "receive", "megabitsPerSecond", ">= 1"),
      line("UDP of 64 bytes, guest sends, packets/s", "send-packets", "packetsPerSecond", ">= 1"),
      line("UDP of 64 bytes, guest receives, packets/s", "receive-packets", "packetsPerSecond", ">= 1"),
      line("CPU of the VMM outside its guest, s/GB sent", "send", "cpuSecondsPerGigabyte"),
      line("  s/GB received", "receive", "cpuSecondsPerGigabyte"),
      line("vCPU exits per 1,000 packets sent", "send-packets", "exitsPerThousand"),
      line("  of them to the VMM", "send-packets", "userExitsPerThousand"),
      line("vCPU exits per 1,000 packets received", "receive-packets", "exitsPerThousand"),
      line("  of them to the VMM", "receive-packets", "userExitsPerThousand"),
    ],
    notes: [
      "Counted at the interface, both directions, for 2.5 s of each traffic of iperf3, from 10 s after it began, when V8 has compiled what is hot; exits by the lab's kernel (kvm:kvm_exit, kvm:kvm_userspace_exit).",
    ],
  }
}
