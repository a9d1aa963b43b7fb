import { parseArgs } from "node:util"
import type { BlockLimits, CacheMode } from "@virtkit/virtio-blk"
import type { CpuCounts, RingOffers } from "@virtkit/vmm"
import { type DeviceOption, parseDevice } from "./device-option.js"
import {
  amountKey,
  choiceKey,
  countKey,
  escapeWord,
  flagKey,
  type ListOption,
  parseListOption,
  textKey,
} from "./list-option.js"
import { type NetOption, parseNets } from "./net-option.js"
import { UsageError } from "./usage.js"

export interface DiskOption {
  readonly path: string
  readonly readonly: boolean
  readonly serial?: string
  readonly format?: "raw" | "qcow2"
  /** Files and folders that may be backing files. */
  readonly backing?: readonly string[]
  readonly cache?: CacheMode
  readonly queues?: number
  readonly limits?: BlockLimits
  readonly engine?: "auto" | "io_uring" | "threads"
  /** Microseconds. */
  readonly poll?: number
  /** Threads of its own. */
  readonly thread?: boolean | number
}

export type Accel = "auto" | "kvm" | "lab"
export type ConsoleKind = "virtio" | "serial" | "none"

export interface RunOptions {
  readonly kernel: string
  readonly initrd: string | undefined
  readonly cmdline: string
  readonly memory: string
  readonly cpus: CpuCounts
  /** The name of a model, or a path of one. */
  readonly cpu: string
  /** A path. */
  readonly msrFilter: string | undefined
  readonly disks: readonly DiskOption[]
  readonly nets: readonly NetOption[]
  readonly devices: readonly DeviceOption[]
  /** No `--net` was given: see `defaultNets`. */
  readonly defaultNet: boolean
  readonly console: ConsoleKind
  readonly transport: "pci" | "mmio"
  readonly rings: RingOffers
  readonly accel: Accel
  /** Seconds. */
  readonly timeout: number | undefined
  readonly report: string | undefined
}

/** The arguments of `virtkit run`; undefined when help was asked for. Throws {@link UsageError}. */
export function parseRunArguments(argv: readonly string[]): RunOptions | undefined {
  const { values } = parseCommand(argv, {
    kernel: { type: "string" },
    initrd: { type: "string" },
    cmdline: { type: "string" },
    memory: { type: "string" },
    cpus: { type: "string" },
    cpu: { type: "string" },
    "msr-filter": { type: "string" },
    disk: { type: "string", multiple: true },
    net: { type: "string", multiple: true },
    device: { type: "string", multiple: true },
    console: { type: "string" },
    transport: { type: "string" },
    rings: { type: "string" },
    accel: { type: "string" },
    timeout: { type: "string" },
    report: { type: "string" },
    help: { type: "boolean" },
  })
  if (values.help) return undefined
  if (values.kernel === undefined)
    throw new UsageError("--kernel is missing: name a kernel, or get one with virtkit kernel")
  return {
    kernel: values.kernel,
    initrd: values.initrd,
    cmdline: values.cmdline ?? "",
    memory: values.memory ?? "512M",
    cpus: parseCpus(values.cpus ?? "1"),
    cpu: values.cpu ?? "host",
    msrFilter: values["msr-filter"],
    disks: (values.disk ?? []).map(parseDisk),
    nets: parseNets(values.net ?? []),
    devices: (values.device ?? []).map(parseDevice),
    defaultNet: values.net === undefined,
    console: choice("--console", values.console ?? "serial", ["virtio", "serial", "none"]),
    transport: choice("--transport", values.transport ?? "pci", ["pci", "mmio"]),
    rings: parseRings(values.rings ?? "split"),
    accel: choice("--accel", values.accel ?? "auto", ["auto", "kvm", "lab"]),
    timeout: values.timeout === undefined ? undefined : seconds("--timeout", values.timeout),
    report: values.report,
  }
}

/** `4`, `4,threads=2` or `sockets=2,cores=2`, as QEMU's `-smp` reads them. */
export function parseCpus(text: string): CpuCounts {
  const counts: Record<string, number> = {}
  for (const word of text.split(",")) {
    const [key = "", value = ""] = word.includes("=") ? word.split(/=(.*)/s) : ["count", word]
    if (!["count", "sockets", "cores", "threads"].includes(key))
      throw new UsageError(`--cpus "${text}": unknown "${key}", it can have sockets, cores, threads`)
    if (!/^\d{1,9}$/.test(value)) throw new UsageError(`--cpus "${text}": "${value}" is not a whole number`)
    if (counts[key] !== undefined) throw new UsageError(`--cpus "${text}": "${key}" is there twice`)
    counts[key] = Number(value)
  }
  return counts
}

/** The text that {@link parseCpus} turns into the same option. */
export function formatCpus({ count, ...others }: CpuCounts): string {
  const words = Object.entries(others).map(([key, value]) => `${key}=${value}`)
  return [...(count === undefined ? [] : [String(count)]), ...words].join(",")
}

/** `split` or `packed`, with what else the rings offer. */
export function parseRings(text: string): RingOffers {
  const list = parseListOption(text, "--rings", ["inorder", "event_idx", "indirect"])
  const isOn = (key: string) => choiceKey(list, "--rings", key, ["on", "off"]) !== "off"
  return {
    packed: choice("--rings", list.name, ["split", "packed"]) === "packed",
    inOrder: flagKey(list, "--rings", "inorder"),
    eventIdx: isOn("event_idx"),
    indirect: isOn("indirect"),
  }
}

/** The text that {@link parseRings} turns into the same option. */
export function formatRings(rings: RingOffers): string {
  const words = [rings.packed ? "packed" : "split"]
  if (rings.inOrder) words.push("inorder")
  if (rings.eventIdx === false) words.push("event_idx=off")
  if (rings.indirect === false) words.push("indirect=off")
  return words.join(",")
}

const diskKeys = [
  "readonly",
  "format",
  "serial",
  "cache",
  "queues",
  "iops",
  "bps",
  "engine",
  "poll",
  "thread",
] as const

export function parseDisk(text: string): DiskOption {
  const list = parseListOption(text, "--disk", diskKeys, ["backing"])
  const format = choiceKey(list, "--disk", "format", ["raw", "qcow2"])
  const serial = textKey(list, "--disk", "serial")
  const cache = choiceKey(list, "--disk", "cache", ["writeback", "writethrough", "direct", "unsafe"])
  const queues = countKey(list, "--disk", "queues")
  const engine = choiceKey(list, "--disk", "engine", ["auto", "io_uring", "threads"])
  const poll = countKey(list, "--disk", "poll", 0)
  const iops = amountKey(list, "--disk", "iops")
  const bps = amountKey(list, "--disk", "bps")
  const thread = threadKey(list)
  const backing = list.lists.get("backing") ?? []
  if (backing.length > 0 && format !== "qcow2")
    throw new UsageError(`--disk ${list.name}: backing is for format=qcow2`)
  const limits: BlockLimits = {
    ...(iops === undefined ? {} : { operationsPerSecond: iops }),
    ...(bps === undefined ? {} : { bytesPerSecond: bps }),
  }
  return {
    path: list.name,
    readonly: flagKey(list, "--disk", "readonly"),
    ...(format === undefined ? {} : { format }),
    ...(backing.length === 0 ? {} : { backing }),
    ...(serial === undefined ? {} : { serial }),
    ...(cache === undefined ? {} : { cache }),
    ...(queues === undefined ? {} : { queues }),
    ...(iops === undefined && bps === undefined ? {} : { limits }),
    ...(engine === undefined ? {} : { engine }),
    ...(poll === undefined ? {} : { poll }),
    ...(thread === undefined ? {} : { thread }),
  }
}

/** `thread`, `thread=on`, `thread=off`, or a number of them. */
function threadKey(list: ListOption): boolean | number | undefined {
  const value = list.keys.get("thread")
  if (value === undefined || value === true) return value
  if (value === "on" || value === "off") return value === "on"
  if (/^[1-9]\d?$/.test(value)) return Number(value)
  throw new UsageError(`--disk ${list.name}: thread must be on, off, or the number of threads`)
}

/** The text that {@link parseDisk} turns into the same option, with another path. */
export function formatDisk(disk: DiskOption, path: string): string {
  const words = [escapeWord(path)]
  if (disk.readonly) words.push("readonly")
  if (disk.format !== undefined) words.push(`format=${disk.format}`)
  for (const place of disk.backing ?? []) words.push(`backing=${escapeWord(place)}`)
  if (disk.serial !== undefined) words.push(`serial=${escapeWord(disk.serial)}`)
  if (disk.cache !== undefined) words.push(`cache=${disk.cache}`)
  if (disk.queues !== undefined) words.push(`queues=${disk.queues}`)
  const { operationsPerSecond, bytesPerSecond } = disk.limits ?? {}
  if (operationsPerSecond !== undefined) words.push(`iops=${operationsPerSecond}`)
  if (bytesPerSecond !== undefined) words.push(`bps=${bytesPerSecond}`)
  if (disk.engine !== undefined) words.push(`engine=${disk.engine}`)
  if (disk.poll !== undefined) words.push(`poll=${disk.poll}`)
  if (typeof disk.thread === "boolean") words.push(`thread=${disk.thread ? "on" : "off"}`)
  else if (disk.thread !== undefined) words.push(`thread=${disk.thread}`)
  return words.join(",")
}

type OptionsConfig = NonNullable<NonNullable<Parameters<typeof parseArgs>[0]>["options"]>

/** node:util's parseArgs, its complaints as one line. */
export function parseCommand<const T extends OptionsConfig>(
  argv: readonly string[],
  options: T,
  allowPositionals = false,
): ReturnType<typeof parseArgs<{ args: string[]; options: T; allowPositionals: boolean; strict: true }>> {
  try {
    return parseArgs({ args: [...argv], options, allowPositionals, strict: true })
  } catch (error) {
    const [first = ""] = (error as Error).message.split(/\. |\n/)
    throw new UsageError(`${first.replace(/\.$/, "")}; virtkit help lists the options`)
  }
}

export function choice<T extends string>(option: string, value: string, choices: readonly T[]): T {
  const found = choices.find((candidate) => candidate === value)
  if (found === undefined) throw new UsageError(`${option} "${value}": it must be ${choices.join(" or ")}`)
  return found
}

export function wholeNumber(option: string, value: string): number {
  if (!/^\d{1,9}$/.test(value)) throw new UsageError(`${option} "${value}": it must be a whole number`)
  return Number(value)
}

function seconds(option: string, value: string): number {
  const number = Number(value)
  // Timers hold 2^31 - 1 ms.
  if (!/^\d+(\.\d+)?$/.test(value) || number <= 0 || number > 2_000_000) {
    throw new UsageError(`${option} "${value}": it must be a number of seconds above 0`)
  }
  return number
}
