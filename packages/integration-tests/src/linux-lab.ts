import { mkdtemp, readFile, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import {
  cachedInitramfs,
  findKernel,
  type InitramfsFile,
  type Kernel,
  Lab,
  type LabOptions,
  packageShares,
  type Share,
} from "@virtkit/lab"
import { GuestShell } from "./guest-shell.js"
import { IN_LAB } from "./linux-lab-paths.js"

/** Drivers of all that a guest of virtkit, or of QEMU's microvm, can have. */
const MODULES = ["virtio_pci", "virtio_mmio", "virtio_blk", "virtio_console", "virtio-rng", "button", "evdev"]

/** This package and the command, with all that they need. Nothing here imports the command, so it is no dependency. */
async function builtPackages(): Promise<Share[]> {
  const directories = ["..", "../../cli"].map((path) => fileURLToPath(new URL(path, import.meta.url)))
  const shares = await Promise.all(directories.map((path) => packageShares(path.replace(/\/$/, ""))))
  return [...new Map(shares.flat().map((share) => [share.target, share])).values()]
}

/** Runs one of the scripts of the initramfs, the one that the kernel command line names, and powers off after it. */
const INIT = `exec </dev/console >/dev/console 2>&1
. "/scripts/$script"
poweroff -f
`

/** What guests are made of beside their scripts. */
export interface GuestOptions {
  /** Programs of the host. */
  readonly programs?: readonly string[]
  /** Files of the host, by absolute paths, which are the same in the guest, or with their paths there. */
  readonly files?: readonly (string | InitramfsFile)[]
  /** More kernel modules, which are loaded at the start. */
  readonly modules?: readonly string[]
  /** Of the guests' kernel, such as "6.12": see `findKernel`. The lab's own is always the distribution's. */
  readonly series?: string
}

/** What a guest boots: Debian's kernel, and the path of an initramfs with the scripts. */
export async function guestFiles(
  scripts: Readonly<Record<string, string>>,
  { programs = [], files = [], modules = [], series }: GuestOptions = {},
): Promise<{ kernel: Kernel; initrd: string }> {
  const kernel = await findKernel(series === undefined ? {} : { series })
  const initrd = await cachedInitramfs({
    kernel,
    modules: [...MODULES, ...modules],
    programs,
    files: [
      ...Object.entries(scripts).map(([name, data]) => ({ target: `/scripts/${name}`, data })),
      ...files.map((file) => (typeof file === "string" ? { target: file, source: file } : file)),
    ],
    init: INIT,
  })
  return { kernel, initrd }
}

/** What became of a run of the command. */
export interface GuestRun {
  readonly status: number | null
  /** The guest's console, line ends as "\n". */
  readonly stdout: string
  readonly stderr: string
}

export interface GuestRunOptions {
  /** More for the command line of virtkit. */
  readonly args?: readonly string[]
  /** More for the guest's kernel command line; "quiet" unless told. */
  readonly cmdline?: string
  /** Called with all that the guest said so far, each time that it said more. What it returns is typed in. */
  readonly talk?: (said: string) => string | undefined
}

/** A lab in which guests run: Debian's kernel, an initramfs with busybox and shell scripts, and virtkit as it is built. */
export class LinuxLab implements AsyncDisposable {
  readonly lab: Lab
  readonly kernel: Kernel

  private constructor(lab: Lab, kernel: Kernel) {
    this.lab = lab
    this.kernel = kernel
  }

  /** `scripts`: by the name that `run` is given. */
  static async start(
    scripts: Readonly<Record<string, string>>,
    options: LabOptions & GuestOptions = {},
  ): Promise<LinuxLab> {
    const { programs, files, modules, series, ...labOptions } = options
    const { kernel, initrd } = await guestFiles(scripts, {
      ...(programs && { programs }),
      ...(files && { files }),
      ...(modules && { modules }),
      ...(series !== undefined && { series }),
    })
    const lab = await startLab({
      ...labOptions,
      shares: [
        ...(await builtPackages()),
        { source: kernel.vmlinuz, target: IN_LAB.kernel },
        { source: initrd, target: IN_LAB.initrd },
        ...(labOptions.shares ?? []),
      ],
    })
    return new LinuxLab(lab, kernel)
  }

  /** Runs a guest that executes `script`, by `virtkit run` on the lab's /dev/kvm. */
  async run(script: string, options: GuestRunOptions = {}): Promise<GuestRun> {
    const { args = [], cmdline = "quiet", talk } = options
    const words = [`--initrd=${IN_LAB.initrd}`, `--cmdline=${cmdline} script=${script}`]
    return this.boot(IN_LAB.kernel, [...words, ...args], talk)
  }

  /** Runs a guest of any kernel, by `virtkit run` on the lab's /dev/kvm; `talk` as in `run`. */
  async boot(kernel: string, args: readonly string[], talk?: GuestRunOptions["talk"]): Promise<GuestRun> {
    // A guard against a guest that hangs, not a statement about time: the last of two counts.
    const command = ["node", IN_LAB.virtkit, "run", "--accel=kvm", "--timeout=90"]
    return this.converse([...command, `--kernel=${kernel}`, ...args], talk)
  }

  /** Starts a guest whose `script` is {@link GUEST_SHELL}, to be told commands while the lab goes on with its own. */
  shell(script: string, args: readonly string[]): Promise<GuestShell> {
    const command = ["node", IN_LAB.virtkit, "run", "--accel=kvm", "--timeout=120"]
    const guest = [
      `--kernel=${IN_LAB.kernel}`,
      `--initrd=${IN_LAB.initrd}`,
      `--cmdline=quiet script=${script}`,
    ]
    return GuestShell.start(this.lab.spawn([...command, ...guest, ...args]))
  }

  /** Runs a shell script in the lab, not in a guest. Gives what it printed; throws when it fails. */
  async sh(script: string): Promise<string> {
    const { status, stdout, stderr } = await this.lab.exec(["sh", "-ec", script])
    if (status !== 0) throw new Error(`${script}: status ${status}: ${stdout}${stderr}`)
    return stdout.toString()
  }

  /** Runs one of this package's programs. Its output is JSON. */
  async program(name: string, ...args: readonly string[]): Promise<unknown> {
    const { status, stdout, stderr } = await this.lab.exec(["node", `${IN_LAB.programs}/${name}.js`, ...args])
    if (status !== 0) throw new Error(`${name} ended with ${status}: ${stderr}`)
    return JSON.parse(stdout.toString())
  }

  /** Runs any command; `talk` as in `run`. */
  async converse(command: readonly string[], talk?: GuestRunOptions["talk"]): Promise<GuestRun> {
    const child = this.lab.spawn(command)
    let stdout = ""
    let stderr = ""
    child.stdin.on("error", () => {}) // it may end before it was told all
    child.stdout.setEncoding("utf8")
    child.stdout.on("data", (text: string) => {
      stdout += text.replaceAll("\r", "")
      const answer = talk?.(stdout)
      if (answer !== undefined) child.stdin.write(answer)
    })
    child.stderr.setEncoding("utf8")
    child.stderr.on("data", (text: string) => {
      stderr += text
    })
    if (talk === undefined) child.stdin.end()
    const closed = Promise.all([ended(child.stdout), ended(child.stderr)])
    const { status } = await child.exited
    await closed
    child.stdin.end()
    return { status, stdout, stderr }
  }

  /** The contents of a file of the lab. */
  async read(path: string): Promise<Buffer> {
    const directory = await mkdtemp(join(tmpdir(), "virtkit-read-"))
    try {
      await this.lab.copyOut(path, join(directory, "file"))
      return await readFile(join(directory, "file"))
    } finally {
      await rm(directory, { recursive: true, force: true })
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.lab.close()
  }
}

/**
 * Once more when QEMU did not get its kernel to run: that is nothing that these tests are about. It says so, with what is known
 * of where it stood.
 */
async function startLab(options: LabOptions): Promise<Lab> {
  try {
    return await Lab.start(options)
  } catch (error) {
    if ((error as { code?: string }).code !== "ERR_VIRTKIT_LAB") throw error
    process.stderr.write(`virtkit: ${(error as Error).message}; once more\n`)
    return Lab.start(options)
  }
}

function ended(stream: NodeJS.ReadableStream): Promise<void> {
  return new Promise((resolve) => {
    stream.once("end", resolve).once("close", resolve)
  })
}
