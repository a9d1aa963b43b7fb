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

/** The command line of a VMM for the guest of the network benchmark on tap0, in the lab. */
export function netCommand(vmm: VmmName): string[] {
  const cmdline = "console=ttyS0 quiet reboot=t panic=-1"
  if (vmm === "virtkit") {
    return [
      ...["node", virtkit(), "run", "--accel=kvm", `--kernel=${FILES.kernel}`, `--initrd=${FILES.initrd}`],
      ...["--memory=512M", "--cpus=1", "--net=tap=tap0", `--cmdline=${cmdline}`],
    ]
  }
  return [
    ...[
      "qemu-system-x86_64",
      "-M",
      "microvm,pcie=on,rtc=on,pit=off,pic=off",
      "-accel",
      "kvm",
      "-cpu",
      "host",
    ],
    ...["-m", "512M", "-smp", "1", "-nodefaults", "-no-user-config", ...screen],
    ...["-kernel", FILES.kernel, "-initrd", FILES.initrd, "-append", cmdline],
    ...["-netdev", "tap,id=n0,ifname=tap0,script=no,downscript=no,vhost=off"],
    ...["-device", "virtio-net-pci,netdev=n0,romfile=", "-device", "virtio-rng-pci"],
  ]
}
