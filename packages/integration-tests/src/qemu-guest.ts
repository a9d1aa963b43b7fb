import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import { fileURLToPath } from "node:url"
import { findTool } from "@virtkit/lab"
import { GUEST_SHELL, GuestShell } from "./guest-shell.js"
import { guestFiles } from "./linux-lab.js"

export interface QemuGuestOptions {
  /** More arguments of QEMU: its devices. */
  readonly args: readonly string[]
  /** Kernel modules beside the usual ones. */
  readonly modules?: readonly string[]
  readonly cpus?: number
  /** Default {@link GUEST_SHELL}; one that ends in it. */
  readonly script?: string
}

/** So that it does not outlive this process, however that ends. */
function bound(command: readonly string[]): ChildProcess {
  const setpriv = findTool("setpriv")
  const [program = "", ...args] = setpriv ? [setpriv, "--pdeathsig", "KILL", "--", ...command] : command
  return spawn(program, args, { stdio: "pipe" })
}

/**
 * Debian's kernel under QEMU, emulated on this machine itself, with a shell on its serial port. Its memory is one that
 * vhost-user servers can map.
 */
export async function qemuGuest({
  args,
  modules = [],
  cpus = 2,
  script = GUEST_SHELL,
}: QemuGuestOptions): Promise<GuestShell> {
  const { kernel, initrd } = await guestFiles({ shell: script }, { modules })
  const child = bound([
    ...[
      "qemu-system-x86_64",
      "-machine",
      "q35,memory-backend=ram",
      "-accel",
      "tcg,thread=multi",
      "-cpu",
      "max",
    ],
    ...["-m", "256M", "-object", "memory-backend-memfd,id=ram,size=256M,share=on", "-smp", String(cpus)],
    ...["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"],
    ...["-kernel", kernel.vmlinuz, "-initrd", initrd],
    ...["-append", "console=ttyS0 quiet panic=-1 script=shell", ...args],
  ])
  const exited = once(child, "close").then(([status]) => ({ status: status as number | null }))
  return GuestShell.start({ stdin: child.stdin!, stdout: child.stdout!, stderr: child.stderr!, exited })
}

/** A `virtkit serve` of its own process. */
export class ServeProcess {
  /** What it said on stderr. */
  said = ""
  readonly #child: ChildProcess
  readonly #closed: Promise<unknown>

  private constructor(args: readonly string[]) {
    const bin = fileURLToPath(new URL("../../cli/dist/bin.js", import.meta.url))
    this.#child = bound([process.execPath, bin, "serve", ...args])
    this.#closed = once(this.#child, "close")
    this.#child.stderr!.setEncoding("utf8").on("data", (text: string) => {
      this.said += text
    })
  }

  /** Settles when it waits for its front end. */
  static async start(args: readonly string[]): Promise<ServeProcess> {
    const serve = new ServeProcess(args)
    await serve.hears("waits for a front end")
    return serve
  }

  /** Waits until it has said so. */
  async hears(words: string): Promise<void> {
    while (!this.said.includes(words)) {
      if (this.#child.exitCode !== null) throw new Error(`virtkit serve has ended: ${this.said}`)
      await Promise.race([once(this.#child.stderr!, "data"), this.#closed])
    }
  }

  /** As a crash would: nothing of it runs any more when it settles. */
  async kill(): Promise<void> {
    this.#child.kill("SIGKILL")
    await this.#closed
  }

  /** Gives the exit status. */
  async stop(): Promise<number | null> {
    this.#child.kill("SIGTERM")
    await this.#closed
    return this.#child.exitCode
  }
}
