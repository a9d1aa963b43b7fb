import { basename } from "node:path"
import { Lab, packageShares } from "@virtkit/lab"
import { parseSize } from "@virtkit/vmm"
import { packageDirectory } from "./package-directory.js"
import { parseCommand, wholeNumber } from "./run-options.js"
import { openKeyboard, showOutput } from "./terminal.js"
import { EXIT_CLEAN, EXIT_CRASH, labUsage, UsageError } from "./usage.js"

/** `virtkit lab`: the command's exit status. */
export async function labCommand(argv: readonly string[]): Promise<number> {
  const { values, positionals } = parseCommand(
    argv,
    {
      memory: { type: "string" },
      cpus: { type: "string" },
      copy: { type: "string", multiple: true },
      help: { type: "boolean" },
    },
    true,
  )
  if (values.help) {
    process.stdout.write(labUsage)
    return EXIT_CLEAN
  }
  if (positionals.length === 0) throw new UsageError("lab: name a command after --")
  const copies = (values.copy ?? []).map(parseCopy)
  const stop = new AbortController()
  const interrupt = () => stop.abort()
  process.on("SIGTERM", interrupt).on("SIGINT", interrupt).on("SIGHUP", interrupt)
  try {
    await using lab = await Lab.start({
      memory: parseSize(values.memory ?? "2G", "--memory"),
      cpus: wholeNumber("--cpus", values.cpus ?? "2"),
      shares: await packageShares(packageDirectory()),
      signal: stop.signal,
      log: (line) => process.stderr.write(`virtkit: ${line}\n`),
    })
    for (const { source, target } of copies) await lab.copyIn(source, target)
    return await runAttached(lab, positionals, interrupt)
  } catch (error) {
    if (stop.signal.aborted) return EXIT_CRASH
    throw error
  } finally {
    process.off("SIGTERM", interrupt).off("SIGINT", interrupt).off("SIGHUP", interrupt)
  }
}

/** `SRC[:DEST]`; without DEST it goes to the home directory of the lab. */
function parseCopy(text: string): { source: string; target: string } {
  const colon = text.indexOf(":")
  const source = colon < 0 ? text : text.slice(0, colon)
  const target = colon < 0 ? `/root/${basename(source)}` : text.slice(colon + 1)
  if (source === "" || !target.startsWith("/")) {
    throw new UsageError(`--copy "${text}": it must be SRC or SRC:DEST with an absolute DEST`)
  }
  return { source, target }
}

/** The command with our streams, on a terminal of its own where we have one. */
async function runAttached(lab: Lab, command: readonly string[], leave: () => void): Promise<number> {
  const { columns, rows } = process.stdout
  const terminal = process.stdin.isTTY && process.stdout.isTTY
  const child = lab.spawn(command, {
    env: { PATH: "/usr/bin:/usr/sbin:/virtkit/node_modules/.bin", NODE_PATH: "/virtkit/node_modules" },
    ...(terminal ? { tty: { columns, rows } } : {}),
  })
  const { keys, restore } = openKeyboard(leave)
  const onResize = () => child.resize(process.stdout.rows, process.stdout.columns)
  if (terminal) process.stdout.on("resize", onResize)
  try {
    keys.pipe(child.stdin)
    // The command may end before its input does.
    child.stdin.on("error", () => keys.unpipe(child.stdin))
    showOutput(child.stdout, process.stdout)
    showOutput(child.stderr, process.stderr)
    const { status } = await child.exited
    return status ?? EXIT_CRASH
  } finally {
    process.stdout.off("resize", onResize)
    keys.unpipe()
    restore()
  }
}
