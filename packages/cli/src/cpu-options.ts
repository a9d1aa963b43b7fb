import { readFileSync } from "node:fs"
import { ConfigError } from "@virtkit/interface"
import { type CpuModel, checkCpuModel, checkMsrRules, type MsrRule } from "@virtkit/vmm"

/** Whether the value of `--cpu` is a file: names have neither slashes nor an ending. */
export function isModelFile(cpu: string): boolean {
  return cpu.includes("/") || cpu.endsWith(".json")
}

/** The value of `--cpu` as `Vm.create` takes it. Throws ConfigError for an unknown name or a file that is no model. */
export function readCpu(cpu: string): string | CpuModel {
  if (!isModelFile(cpu)) return checkCpuModel(cpu)
  return named(`--cpu ${cpu}`, () => checkCpuModel(readObject(cpu)))
}

export function readMsrFilter(path: string | undefined): readonly MsrRule[] {
  return path === undefined ? [] : named(`--msr-filter ${path}`, () => checkMsrRules(readJson(path)))
}

/** A name in a file would be a way round: it holds a model. */
function readObject(path: string): object {
  const value = readJson(path)
  if (typeof value !== "object" || value === null) throw new ConfigError("it must be an object")
  return value
}

function readJson(path: string): unknown {
  const text = readFileSync(path, "utf8")
  try {
    return JSON.parse(text)
  } catch (error) {
    throw new ConfigError(`it is not JSON: ${(error as Error).message.replaceAll("\n", " ")}`)
  }
}

/** Says which file it is that is wrong. */
function named<T>(what: string, read: () => T): T {
  try {
    return read()
  } catch (error) {
    if (error instanceof ConfigError) throw new ConfigError(`${what}: ${error.message}`)
    throw error
  }
}
