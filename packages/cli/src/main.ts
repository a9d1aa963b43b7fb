import {
  doctorUsage,
  EXIT_CLEAN,
  EXIT_CRASH,
  EXIT_USAGE,
  kernelUsage,
  labUsage,
  runUsage,
  serveUsage,
  usage,
} from "./usage.js"

/** Runs one command line and gives the exit status. Each command's module is loaded only when it is asked for. */
export async function main(argv: readonly string[]): Promise<number> {
  const [command, ...rest] = argv
  try {
    switch (command) {
      case "run":
        return await (await import("./run.js")).runCommand(rest)
      case "serve":
        return await (await import("./serve.js")).serveCommand(rest)
      case "doctor":
        return await (await import("./doctor.js")).doctorCommand(rest)
      case "lab":
        return await (await import("./lab.js")).labCommand(rest)
      case "kernel":
        return await (await import("./kernel.js")).kernelCommand(rest)
      case "version":
      case "--version":
        process.stdout.write(`virtkit ${await version()}\n`)
        return EXIT_CLEAN
      case "help":
      case "--help":
      case "-h":
        process.stdout.write(help(rest[0]))
        return EXIT_CLEAN
      case undefined:
        process.stderr.write(usage)
        return EXIT_USAGE
      default:
        process.stderr.write(`virtkit: unknown command "${command}"; virtkit help lists the commands\n`)
        return EXIT_USAGE
    }
  } catch (error) {
    return reportError(error)
  }
}

/** What the user can mend is one line; anything else is a defect of ours and shows where. */
function reportError(error: unknown): number {
  if (!(error instanceof Error)) {
    process.stderr.write(`virtkit: ${String(error)}\n`)
    return EXIT_CRASH
  }
  if (isExpected(error)) {
    process.stderr.write(`virtkit: ${error.message}\n`)
    return EXIT_USAGE
  }
  process.stderr.write(`virtkit: ${error.stack}\n`)
  return EXIT_CRASH
}

/** Wrong usage, what virtkit says of options and state, and what the system refused; no other error of Node.js. */
function isExpected(error: Error): boolean {
  const { code } = error as { code?: unknown }
  return error.name === "UsageError" || (typeof code === "string" && /^(ERR_VIRTKIT|E[A-Z0-9]+$)/.test(code))
}

function help(command: string | undefined): string {
  const pages: Record<string, string> = {
    run: runUsage,
    serve: serveUsage,
    doctor: doctorUsage,
    lab: labUsage,
    kernel: kernelUsage,
  }
  return pages[command ?? ""] ?? usage
}

async function version(): Promise<string> {
  const { readFileSync } = await import("node:fs")
  const { join } = await import("node:path")
  const { packageDirectory } = await import("./package-directory.js")
  const manifest = readFileSync(join(packageDirectory(), "package.json"), "utf8")
  return (JSON.parse(manifest) as { version: string }).version
}
