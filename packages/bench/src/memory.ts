import { execFileSync, spawn } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { idleGuest } from "./exit-guest.js"
import { plainRow, row, type Section } from "./report.js"
import { summarize } from "./summary.js"

const MIB = 2 ** 20
const MEMORY_PROCESS = fileURLToPath(new URL("./memory-process.js", import.meta.url))

/** Resident memory of VMM processes whose guests halt, beyond the guests' RAM. */
export async function measureMemory(runs: number): Promise<Section> {
  const first: number[] = []
  const further: number[] = []
  const idle: number[] = []
  const qemu: number[] = []
  for (let run = 0; run < runs; run++) {
    const text = execFileSync(process.execPath, [MEMORY_PROCESS], { encoding: "utf8" })
    const result = JSON.parse(text) as { first: number; further: number; idlePercent: number }
    first.push(result.first / MIB)
    further.push(result.further / MIB)
    idle.push(result.idlePercent)
    qemu.push((await qemuResident()) / MIB)
  }
  return {
    title: "Resident memory beyond guest RAM, and idle CPU, on /dev/kvm",
    rows: [
      row("first VM of a process, MiB", summarize(first), summarize(qemu), "<= 60 MiB"),
      plainRow("each further VM, MiB", summarize(further), "<= 5 MiB"),
      plainRow("CPU of a process with six halted guests, % of a core", summarize(idle), "< 1"),
    ],
    notes: ["QEMU's figure is that of one whole microvm process, less the few pages that its guest touched."],
  }
}

async function qemuResident(): Promise<number> {
  const directory = mkdtempSync(join(tmpdir(), "virtkit-bench-"))
  const kernel = join(directory, "idle")
  writeFileSync(kernel, idleGuest())
  const child = spawn("qemu-system-x86_64", [
    ...["-M", "microvm", "-accel", "kvm", "-cpu", "qemu64", "-m", "512M", "-nodefaults", "-no-user-config"],
    ...["-display", "none", "-serial", "null", "-device", "virtio-rng-device", "-kernel", kernel],
  ])
  try {
    await new Promise((resolve) => setTimeout(resolve, 1000))
    const status = readFileSync(`/proc/${child.pid}/status`, "utf8")
    return Number(/^VmRSS:\s*(\d+)/m.exec(status)?.[1]) * 1024
  } finally {
    child.kill("SIGKILL")
    rmSync(directory, { recursive: true })
  }
}
