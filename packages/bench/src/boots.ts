import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { cachedInitramfs, findKernel, Lab, packageShares, qemuInclude } from "@virtkit/lab"
import { FILES, MARKER } from "./lab-files.js"
import { row, type Section } from "./report.js"
import { interleave, summarize } from "./summary.js"

interface Result {
  readonly bootMs: number
  readonly userspaceExits: number
  readonly idleCpuPercent?: number
  readonly idleVmmCpuPercent?: number
}

const INIT = `
echo "${MARKER}" >/dev/console
if grep -q bench=idle /proc/cmdline; then sleep 1000; fi
poweroff -f
`

/** Boots Debian's cloud kernel with the same initrd, disk and devices in both VMMs, in one lab, in turn. */
export async function measureBoots(runs: number): Promise<Section> {
  const kernel = await findKernel()
  const modules = ["virtio_mmio", "virtio_blk", "virtio-rng"]
  const initrd = await cachedInitramfs({ kernel, modules, init: INIT })
  const bench = dirname(dirname(fileURLToPath(import.meta.url)))
  await using lab = await Lab.start({ include: qemuInclude, shares: await packageShares(bench) })
  await lab.copyIn(kernel.vmlinuz, FILES.kernel)
  await lab.copyIn(initrd, FILES.initrd)
  await lab.exec(["sh", "-c", `truncate -s 64M ${FILES.disk}; mount -t tracefs none /sys/kernel/tracing`])

  const results: Record<string, Result[]> = { virtkit: [], qemu: [] }
  const boot = async (vmm: "virtkit" | "qemu") => {
    const result = await runInLab(lab, "boot", vmm)
    results[vmm]?.push(result)
    return result.bootMs / 1000
  }
  const times = await interleave({ virtkit: () => boot("virtkit"), qemu: () => boot("qemu") }, runs)
  const exits = (vmm: string) =>
    summarize((results[vmm] ?? []).slice(1).map(({ userspaceExits }) => userspaceExits))
  const idle = { virtkit: await runInLab(lab, "idle", "virtkit"), qemu: await runInLab(lab, "idle", "qemu") }
  const one = (value: number | undefined) => summarize([value ?? Number.NaN])
  return {
    title: "Debian's cloud kernel in the lab (2 CPUs, 512 MiB, serial console, quiet, disk, entropy)",
    rows: [
      row("process start to guest userspace, s", times.virtkit, times.qemu, "<= 0.7"),
      row("userspace exits until then", exits("virtkit"), exits("qemu"), "<= 2500"),
      row(
        "CPU of an idle guest, % of a core",
        one(idle.virtkit.idleCpuPercent),
        one(idle.qemu.idleCpuPercent),
        "< 1",
      ),
      row("  of it outside the guest", one(idle.virtkit.idleVmmCpuPercent), one(idle.qemu.idleVmmCpuPercent)),
    ],
    notes: [
      "QEMU is microvm with KVM and host CPU. The uncounted first round fills virtkit's cache of unpacked kernels.",
      "Exits are counted by the lab's kernel (kvm:kvm_userspace_exit).",
    ],
  }
}

async function runInLab(lab: Lab, mode: "boot" | "idle", vmm: "virtkit" | "qemu"): Promise<Result> {
  const script = join("/virtkit/node_modules/@virtkit/bench/dist/in-lab.js")
  const { status, stdout, stderr } = await lab.exec(["node", script, mode, vmm], { timeout: 300_000 })
  if (status !== 0) throw new Error(`${vmm} ${mode}: ${stderr.toString()}`)
  return JSON.parse(stdout.toString()) as Result
}
