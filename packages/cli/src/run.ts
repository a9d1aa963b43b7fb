import { accessSync, constants, existsSync, statSync } from "node:fs"
import { dirname } from "node:path"
import { ConfigError } from "@virtkit/interface"
import { chooseAccel } from "./accel.js"
import { isModelFile } from "./cpu-options.js"
import { defaultNets } from "./net-option.js"
import { parseRunArguments, type RunOptions } from "./run-options.js"
import { EXIT_CLEAN, runUsage } from "./usage.js"

/** `virtkit run`: exit status as in the usage. */
export async function runCommand(argv: readonly string[]): Promise<number> {
  const options = parseRunArguments(argv)
  if (options === undefined) {
    process.stdout.write(runUsage)
    return EXIT_CLEAN
  }
  checkFiles(options)
  const accel = await chooseAccel(options.accel)
  if (accel.note !== undefined) process.stderr.write(`virtkit: ${accel.note}\n`)
  if (accel.kind === "lab") return (await import("./run-lab.js")).runInLab(options)
  const hasCard = options.devices.some(({ type }) => type === "net")
  const nets =
    options.defaultNet && !hasCard
      ? defaultNets(process.geteuid?.() ?? 0, process.env.PATH ?? "")
      : options.nets
  return (await import("./run-kvm.js")).runOnKvm({ ...options, nets })
}

/** Before a lab is started for nothing: are the files there? What is in them is checked by who reads them. */
function checkFiles(options: RunOptions): void {
  checkFile("--kernel", options.kernel, constants.R_OK)
  if (options.initrd !== undefined) checkFile("--initrd", options.initrd, constants.R_OK)
  if (isModelFile(options.cpu)) checkFile("--cpu", options.cpu, constants.R_OK)
  if (options.msrFilter !== undefined) checkFile("--msr-filter", options.msrFilter, constants.R_OK)
  for (const disk of options.disks) {
    checkFile("--disk", disk.path, disk.readonly ? constants.R_OK : constants.R_OK | constants.W_OK)
  }
  if (options.report !== undefined) checkOutput("--report", options.report)
  for (const { capture } of options.nets) if (capture !== undefined) checkOutput("--net capture", capture)
}

/** Some are written when the guest has ended, which is late to learn that they cannot be. */
function checkOutput(option: string, path: string): void {
  const exists = existsSync(path)
  const place = exists ? path : dirname(path)
  if (exists && statSync(path).isDirectory()) throw new ConfigError(`${option} ${path}: it is a directory`)
  if (!existsSync(place)) throw new ConfigError(`${option} ${path}: there is no directory ${place}`)
  try {
    accessSync(place, constants.W_OK)
  } catch {
    throw new ConfigError(`${option} ${path}: it cannot be written`)
  }
}

function checkFile(option: string, path: string, mode: number): void {
  try {
    accessSync(path, mode)
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    if (code === "ENOENT") throw new ConfigError(`${option} ${path}: there is no such file`)
    const write = (mode & constants.W_OK) !== 0
    if (code === "EACCES" || code === "EROFS") {
      const advice =
        write && readable(path)
          ? `it cannot be written; add ",readonly" or change its permissions`
          : "it cannot be read"
      throw new ConfigError(`${option} ${path}: ${advice}`)
    }
    throw new ConfigError(`${option} ${path}: ${(error as Error).message}`)
  }
  if (statSync(path).isDirectory()) throw new ConfigError(`${option} ${path}: it is a directory`)
}

function readable(path: string): boolean {
  try {
    accessSync(path, constants.R_OK)
    return true
  } catch {
    return false
  }
}
