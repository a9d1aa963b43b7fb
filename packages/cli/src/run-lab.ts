import { statSync } from "node:fs"
import { ConfigError } from "@virtkit/interface"
import { findTool, Lab, packageShares } from "@virtkit/lab"
import { checkCpus, checkMemory, formatSize, parseSize } from "@virtkit/vmm"
import { isModelFile, readCpu, readMsrFilter } from "./cpu-options.js"
import { formatNet, type NetOption } from "./net-option.js"
import { packageDirectory } from "./package-directory.js"
import { type DiskOption, formatCpus, formatDisk, formatRings, type RunOptions } from "./run-options.js"
import { openKeyboard, showOutput } from "./terminal.js"
import { EXIT_CRASH, EXIT_USAGE } from "./usage.js"

/** What the lab itself needs beside its guest's RAM: kernel, Node.js, copies of kernel and initrd. */
const LAB_OVERHEAD = 1.5 * 2 ** 30

/** Runs the same command line in the lab: files are copied in, disks attached, streams and exit status passed through. */
export async function runInLab(options: RunOptions): Promise<number> {
  const memory = checkMachine(options)
  const stop = new AbortController()
  const interrupt = () => stop.abort()
  process.on("SIGTERM", interrupt).on("SIGINT", interrupt).on("SIGHUP", interrupt)
  const restores: (() => Promise<void>)[] = []
  try {
    for (const disk of options.disks) restores.push(await prepareDisk(disk))
    return await runLab(options, memory, interrupt, stop.signal)
  } catch (error) {
    if (stop.signal.aborted) return EXIT_CRASH
    throw error
  } finally {
    for (const restore of restores) await restore()
    process.off("SIGTERM", interrupt).off("SIGINT", interrupt).off("SIGHUP", interrupt)
  }
}

/** A disk of the lab cannot grow as the file of a qcow2 image does: that is made long before, and short again after. */
async function prepareDisk({ path, format, readonly, backing }: DiskOption): Promise<() => Promise<void>> {
  if (format !== "qcow2") return async () => {}
  if (backing !== undefined)
    throw new ConfigError(`--disk ${path}: the lab has no backing files; use --accel kvm`)
  const { extendQcow2, inspectQcow2 } = await import("@virtkit/virtio-blk")
  if (!readonly) return extendQcow2(path)
  await inspectQcow2(path)
  return async () => {}
}

async function runLab(
  options: RunOptions,
  memory: number,
  interrupt: () => void,
  signal: AbortSignal,
): Promise<number> {
  await using lab = await Lab.start({
    memory: roundUp(memory + LAB_OVERHEAD, parseSize("64M", "memory")),
    cpus: Math.max(2, Math.min(checkCpus(options.cpus).count, 4)),
    disks: options.disks.map(({ path, readonly }) => ({ path, readonly })),
    shares: await packageShares(packageDirectory()),
    include: options.nets.some((net) => "passt" in net) && findTool("passt") ? ["passt"] : [],
    signal,
    log: (line) => process.stderr.write(`virtkit: ${line}\n`),
  })
  await lab.copyIn(options.kernel, GUEST.kernel)
  if (options.initrd !== undefined) await lab.copyIn(options.initrd, GUEST.initrd)
  if (isModelFile(options.cpu)) await lab.copyIn(options.cpu, GUEST.cpu)
  if (options.msrFilter !== undefined) await lab.copyIn(options.msrFilter, GUEST.msrFilter)
  // Nobody else in there does, and without it there is no /dev/net/tun.
  if (options.nets.some((net) => "tap" in net)) await lab.exec(["modprobe", "tun"])
  if (options.nets.some((net) => "passt" in net)) await giveNetwork(lab)
  return await runInside(lab, options, interrupt, signal)
}

/** An interface for passt, which gives guests the addresses of its host's; nobody is behind it. Addresses: RFC 5737. */
async function giveNetwork(lab: Lab): Promise<void> {
  const script = `modprobe dummy
ip link add lab0 type dummy
ip addr add 192.0.2.1/24 dev lab0
ip link set lab0 up
ip route add default via 192.0.2.254`
  const { status, stderr } = await lab.exec(["sh", "-ec", script])
  if (status !== 0) throw new Error(`the lab has no network for passt: ${stderr.toString()}`)
}

/** What would be refused inside is refused before a lab is started for it. Gives the memory in bytes. */
function checkMachine({ memory, cpus, cpu, msrFilter, initrd, devices }: RunOptions): number {
  checkCpus(cpus)
  readCpu(cpu)
  if (devices.length > 0)
    throw new ConfigError("--device vhost-user: the lab cannot reach processes of this host; use --accel kvm")
  readMsrFilter(msrFilter)
  const bytes = checkMemory(memory)
  const initrdBytes = initrd === undefined ? 0 : statSync(initrd).size
  if (initrdBytes >= bytes) {
    throw new ConfigError(
      `--initrd ${initrd}: it has ${formatSize(initrdBytes)} and the guest's memory only ${formatSize(bytes)}; give more --memory`,
    )
  }
  return bytes
}

/** Where things are in the lab. */
const GUEST = {
  kernel: "/tmp/kernel",
  initrd: "/tmp/initrd",
  cpu: "/tmp/cpu.json",
  msrFilter: "/tmp/msr-filter.json",
  report: "/tmp/report.json",
}

async function runInside(
  lab: Lab,
  options: RunOptions,
  leave: () => void,
  signal: AbortSignal,
): Promise<number> {
  const { keys, restore } = openKeyboard(leave)
  try {
    const child = lab.spawn(
      ["node", "/virtkit/node_modules/virtkit/dist/bundle/bin.js", ...labArguments(lab, options)],
      {
        env: terminalSize(),
      },
    )
    keys.pipe(child.stdin)
    // The command may end before its input does.
    child.stdin.on("error", () => keys.unpipe(child.stdin))
    showOutput(child.stdout, process.stdout)
    showOutput(child.stderr, process.stderr)
    const onAbort = () => child.kill("SIGTERM")
    signal.addEventListener("abort", onAbort, { once: true })
    const { status } = await child.exited
    // There is none of a machine that was refused.
    const hasReport = status !== EXIT_USAGE && !signal.aborted
    if (options.report !== undefined && hasReport) await lab.copyOut(GUEST.report, options.report)
    for (const [index, { capture }] of options.nets.entries()) {
      if (capture !== undefined && hasReport) await lab.copyOut(captureInLab(index), capture)
    }
    return status ?? EXIT_CRASH
  } finally {
    keys.unpipe()
    restore()
  }
}

function labArguments(lab: Lab, options: RunOptions): string[] {
  return [
    "run",
    "--accel=kvm",
    `--kernel=${GUEST.kernel}`,
    ...(options.initrd === undefined ? [] : [`--initrd=${GUEST.initrd}`]),
    `--cmdline=${options.cmdline}`,
    `--memory=${options.memory}`,
    `--cpus=${formatCpus(options.cpus)}`,
    `--cpu=${isModelFile(options.cpu) ? GUEST.cpu : options.cpu}`,
    ...(options.msrFilter === undefined ? [] : [`--msr-filter=${GUEST.msrFilter}`]),
    `--console=${options.console}`,
    `--transport=${options.transport}`,
    `--rings=${formatRings(options.rings)}`,
    ...options.nets.map((net, index) => `--net=${formatNet(inLab(net, index))}`),
    ...options.disks.map((disk, index) => `--disk=${formatDisk(disk, lab.disks[index] ?? "")}`),
    ...(options.timeout === undefined ? [] : [`--timeout=${options.timeout}`]),
    ...(options.report === undefined ? [] : [`--report=${GUEST.report}`]),
  ]
}

function captureInLab(index: number): string {
  return `/tmp/capture${index}.pcapng`
}

function inLab(net: NetOption, index: number): NetOption {
  return net.capture === undefined ? net : { ...net, capture: captureInLab(index) }
}

/** The size of our terminal, which the command inside cannot ask for. */
function terminalSize(): Record<string, string> {
  const { columns, rows } = process.stdout
  return columns && rows ? { COLUMNS: String(columns), LINES: String(rows) } : {}
}

function roundUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit
}
