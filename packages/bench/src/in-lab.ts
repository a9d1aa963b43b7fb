// Runs in the lab: boots one VMM there and prints what it took, as a line of JSON.
//
//   node in-lab.js boot virtkit|qemu      boots until the guest says that its init runs, then lets it power off
//   node in-lab.js idle virtkit|qemu      boots and lets the guest sleep; CPU time over 20 s, resident memory
import { spawn } from "node:child_process"
import { existsSync, readFileSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { FILES, MARKER } from "./lab-files.js"

const USERSPACE_EXITS = "/sys/kernel/tracing/events/kvm/kvm_userspace_exit"
const VIRTKIT = join(
  dirname(fileURLToPath(import.meta.resolve("virtkit/package.json"))),
  "dist/bundle/bin.js",
)
const CLOCK_TICKS = 100
/** Deferred work of the boot, and V8 reducing its heap, are no idling. */
const SETTLE_SECONDS = 15
const IDLE_SECONDS = 20

const [mode, vmm] = process.argv.slice(2)
const cmdline = `console=ttyS0 quiet reboot=t panic=-1${mode === "idle" ? " bench=idle" : ""}`
const commands: Record<string, string[]> = {
  virtkit: [
    ...["node", VIRTKIT, "run", "--accel=kvm", `--kernel=${FILES.kernel}`, `--initrd=${FILES.initrd}`],
    ...["--memory=512M", "--cpus=2", `--disk=${FILES.disk}`, `--cmdline=${cmdline}`],
  ],
  qemu: [
    ...["qemu-system-x86_64", "-M", "microvm,rtc=on,pit=off,pic=off", "-accel", "kvm", "-cpu", "host"],
    ...["-m", "512M", "-smp", "2", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"],
    ...["-serial", "stdio", "-kernel", FILES.kernel, "-initrd", FILES.initrd, "-append", cmdline],
    ...["-drive", `if=none,id=d,format=raw,file=${FILES.disk}`, "-device", "virtio-blk-device,drive=d"],
    ...["-device", "virtio-rng-device"],
  ],
}

const [command = "", ...words] = commands[vmm ?? ""] ?? []
startCounting()
const began = process.hrtime.bigint()
const child = spawn(command, words, { stdio: ["ignore", "pipe", "pipe"] })
let output = ""
child.stdout.on("data", (chunk: Buffer) => {
  const before = output.includes(MARKER)
  output += chunk.toString()
  if (!before && output.includes(MARKER)) void onMarker()
})
let errors = ""
child.stderr.on("data", (chunk: Buffer) => {
  errors += chunk.toString()
})
const result: Record<string, number> = {}
const status = await new Promise((resolve) => child.on("close", resolve))
if (result.bootMs === undefined)
  throw new Error(`no userspace, status ${status}: ${output.slice(-500)}${errors}`)
process.stdout.write(`${JSON.stringify(result)}\n`)

async function onMarker(): Promise<void> {
  result.bootMs = Number(process.hrtime.bigint() - began) / 1e6
  result.userspaceExits = countExits()
  if (mode !== "idle") return
  await new Promise((resolve) => setTimeout(resolve, SETTLE_SECONDS * 1000))
  const before = usage()
  await new Promise((resolve) => setTimeout(resolve, IDLE_SECONDS * 1000))
  const after = usage()
  result.idleCpuPercent = ((after.cpu - before.cpu) / CLOCK_TICKS / IDLE_SECONDS) * 100
  result.idleVmmCpuPercent = ((after.vmm - before.vmm) / CLOCK_TICKS / IDLE_SECONDS) * 100
  child.kill("SIGKILL")
}

/** Ticks of the VMM process: all, and those that were not spent in the guest. proc(5): fields 14, 15 and 43. */
function usage(): { cpu: number; vmm: number } {
  const text = readFileSync(`/proc/${child.pid}/stat`, "utf8")
  const fields = text
    .slice(text.lastIndexOf(")") + 2)
    .split(" ")
    .map(Number)
  const cpu = (fields[11] ?? 0) + (fields[12] ?? 0)
  return { cpu, vmm: cpu - (fields[40] ?? 0) }
}

/** Counts KVM_RUN returns in the kernel, so that both VMMs are measured from outside. */
function startCounting(): void {
  if (!existsSync(USERSPACE_EXITS)) return
  writeFileSync(`${USERSPACE_EXITS}/trigger`, "!hist:keys=reason", { flag: "a" })
  writeFileSync(`${USERSPACE_EXITS}/trigger`, "hist:keys=reason", { flag: "a" })
}

function countExits(): number {
  const text = readFileSync(`${USERSPACE_EXITS}/hist`, "utf8")
  return Number(/Hits: (\d+)/.exec(text)?.[1] ?? Number.NaN)
}
