import { copyFile } from "node:fs/promises"
import { ConfigError } from "@virtkit/interface"
import { findKernel } from "@virtkit/lab"
import { parseCommand } from "./run-options.js"
import { EXIT_CLEAN, kernelUsage } from "./usage.js"

/** `virtkit kernel`: a distribution kernel, its path on stdout unless it was copied elsewhere. */
export async function kernelCommand(argv: readonly string[]): Promise<number> {
  const { values } = parseCommand(argv, { output: { type: "string" }, help: { type: "boolean" } })
  if (values.help) {
    process.stdout.write(kernelUsage)
    return EXIT_CLEAN
  }
  const kernel = await findKernel({ log: (line) => process.stderr.write(`virtkit: ${line}\n`) })
  if (values.output === undefined) process.stdout.write(`${kernel.vmlinuz}\n`)
  else await copy(kernel.vmlinuz, values.output)
  return EXIT_CLEAN
}

async function copy(source: string, target: string): Promise<void> {
  await copyFile(source, target).catch((error: NodeJS.ErrnoException) => {
    const why =
      error.code === "ENOENT" ? "there is no such directory" : `it cannot be written (${error.code})`
    throw new ConfigError(`--output ${target}: ${why}`, { cause: error })
  })
}
