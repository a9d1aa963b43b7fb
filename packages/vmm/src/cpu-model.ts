import { ConfigError } from "@virtkit/interface"
import type { Msr } from "@virtkit/kvm"
import { type CpuidRegister, findFeature, REGISTERS, registerName } from "./cpu-features.js"

/**
 * What a guest's processor shows, as data: changes to what KVM supports on this host. A model can be written as JSON, so
 * numbers may be text in hexadecimal ("0x80000001").
 */
export interface CpuModel {
  readonly name: string
  readonly leaves: readonly CpuLeaf[]
  /**
   * Leaves that the model does not list: the host's (default), or none of them, except the vendor's name and those in
   * which KVM introduces itself. A model without the others' shows the same on every host that can run it.
   */
  readonly others?: "host" | "none"
  /** Set on every vCPU before it starts. */
  readonly msrs?: readonly { readonly index: number | string; readonly value: number | bigint | string }[]
}

/** One leaf of CPUID; a register that is not there stays as the host has it. */
export interface CpuLeaf {
  readonly function: number | string
  /** Subleaf; default 0. */
  readonly index?: number | string
  readonly eax?: CpuRegisterChange
  readonly ebx?: CpuRegisterChange
  readonly ecx?: CpuRegisterChange
  readonly edx?: CpuRegisterChange
}

/** (host's & ~clear) | set: with all bits in `clear`, the register is `set`. Feature bits in `set` the host must have. */
export interface CpuRegisterChange {
  readonly clear?: CpuMask
  readonly set?: CpuMask
}

/** 32 bits as a number or in hexadecimal, or names of features of that register, as /proc/cpuinfo has them. */
export type CpuMask = number | string | readonly string[]

/** A model that was checked: numbers only. */
export interface CheckedModel {
  readonly name: string
  readonly keepOthers: boolean
  readonly leaves: readonly CheckedLeaf[]
  readonly msrs: readonly Msr[]
}

export interface CheckedLeaf {
  readonly function: number
  readonly index: number
  readonly changes: readonly {
    readonly register: CpuidRegister
    readonly clear: number
    readonly set: number
  }[]
}

/** Throws {@link ConfigError} that says where a model, perhaps read from a file, is wrong. */
export function checkModel(model: unknown): CheckedModel {
  const fields = record(model, "cpu")
  const name = fields.name
  if (typeof name !== "string" || name === "") throw new ConfigError("cpu: the model must have a name")
  const where = `cpu model "${name}"`
  onlyKeys(fields, ["name", "leaves", "others", "msrs"], where)
  if (fields.others !== undefined && fields.others !== "host" && fields.others !== "none")
    throw new ConfigError(`${where}: others must be "host" or "none"`)
  return {
    name,
    keepOthers: fields.others !== "none",
    leaves: list(fields.leaves, `${where}: leaves`).map((leaf, at) =>
      checkLeaf(leaf, `${where}: leaves[${at}]`),
    ),
    msrs: list(fields.msrs ?? [], `${where}: msrs`).map((msr, at) => checkMsr(msr, `${where}: msrs[${at}]`)),
  }
}

function checkLeaf(value: unknown, where: string): CheckedLeaf {
  const leaf = record(value, where)
  onlyKeys(leaf, ["function", "index", ...REGISTERS], where)
  const place = {
    function: number32(leaf.function, `${where}.function`),
    index: number32(leaf.index ?? 0, `${where}.index`),
  }
  const changes = REGISTERS.flatMap((register) => {
    if (leaf[register] === undefined) return []
    const change = record(leaf[register], `${where}.${register}`)
    onlyKeys(change, ["clear", "set"], `${where}.${register}`)
    const mask = (key: "clear" | "set") =>
      checkMask(change[key] ?? 0, { ...place, register }, `${where}.${register}.${key}`)
    return [{ register, clear: mask("clear"), set: mask("set") }]
  })
  return { ...place, changes }
}

interface Place {
  readonly function: number
  readonly index: number
  readonly register: CpuidRegister
}

function checkMask(value: unknown, place: Place, where: string): number {
  if (!Array.isArray(value)) return number32(value, where)
  return value.reduce((mask: number, name: unknown) => {
    const feature = typeof name === "string" ? findFeature(name) : undefined
    const here =
      feature?.function === place.function &&
      feature.index === place.index &&
      feature.register === place.register
    if (feature !== undefined && here) return (mask | (1 << feature.bit)) >>> 0
    const elsewhere =
      feature === undefined
        ? ""
        : `, it is in ${registerName(feature.function, feature.index, feature.register)}`
    const wanted = registerName(place.function, place.index, place.register)
    throw new ConfigError(`${where}: ${JSON.stringify(name)} is no feature in ${wanted}${elsewhere}`)
  }, 0)
}

function checkMsr(value: unknown, where: string): Msr {
  const msr = record(value, where)
  onlyKeys(msr, ["index", "value"], where)
  return {
    index: number32(msr.index, `${where}.index`),
    value: number64(msr.value, `${where}.value`),
  }
}

/** Used by whatever takes data that a user wrote. */
export function record(value: unknown, where: string): Record<string, unknown> {
  if (typeof value === "object" && value !== null && !Array.isArray(value))
    return value as Record<string, unknown>
  throw new ConfigError(`${where}: it must be an object`)
}

export function list(value: unknown, where: string): readonly unknown[] {
  if (Array.isArray(value)) return value
  throw new ConfigError(`${where}: it must be a list`)
}

export function onlyKeys(value: Record<string, unknown>, known: readonly string[], where: string): void {
  const other = Object.keys(value).find((key) => !known.includes(key))
  if (other !== undefined)
    throw new ConfigError(`${where}: unknown "${other}", it can have ${known.join(", ")}`)
}

export function number32(value: unknown, where: string): number {
  const number = typeof value === "string" && isNumeral(value) ? Number(value) : value
  if (typeof number === "number" && Number.isInteger(number) && number >= 0 && number < 2 ** 32) return number
  throw new ConfigError(`${where}: ${describe(value)} is not a number of 32 bits`)
}

function number64(value: unknown, where: string): bigint {
  if (
    typeof value === "bigint" ||
    Number.isSafeInteger(value) ||
    (typeof value === "string" && isNumeral(value))
  ) {
    const number = BigInt(value as bigint | number | string)
    if (number >= 0n && number < 1n << 64n) return number
  }
  throw new ConfigError(`${where}: ${describe(value)} is not a number of 64 bits`)
}

function isNumeral(text: string): boolean {
  return /^(0x[0-9a-f]{1,16}|\d{1,20})$/i.test(text)
}

function describe(value: unknown): string {
  if (value === undefined) return "nothing"
  return typeof value === "bigint" ? String(value) : JSON.stringify(value)
}
