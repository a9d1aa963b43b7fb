import { spawnSync } from "node:child_process"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { exitGuest, QEMU_TARGETS } from "./exit-guest.js"
import { row, type Section } from "./report.js"
import { interleave } from "./summary.js"

const COUNT = 100_000
const EXIT_PROCESS = fileURLToPath(new URL("./exit-process.js", import.meta.url))

/**
 * The round trip of one exit to a device model and back: the time of a process whose guest makes 100,000 of them, less
 * that of one whose guest makes 1. PIO reads a 16550's scratch register, MMIO a virtio-mmio MagicValue, in both VMMs.
 */
export async function measureExits(runs: number): Promise<Section> {
  const directory = mkdtempSync(join(tmpdir(), "virtkit-bench-"))
  try {
    const rows: string[][] = []
    for (const kind of ["pio", "mmio"] as const) {
      const image = (count: number) => {
        const path = join(directory, `${kind}-${count}`)
        writeFileSync(path, exitGuest(kind, QEMU_TARGETS[kind], count))
        return path
      }
      const [many, one] = [image(COUNT), image(1)]
      const { virtkit, qemu } = await interleave(
        {
          virtkit: () => perExit((count) => wallMs(process.execPath, [EXIT_PROCESS, kind, String(count)])),
          qemu: () =>
            perExit((count) => wallMs("qemu-system-x86_64", qemuArguments(count === 1 ? one : many))),
        },
        runs,
      )
      rows.push(row(`${kind.toUpperCase()} exit round trip, us`, virtkit, qemu, "<= 1.10"))
    }
    return { title: "Exits to a device model, on /dev/kvm", rows }
  } finally {
    rmSync(directory, { recursive: true })
  }
}

/** Microseconds. */
function perExit(run: (count: number) => number): number {
  return ((run(COUNT) - run(1)) * 1000) / (COUNT - 1)
}

function wallMs(command: string, words: readonly string[]): number {
  const began = performance.now()
  const { status, stderr, error } = spawnSync(command, words, { encoding: "utf8" })
  if (error !== undefined) throw error
  if (status !== 0) throw new Error(`${command} ended with status ${status}: ${stderr}`)
  return performance.now() - began
}

function qemuArguments(kernel: string): string[] {
  return [
    ...["-M", "microvm", "-accel", "kvm", "-cpu", "qemu64", "-m", "32M", "-nodefaults", "-no-user-config"],
    ...[
      "-display",
      "none",
      "-no-reboot",
      "-serial",
      "null",
      "-device",
      "virtio-rng-device",
      "-kernel",
      kernel,
    ],
  ]
}
