import { type ChildProcess, spawn } from "node:child_process"
import { resolve } from "node:path"
import type { Duplex, Readable } from "node:stream"
import { findTool } from "./tools.js"

/** A disk that the lab has from its start. */
export interface Disk {
  /** Raw image or block device of the host. */
  path: string
  readonly?: boolean
}

/** What QEMU is started with. */
export interface MachineOptions {
  /** Path of QEMU. */
  qemu: string
  /** Bytes. */
  memory: number
  cpus: number
  vmlinuz: string
  cmdline: string
  /** Descriptor of this process that the initramfs can be read from. */
  initrd: number
  /** The lab's /usr. */
  image: string
  disks: readonly Disk[]
}

/** QEMU's child process and the host's ends of its channels. */
export interface Machine {
  process: ChildProcess
  agent: Duplex
  monitor: Duplex
  /** What the lab's kernel and init say. */
  console: Readable
  /** QEMU's own complaints. */
  errors: Readable
  /** Settles when QEMU has ended, with a word for how. */
  ended: Promise<string>
}

/** Descriptors of the child. */
const AGENT_FD = 3
const MONITOR_FD = 4
const INITRD_FD = 5

/** Slots of the machine's PCI bus, without those that the lab itself uses. */
export const MAX_DISKS = 20

/** In QEMU's option syntax, a comma within a value is doubled. */
function value(text: string): string {
  return text.replaceAll(",", ",,")
}

/** An absolute path, because QEMU takes what comes before a colon in others for a protocol. */
function drive(id: string, path: string, readonly: boolean): string[] {
  const cache = readonly ? "" : ",cache=writeback,discard=unmap"
  return [
    "-drive",
    `if=none,id=${id},format=raw,readonly=${readonly ? "on" : "off"}${cache},file=${value(resolve(path))}`,
  ]
}

/**
 * QEMU's arguments. The machine is "q35": "microvm" reaches userspace 0.3 s sooner, but it has no clock that the kernel can
 * measure the TSC against except the PIT, and that fails, for good, when the host is busy.
 * The processor has no XSAVE, because QEMU lets a nested guest write its control register unseen by KVM, and no 5-level page
 * tables ("la57"), without which emulation is 10 % faster. The lab tells its disks apart by their serial numbers.
 */
export function qemuArguments(options: Omit<MachineOptions, "qemu">): string[] {
  const disks = options.disks.flatMap((disk, index) => [
    ...drive(`disk${index}`, disk.path, disk.readonly ?? false),
    "-device",
    `virtio-blk-pci,drive=disk${index},serial=disk${index}`,
  ])
  return [
    ...[
      "-machine",
      "q35,sata=off,smbus=off,vmport=off,smm=off",
      "-accel",
      "tcg,thread=multi",
      "-cpu",
      "max,xsave=off,la57=off",
    ],
    ...["-m", `${Math.ceil(options.memory / 2 ** 20)}M`, "-smp", String(options.cpus)],
    ...[
      "-name",
      "lab,debug-threads=on",
      "-nodefaults",
      "-no-user-config",
      "-display",
      "none",
      "-no-reboot",
      "-serial",
      "stdio",
    ],
    ...["-kernel", options.vmlinuz, "-initrd", `/proc/self/fd/${INITRD_FD}`, "-append", options.cmdline],
    ...["-chardev", `socket,id=agent,fd=${AGENT_FD}`, "-chardev", `socket,id=monitor,fd=${MONITOR_FD}`],
    ...["-mon", "chardev=monitor,mode=control"],
    ...["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=agent,nr=1"],
    ...drive("usr", options.image, true),
    ...["-device", "virtio-blk-pci,drive=usr,serial=usr"],
    ...["-device", "virtio-scsi-pci,id=scsi"],
    ...["-device", "virtio-rng-pci"],
    ...disks,
  ]
}

/**
 * Starts QEMU so that it cannot outlive this process: the kernel kills it when this process dies (by setpriv, where
 * that is installed), and the agent powers the machine off when its channel ends. It has no files or sockets of its own
 * that could be left behind: its channels are socket pairs.
 */
export function startMachine(options: MachineOptions): Machine {
  const command = [options.qemu, ...qemuArguments(options)]
  const setpriv = findTool("setpriv")
  if (setpriv) command.unshift(setpriv, "--pdeathsig", "KILL", "--")
  const child = spawn(command[0]!, command.slice(1), {
    detached: true, // an interrupt key on the terminal is for the commands, not for the machine
    stdio: ["ignore", "pipe", "pipe", "pipe", "pipe", options.initrd],
  })
  const ended = new Promise<string>((resolve) => {
    child.once("error", (error) => resolve(error.message))
    child.once("close", (status, signal) => resolve(signal ?? `status ${status}`))
  })
  return {
    process: child,
    agent: child.stdio[AGENT_FD] as Duplex,
    monitor: child.stdio[MONITOR_FD] as Duplex,
    console: child.stdout as Readable,
    errors: child.stderr as Readable,
    ended,
  }
}
