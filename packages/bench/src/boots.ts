import { mkdtemp, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { cachedInitramfs, findKernel, Lab, packageShares, qemuInclude } from "@virtkit/lab"
import { crashGuest } from "./exit-guest.js"
import { FILES, MARKER } from "./lab-files.js"
import { row, type Section } from "./report.js"
import { interleave, summarize } from "./summary.js"
import type { VmmName } from "./vmm-commands.js"

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

/** A lab with all that the guests of the benchmarks need. */
async function prepareLab(): Promise<Lab> {
  const kernel = await findKernel()
  const modules = ["virtio_pci", "virtio_mmio", "virtio_blk", "virtio-rng"]
  const initrd = await cachedInitramfs({ kernel, modules, init: INIT })
  const bench = dirname(dirname(fileURLToPath(import.meta.url)))
  const lab = await Lab.start({ include: qemuInclude, shares: await packageShares(bench) })
  await lab.copyIn(kernel.vmlinuz, FILES.kernel)
  await lab.copyIn(initrd, FILES.initrd)
  await lab.exec(["sh", "-c", `truncate -s 64M ${FILES.disk}; mount -t tracefs none /sys/kernel/tracing`])
  return lab
}

/**
 * Exits to user space from the kernel's first instruction to its init, of machines with the same devices on PCI. What
 * firmware did before is measured with a kernel that crashes at once, and taken off.
 */
export async function measurePciExits(runs: number): Promise<Section> {
  await using lab = await prepareLab()
  const crash = join(await mkdtemp(join(tmpdir(), "virtkit-bench-")), "crash.elf")
  await writeFile(crash, crashGuest())
  await lab.copyIn(crash, FILES.crash)
  await rm(dirname(crash), { recursive: true })
  const count = async (vmm: VmmName) => {
    const firmware = vmm.startsWith("virtkit") ? 0 : (await runInLab(lab, "firmware", vmm)).userspaceExits
    return (await runInLab(lab, "boot", vmm)).userspaceExits - firmware
  }
  const exits = await interleave(
    {
      virtkit: () => count("virtkit"),
      "virtkit-no-pages": () => count("virtkit-no-pages"),
      "qemu-microvm-pci": () => count("qemu-microvm-pci"),
      "qemu-microvm-pci-lean": () => count("qemu-microvm-pci-lean"),
      "qemu-q35": () => count("qemu-q35"),
    },
    runs,
  )
  return {
    title:
      "Exits to user space from kernel entry to init, devices on PCI (2 CPUs, serial console, quiet, disk, entropy)",
    rows: [
      row("beside QEMU microvm, pcie=on", exits.virtkit, exits["qemu-microvm-pci"], "<= 0.3"),
      row("beside it with rtc=on,pit=off,pic=off", exits.virtkit, exits["qemu-microvm-pci-lean"]),
      row("beside QEMU q35", exits.virtkit, exits["qemu-q35"], "<= 0.3"),
      row(
        "registers not in memory, beside QEMU microvm",
        exits["virtkit-no-pages"],
        exits["qemu-microvm-pci"],
      ),
    ],
    notes: [
      "Counted by the lab's kernel (kvm:kvm_userspace_exit); what firmware did before the kernel is taken off.",
    ],
  }
}

/** Boots Debian's cloud kernel with the same initrd, disk and devices in both VMMs, in one lab, in turn. */
export async function measureBoots(runs: number): Promise<Section> {
  await using lab = await prepareLab()
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

async function runInLab(lab: Lab, mode: "boot" | "idle" | "firmware", vmm: VmmName): Promise<Result> {
  const script = join("/virtkit/node_modules/@virtkit/bench/dist/in-lab.js")
  const { status, stdout, stderr } = await lab.exec(["node", script, mode, vmm], { timeout: 300_000 })
  if (status !== 0) throw new Error(`${vmm} ${mode}: ${stderr.toString()}`)
  return JSON.parse(stdout.toString()) as Result
}
