import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { FILES } from "./lab-files.js"

const BENCH = dirname(fileURLToPath(import.meta.url))

const virtkit = (): string =>
  join(dirname(fileURLToPath(import.meta.resolve("virtkit/package.json"))), "dist/bundle/bin.js")

/** What all guests have: two processors, 512 MiB, a serial console, a disk, entropy. */
const machine = ["-accel", "kvm", "-cpu", "host", "-m", "512M", "-smp", "2", "-nodefaults", "-no-user-config"]
const screen = ["-display", "none", "-no-reboot", "-serial", "stdio"]
const drive = ["-drive", `if=none,id=d,format=raw,file=${FILES.disk}`]

/** How each VMM boots a kernel with the same devices. */
export const VMMS = [
  "virtkit",
  "virtkit-no-pages",
  "qemu",
  "qemu-microvm-pci",
  "qemu-microvm-pci-lean",
  "qemu-q35",
] as const
export type VmmName = (typeof VMMS)[number]

/** The command line of a VMM for `kernel`, in the lab. "virtkit-no-pages" knows the benchmark's kernel only. */
export function vmmCommand(vmm: VmmName, kernel: string, cmdline: string): string[] {
  const direct = ["-kernel", kernel, "-initrd", FILES.initrd, "-append", cmdline]
  switch (vmm) {
    case "virtkit":
      return [
        ...["node", virtkit(), "run", "--accel=kvm", `--kernel=${kernel}`, `--initrd=${FILES.initrd}`],
        ...["--memory=512M", "--cpus=2", `--disk=${FILES.disk}`, `--cmdline=${cmdline}`],
      ]
    case "virtkit-no-pages":
      return ["node", join(BENCH, "boot-process.js"), "no-pages"]
    case "qemu":
      return [
        ...["qemu-system-x86_64", "-M", "microvm,rtc=on,pit=off,pic=off", ...machine, ...screen, ...direct],
        ...[...drive, "-device", "virtio-blk-device,drive=d", "-device", "virtio-rng-device"],
      ]
    case "qemu-microvm-pci":
    case "qemu-microvm-pci-lean":
      return [
        ...[
          "qemu-system-x86_64",
          "-M",
          `microvm,pcie=on${vmm.endsWith("lean") ? ",rtc=on,pit=off,pic=off" : ""}`,
        ],
        ...[...machine, ...screen],
        ...[...direct, ...drive, "-device", "virtio-blk-pci,drive=d", "-device", "virtio-rng-pci"],
      ]
    case "qemu-q35":
      return [
        ...["qemu-system-x86_64", "-M", "q35", ...machine, ...screen, ...direct, ...drive],
        ...["-device", "virtio-blk-pci,drive=d", "-device", "virtio-rng-pci"],
      ]
  }
}
