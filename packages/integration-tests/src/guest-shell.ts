import type { Readable, Writable } from "node:stream"

/** What runs the guest and is connected with its console. */
export interface ShellProcess {
  readonly stdin: Writable
  readonly stdout: Readable
  readonly stderr: Readable
  readonly exited: Promise<{ readonly status: number | null }>
}

/** A guest's script that executes what it reads from its console, line by line, and tells how each line ended. */
export const GUEST_SHELL = `stty -echo
echo "@@ 0"
while read -r line; do
  eval "$line"
  echo "@@ $?"
done
`

/** A guest that runs {@link GUEST_SHELL}, told commands one after the other. */
export class GuestShell {
  readonly #process: ShellProcess
  #said = ""
  #errors = ""
  #ended = false
  #wake = (): void => {}

  private constructor(process: ShellProcess) {
    this.#process = process
    process.stdin.on("error", () => {}) // it may end before it was told all
    process.stdout.setEncoding("utf8")
    process.stdout.on("data", (text: string) => {
      this.#said += text.replaceAll("\r", "")
      this.#wake()
    })
    process.stderr.setEncoding("utf8")
    process.stderr.on("data", (text: string) => {
      this.#errors += text
    })
    void process.exited.then(() => {
      this.#ended = true
      this.#wake()
    })
  }

  /** `process` is the command that runs the guest. Settles when the guest takes commands. */
  static async start(process: ShellProcess): Promise<GuestShell> {
    const shell = new GuestShell(process)
    await shell.#answer("the start")
    return shell
  }

  /** Runs a line of shell. Gives what it printed, line ends as "\n"; throws when its status is not 0. */
  async run(line: string): Promise<string> {
    this.#process.stdin.write(`${line}\n`)
    const { said, status } = await this.#answer(line)
    if (status !== 0) throw new Error(`${line}: status ${status}: ${said}`)
    return said
  }

  /** Ends the guest by its script's end, which powers it off. Gives the status of the command, and its stderr. */
  async end(): Promise<{ status: number | null; stderr: string }> {
    this.#process.stdin.write("exec poweroff -f\n")
    const { status } = await this.#process.exited
    return { status, stderr: this.#errors }
  }

  async #answer(line: string): Promise<{ said: string; status: number }> {
    for (;;) {
      const found = /^@@ (\d+)\n/m.exec(this.#said)
      if (found) {
        const said = this.#said.slice(0, found.index)
        this.#said = this.#said.slice(found.index + found[0].length)
        return { said, status: Number(found[1]) }
      }
      if (this.#ended) throw new Error(`${line}: the guest has ended: ${this.#said}${this.#errors}`)
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
  }
}
