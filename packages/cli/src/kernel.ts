import { copyFile } from "node:fs/promises"
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
  else await copyFile(kernel.vmlinuz, values.output)
  return EXIT_CLEAN
}
