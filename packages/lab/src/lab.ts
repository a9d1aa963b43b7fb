import { randomUUID } from "node:crypto"
import { unlinkSync } from "node:fs"
import { access, constants, mkdir, open, readFile } from "node:fs/promises"
import { basename, dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { ConfigError, StateError, VirtkitError } from "@virtkit/interface"
import { findAgent, hostTscKhz } from "./agent.js"
import { Channel } from "./channel.js"
import { receiveArchive, sendArchive } from "./copy.js"
import { CpioWriter } from "./cpio.js"
import { complete, type ExecOptions, type ExecResult, type SpawnOptions } from "./exec.js"
import { labImage } from "./image.js"
import { addTree, cachedInitramfs } from "./initramfs.js"
import { findKernel, type Kernel } from "./kernel.js"
import { mendedQemu } from "./mended-qemu.js"
import { cacheDir } from "./paths.js"
import { LabProcess } from "./process.js"
import { type Disk, MAX_DISKS, type Machine, startMachine } from "./qemu.js"
import { Qmp } from "./qmp.js"
import type { Share } from "./share.js"
import { describeStall } from "./stall.js"
import { needTool } from "./tools.js"

/** What a lab is made of. */
export interface LabOptions {
  /** Bytes; 4 GiB by default. The host gives them as they are used. */
  memory?: number
  /** 2 by default. */
  cpus?: number
  /** Appear as /dev/lab/disk0, /dev/lab/disk1 and so on. */
  disks?: readonly Disk[]
  /** Copies of host files that are there when the lab is. */
  shares?: readonly Share[]
  /** More for the lab's /usr: programs by name, files and directories by absolute path. See `qemuInclude`. */
  include?: readonly string[]
  /** Default: `findKernel()`. */
  kernel?: Kernel
  /** Default: `cacheDir()`. */
  cacheDir?: string
  /** Milliseconds that the lab may take to start, 60,000 by default. */
  timeout?: number
  /**
   * Milliseconds that a lab may be silent, 60,000 by default: then it is taken for dead and ended, so that no command waits for
   * it for ever. Those fail with ERR_VIRTKIT_LAB_GONE, which says where its processors were.
   */
  stallTimeout?: number
  /** Ends the lab, also while it starts. */
  signal?: AbortSignal
  /** Called with a line for people before something slow happens. */
  log?: (line: string) => void
}

/** What must be there before /usr is. */
const BOOT_MODULES = ["virtio_pci", "virtio_blk", "virtio_console", "virtio-rng"]

/** The script that makes a lab of the initramfs. */
const INIT = fileURLToPath(new URL("../agent/init.sh", import.meta.url))

/*
 * mitigations=off: emulated CPUs leak nothing, but every indirect branch would cost. nokaslr: addresses of a lab that hangs can be
 * looked up in another one. The others save probing time.
 */
const CMDLINE =
  "console=ttyS0 quiet reboot=t panic=-1 nokaslr mitigations=off random.trust_cpu=on tsc=reliable no_timer_check cryptomgr.notests rcupdate.rcu_expedited=1"

/** As many without an answer are a lab that hangs. */
const PINGS = 6

const ENVIRONMENT = { PATH: "/usr/bin:/usr/sbin", HOME: "/root", TERM: "linux", LANG: "C.UTF-8" }

/** Keeps the last part of a text that arrives in pieces. */
class Tail {
  text = ""

  add(chunk: Buffer): void {
    this.text = (this.text + chunk.toString()).slice(-65536)
  }
}

/**
 * A running lab: a machine in software emulation that has KVM. It ends with `close()`, with the process that started it,
 * or by itself when its kernel dies; `ended` tells.
 */
export class Lab implements AsyncDisposable {
  /** Settles when the machine has ended, with a word for how. */
  readonly ended: Promise<string>
  /** Device paths in the lab of the disks that it was started with, in their order. */
  readonly disks: readonly string[]
  readonly #machine: Machine
  readonly #channel: Channel
  readonly #monitor: Qmp
  readonly #console: Tail
  #nextDisk = 0
  #closing: Promise<void> | undefined

  private constructor(machine: Machine, channel: Channel, console: Tail, disks: number) {
    this.#machine = machine
    this.#channel = channel
    this.#monitor = new Qmp(machine.monitor)
    this.#console = console
    this.ended = machine.ended
    this.disks = Array.from({ length: disks }, (_none, index) => `/dev/lab/disk${index}`)
  }

  /**
   * Starts a lab; it takes about 2 s, and some more the first time, when kernel and image are made.
   *
   * @throws ConfigError in one line for what the caller or the machine's owner can mend: a program that is not installed,
   *   a disk that cannot be opened
   */
  static async start(options: LabOptions = {}): Promise<Lab> {
    options.signal?.throwIfAborted()
    const disks = options.disks ?? []
    await checkOptions(options)
    const directory = options.cacheDir ?? cacheDir()
    const kernel =
      options.kernel ??
      (await findKernel({ cacheDir: directory, ...(options.log ? { log: options.log } : {}) }))
    const image = await labImage({
      kernel,
      cacheDir: directory,
      include: options.include ?? [],
      ...(options.log ? { log: options.log } : {}),
    })
    const qemu = await mendedQemu(needTool("qemu-system-x86_64"), directory)
    const agent = await findAgent(directory)
    const tscKhz = await hostTscKhz(agent)
    const initrd = await openInitrd(kernel, agent, directory, options.shares ?? [])
    const console = new Tail()
    const errors = new Tail()
    let machine: Machine
    try {
      options.signal?.throwIfAborted()
      machine = startMachine({
        qemu,
        memory: options.memory ?? 4 * 2 ** 30,
        cpus: options.cpus ?? 2,
        vmlinuz: kernel.vmlinuz,
        cmdline: `${CMDLINE} tsc_early_khz=${tscKhz}`,
        initrd: initrd.fd,
        image,
        disks,
      })
    } finally {
      await initrd.close()
    }
    machine.console.on("data", (chunk: Buffer) => console.add(chunk))
    machine.errors.on("data", (chunk: Buffer) => errors.add(chunk))
    const ended = machine.ended.then((how) => `the lab ended: ${lastWords(how, errors.text, console.text)}`)
    const lab = new Lab(machine, new Channel(machine.agent, ended), console, disks.length)
    try {
      await lab.#becomeReady(options.timeout ?? 60_000, options.signal)
    } catch (error) {
      const stall = options.signal?.aborted ? "" : await lab.#describeStall()
      machine.process.kill("SIGKILL")
      await machine.ended
      options.signal?.throwIfAborted()
      throw startFailure(errors.text, console.text, stall, error as Error)
    }
    lab.#watch(options.stallTimeout ?? 60_000)
    const onAbort = (): void => void lab.close()
    options.signal?.addEventListener("abort", onAbort, { once: true })
    void lab.ended.then(() => options.signal?.removeEventListener("abort", onAbort))
    return lab
  }

  /** The end of what the lab's kernel has said. */
  get console(): string {
    return this.#console.text
  }

  /** Starts a command; its streams are the caller's to read and write. */
  spawn(command: readonly string[], options: SpawnOptions = {}): LabProcess {
    if (this.#closing) throw new StateError("the lab is closed")
    if (command.length === 0) throw new ConfigError("the lab needs a command to run")
    const environment = { ...ENVIRONMENT, ...options.env }
    return new LabProcess(this.#channel, {
      args: command,
      env: Object.entries(environment).map(([name, value]) => `${name}=${value}`),
      cwd: options.cwd ?? "/root",
      ...(options.tty ? { tty: options.tty } : {}),
    })
  }

  /**
   * Runs a command to its end. A status other than 0 is a result, not an error.
   *
   * @throws VirtkitError ENOENT when the lab has no such command, ETIMEDOUT, ERR_VIRTKIT_LAB_GONE; the signal's reason
   */
  async exec(command: readonly string[], options: ExecOptions = {}): Promise<ExecResult> {
    options.signal?.throwIfAborted()
    return complete(this.spawn(command, options), options)
  }

  /** Copies a file or directory into the lab. `guest` is its path there, not that of a directory to put it into. */
  async copyIn(host: string, guest: string): Promise<void> {
    const child = this.spawn(["sh", "-c", 'mkdir -p "$1" && cd "$1" && cpio -idmu', "sh", dirname(guest)])
    await this.#copy(child, `${host} to the lab`, () => sendArchive(host, basename(guest), child.stdin))
  }

  /** Copies a file or directory out of the lab. `host` is its path there, not that of a directory to put it into. */
  async copyOut(guest: string, host: string): Promise<void> {
    const name = basename(guest)
    const script = 'cd "$1" && find "./$2" -print0 | cpio -0 -o -H newc'
    const child = this.spawn(["sh", "-c", script, "sh", dirname(guest), name])
    child.stdin.end()
    await mkdir(dirname(host), { recursive: true })
    await this.#copy(child, `${guest} from the lab`, () => receiveArchive(child.stdout, name, host))
  }

  /** Plugs a disk in. Gives its device path in the lab. */
  async attachDisk(path: string, options: { readonly?: boolean } = {}): Promise<string> {
    const readonly = options.readonly ?? false
    await checkDisk({ path, readonly })
    const number = this.#nextDisk++
    const id = `plugged${number}`
    await this.#monitor.command("blockdev-add", {
      "node-name": id,
      driver: "raw",
      "read-only": readonly,
      discard: "unmap",
      file: { driver: "file", filename: path },
    })
    await this.#monitor.command("device_add", {
      driver: "scsi-hd",
      drive: id,
      id,
      bus: "scsi.0",
      "scsi-id": number,
    })
    const script = `modprobe virtio_scsi; modprobe sd_mod
      for i in $(seq 200); do
        for d in /sys/bus/scsi/devices/*:0:$1:0/block/*; do [ -e /dev/\${d##*/} ] && echo /dev/\${d##*/} && exit; done
        sleep 0.05
      done; exit 1`
    const { status, stdout } = await this.exec(["sh", "-c", script, "sh", String(number)])
    if (status !== 0) throw new VirtkitError("ERR_VIRTKIT_LAB", `the lab did not see the disk ${path}`)
    return stdout.toString().trim()
  }

  /** Writes back what the lab's disks still owe, and ends it. Kills it when that takes longer than 10 s. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #close(): Promise<void> {
    this.#channel.shutdown()
    const timer = setTimeout(() => this.#machine.process.kill("SIGKILL"), 10_000)
    await this.ended
    clearTimeout(timer)
    this.#channel.lose(new VirtkitError("ERR_VIRTKIT_LAB_GONE", "the lab was closed"))
  }

  /** Ends a lab that hangs. Pings are counted, not time: a host that was suspended is no reason. */
  #watch(timeout: number): void {
    const timer = setInterval(() => {
      if (this.#channel.unanswered < PINGS) this.#channel.ping()
      else void stalled()
    }, timeout / PINGS)
    timer.unref()
    const stalled = async (): Promise<void> => {
      clearInterval(timer)
      const why = `the lab did not answer for ${timeout} ms: ${await this.#describeStall()}`
      this.#channel.lose(new VirtkitError("ERR_VIRTKIT_LAB_GONE", why))
      this.#machine.process.kill("SIGKILL")
    }
    void this.ended.then(() => clearInterval(timer))
  }

  #describeStall(): Promise<string> {
    return describeStall(this.#monitor, this.#machine.process.pid)
  }

  async #becomeReady(timeout: number, signal: AbortSignal | undefined): Promise<void> {
    let cancel: (reason: Error) => void = () => {}
    const cancelled = new Promise<never>((_resolve, reject) => {
      cancel = reject
    })
    const onAbort = (): void => cancel(signal?.reason as Error)
    const timer = setTimeout(() => cancel(new Error(`it did not start within ${timeout} ms`)), timeout)
    signal?.addEventListener("abort", onAbort, { once: true })
    try {
      await Promise.race([this.#channel.ready, cancelled])
    } finally {
      clearTimeout(timer)
      signal?.removeEventListener("abort", onAbort)
    }
  }

  async #copy(child: LabProcess, what: string, transfer: () => Promise<void>): Promise<void> {
    let complaint = ""
    child.stderr.on("data", (chunk: Buffer) => {
      complaint = (complaint + chunk.toString()).slice(-1000)
    })
    const failed = await transfer().then(
      () => undefined,
      (error: unknown) => error as Error,
    )
    if (failed) child.kill("SIGKILL")
    child.stdout.resume()
    const { status } = await child.exited
    if (!failed && status === 0) return
    const lines = complaint
      .trim()
      .split("\n")
      .filter((line) => !/^\d+ blocks$/.test(line))
    const reason = lines.pop() || failed?.message || "unknown reason"
    throw new VirtkitError("ERR_VIRTKIT_COPY", `cannot copy ${what}: ${reason}`, { cause: failed })
  }
}

async function checkDisk(disk: Disk): Promise<void> {
  const mode = disk.readonly ? constants.R_OK : constants.R_OK | constants.W_OK
  await access(disk.path, mode).catch((error: NodeJS.ErrnoException) => {
    const why =
      error.code === "ENOENT"
        ? "does not exist"
        : `cannot be ${disk.readonly ? "read" : "written"} by this user`
    throw new ConfigError(`disk ${disk.path} ${why}`)
  })
}

async function checkOptions(options: LabOptions): Promise<void> {
  const { memory = 4 * 2 ** 30, cpus = 2, disks = [], shares = [] } = options
  if (!(memory >= 2 ** 28 && memory <= 2 ** 40))
    throw new ConfigError("a lab needs between 256 MiB and 1 TiB of memory")
  if (!(Number.isInteger(cpus) && cpus >= 1 && cpus <= 64))
    throw new ConfigError("a lab has between 1 and 64 CPUs")
  if (disks.length > MAX_DISKS) throw new ConfigError(`a lab can start with at most ${MAX_DISKS} disks`)
  for (const share of shares) {
    if (!/^\/(?!usr(\/|$)).+/.test(share.target))
      throw new ConfigError(`${share.target}: a share goes to an absolute path outside of /usr`)
  }
  for (const tool of ["qemu-system-x86_64", "busybox", "mke2fs"]) needTool(tool)
  for (const disk of disks) await checkDisk(disk)
}

/** The initramfs in a file that has no name any more: nobody has to remove it. */
async function openInitrd(
  kernel: Kernel,
  agent: string,
  directory: string,
  shares: readonly Share[],
): Promise<{ fd: number; close(): Promise<void> }> {
  const files = [{ target: "/agent", data: await readFile(agent), mode: 0o755 }]
  const base = await cachedInitramfs(
    { kernel, init: await readFile(INIT, "utf8"), modules: BOOT_MODULES, files },
    directory,
  )
  if (shares.length === 0) return open(base)
  const archive = new CpioWriter()
  for (const share of shares)
    await addTree(archive, share.source, share.target.replace(/^\//, ""), share.filter)
  const path = join(directory, "initramfs", `.${randomUUID()}`)
  const file = await open(path, "wx+", 0o600)
  unlinkSync(path)
  await file.writeFile(await readFile(base))
  await file.writeFile(archive.finish())
  return file
}

/** What to tell whoever could not start a lab: QEMU's words, else the end of the machine's console. */
function startFailure(errors: string, console: string, stall: string, cause: Error): VirtkitError {
  const reason = lastLines(errors, console) || (stall ? `${cause.message}; ${stall}` : cause.message)
  return new VirtkitError("ERR_VIRTKIT_LAB", `the lab did not start: ${reason}`, { cause })
}

/** How QEMU ended ("status 0" also when the lab's kernel panicked), and what it or the kernel said at last. */
function lastWords(how: string, errors: string, console: string): string {
  const lines = lastLines(errors, console)
  return lines === "" ? how : `${how}; ${lines}`
}

function lastLines(errors: string, console: string): string {
  const lines = (errors.trim() || console.trim()).split("\n").filter((line) => !line.includes("PCI: Fatal"))
  // The reason stands above a panic's trace.
  const panic = lines.findLast((line) => line.includes("Kernel panic"))
  const last = panic === undefined ? lines.slice(-3) : [panic]
  return last.map((line) => line.trim()).join("; ")
}
