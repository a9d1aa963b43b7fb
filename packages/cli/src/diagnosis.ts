import { accessSync, constants, readFileSync } from "node:fs"
import { getSystemErrorName } from "node:util"
import { findTool } from "@virtkit/lab"
import { probeIoUring } from "@virtkit/native"
import { formatSize, type KvmProbe, probeKvm } from "@virtkit/vmm"

/** One thing that a VMM may want of the host. */
export interface Finding {
  readonly name: string
  readonly ok: boolean
  readonly detail: string
  /** What to do about it; absent when nothing needs doing or nothing can be done. */
  readonly fix?: string
}

export interface Diagnosis {
  /** What `--accel auto` takes; undefined when no guest can run here. */
  readonly accel: "kvm" | "lab" | undefined
  readonly reason: string
  readonly findings: readonly Finding[]
}

export async function diagnose(): Promise<Diagnosis> {
  const probe = await probeKvm()
  const lab = labFinding()
  const findings = [
    kvmFinding(probe),
    lab,
    tapFinding(),
    ioUringFinding(),
    hugePagesFinding(),
    vhostFinding(),
  ]
  if (probe.usable) return { accel: "kvm", reason: "the probe guest ran on /dev/kvm", findings }
  if (lab.ok) return { accel: "lab", reason: `/dev/kvm cannot run Linux: ${probe.reason}`, findings }
  return { accel: undefined, reason: "neither /dev/kvm nor the lab can run Linux guests here", findings }
}

function kvmFinding(probe: KvmProbe): Finding {
  const name = "kvm"
  if (probe.usable) return { name, ok: true, detail: "/dev/kvm runs Linux guests" }
  const detail = `/dev/kvm cannot run Linux guests: ${probe.reason}`
  const fixes: Record<string, string> = {
    ENOENT:
      "modprobe kvm-amd or kvm-intel; in a virtual machine, ask for nested virtualisation; in a container, pass /dev/kvm in",
    EACCES: 'add yourself to its group (usermod -aG kvm "$USER") and log in again',
  }
  const fix = fixes[probe.code ?? ""]
  return { name, ok: false, detail, ...(fix === undefined ? {} : { fix }) }
}

function labFinding(): Finding {
  const missing = Object.entries({
    "qemu-system-x86_64": "qemu-system-x86",
    busybox: "busybox-static",
    mke2fs: "e2fsprogs",
  }).filter(([tool]) => findTool(tool) === undefined)
  if (missing.length === 0)
    return { name: "lab", ok: true, detail: "KVM in software emulation can be started" }
  return {
    name: "lab",
    ok: false,
    detail: `${missing.map(([tool]) => tool).join(", ")} not found`,
    fix: `apt-get install ${missing.map(([, debian]) => debian).join(" ")}`,
  }
}

const CAP_NET_ADMIN = 12n

function tapFinding(): Finding {
  const name = "tap"
  if (!accessible("/dev/net/tun")) {
    return {
      name,
      ok: false,
      detail: "/dev/net/tun cannot be opened",
      fix: "modprobe tun; in a container, pass the device in",
    }
  }
  const effective = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)/m.exec(readText("/proc/self/status"))?.[1] ?? "0"}`)
  if ((effective >> CAP_NET_ADMIN) & 1n) return { name, ok: true, detail: "TAP interfaces can be made" }
  return {
    name,
    ok: false,
    detail: "TAP interfaces can be used but not made: CAP_NET_ADMIN is missing",
    fix: 'let root make one for you: ip tuntap add tap0 mode tap user "$USER"',
  }
}

function ioUringFinding(): Finding {
  const errno = probeIoUring()
  if (errno === 0) return { name: "io_uring", ok: true, detail: "can be used; disks do" }
  const detail = `io_uring_setup failed with ${getSystemErrorName(-errno)}; disks use threads instead`
  return {
    name: "io_uring",
    ok: false,
    detail,
    fix: "sysctl kernel.io_uring_disabled=0; in a container, allow it in the seccomp profile",
  }
}

function hugePagesFinding(): Finding {
  const meminfo = readText("/proc/meminfo")
  const field = (key: string) => Number(new RegExp(`^${key}:\\s*(\\d+)`, "m").exec(meminfo)?.[1] ?? 0)
  const transparent =
    /\[(\w+)\]/.exec(readText("/sys/kernel/mm/transparent_hugepage/enabled"))?.[1] ?? "absent"
  const free = field("HugePages_Free")
  const size = formatSize(field("Hugepagesize") * 1024)
  const detail = `${free} free of ${size}; transparent ones: ${transparent}`
  if (free > 0) return { name: "huge pages", ok: true, detail }
  return {
    name: "huge pages",
    ok: transparent !== "absent" && transparent !== "never",
    detail,
    fix: "sysctl vm.nr_hugepages=N sets some aside",
  }
}

function vhostFinding(): Finding {
  const devices = ["/dev/vhost-net", "/dev/vhost-vsock"]
  const found = devices.filter(accessible)
  if (found.length > 0) return { name: "vhost", ok: true, detail: found.join(", ") }
  return {
    name: "vhost",
    ok: false,
    detail: `no ${devices.join(", no ")}`,
    fix: "modprobe vhost_net vhost_vsock",
  }
}

function accessible(path: string): boolean {
  try {
    accessSync(path, constants.R_OK | constants.W_OK)
    return true
  } catch {
    return false
  }
}

/** Empty for files that this kernel does not have. */
function readText(path: string): string {
  try {
    return readFileSync(path, "utf8")
  } catch {
    return ""
  }
}
