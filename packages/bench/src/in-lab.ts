// Runs in the lab: boots one VMM there and prints what it took, as a line of JSON.
//
//   node in-lab.js boot VMM       boots until the guest says that its init runs, then lets it power off
//   node in-lab.js idle VMM       boots and lets the guest sleep; CPU time over 20 s, resident memory
//   node in-lab.js firmware VMM   starts a kernel that crashes at its first instruction: what came before the kernel
import { spawn } from "node:child_process"
import { existsSync, readFileSync, writeFileSync } from "node:fs"
import { FILES, MARKER } from "./lab-files.js"
import { type VmmName, vmmCommand } from "./vmm-commands.js"

const USERSPACE_EXITS = "/sys/kernel/tracing/events/kvm/kvm_userspace_exit"
const CLOCK_TICKS = 100
/** Deferred work of the boot, and V8 reducing its heap, are no idling. */
const SETTLE_SECONDS = 15
const IDLE_SECONDS = 20

const [mode, vmm] = process.argv.slice(2)
const cmdline = `console=ttyS0 quiet reboot=t panic=-1${mode === "idle" ? " bench=idle" : ""}`
const kernel = mode === "firmware" ? FILES.crash : FILES.kernel
const [command = "", ...words] = vmmCommand(vmm as VmmName, kernel, cmdline)
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
if (mode === "firmware") result.userspaceExits = countExits()
else if (result.bootMs === undefined)
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
