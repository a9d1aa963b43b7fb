import { ConfigError } from "@virtkit/interface"
import { type Aml, concat, littleEndian } from "./encoding.js"
import { buffer } from "./objects.js"

/** `ResourceTemplate () { … }`: the value of a `_CRS` (ACPI 6.4). */
export function resourceTemplate(...descriptors: Aml[]): Aml {
  // A checksum of 0 in the end tag means that there is none to check (ACPI 6.4.2.9).
  return buffer(concat([...descriptors, Uint8Array.of(0x79, 0x00)]))
}

/** `Memory32Fixed`: `length` bytes at the physical address `base`, both below 4 GiB (ACPI 6.4.3.4). */
export function memory32Fixed(base: number, length: number, writable = true): Aml {
  return large(0x86, Uint8Array.of(writable ? 1 : 0), littleEndian(base, 4), littleEndian(length, 4))
}

/** `IO`: `length` ports from `base` on, at that place only, decoded in 16 bits (ACPI 6.4.2.5). */
export function io(base: number, length: number): Aml {
  const port = littleEndian(base, 2)
  return concat([Uint8Array.of(0x47, 0x01), port, port, Uint8Array.of(0x01), littleEndian(length, 1)])
}

export interface InterruptOptions {
  /** Default: edge. */
  readonly trigger?: "edge" | "level"
  /** Default: high. */
  readonly polarity?: "high" | "low"
  /** Other devices may use it too. Default: false. */
  readonly shared?: boolean
}

/** `Interrupt (ResourceConsumer, …)`: global system interrupt numbers (ACPI 6.4.3.6). */
export function interrupt(gsis: number | readonly number[], options: InterruptOptions = {}): Aml {
  const list = typeof gsis === "number" ? [gsis] : gsis
  if (list.length < 1 || list.length > 255)
    throw new ConfigError("an interrupt descriptor has 1 to 255 interrupts")
  const edge = options.trigger !== "level"
  const flags =
    0x01 | (edge ? 0x02 : 0) | (options.polarity === "low" ? 0x04 : 0) | (options.shared ? 0x08 : 0)
  return large(0x89, Uint8Array.of(flags, list.length), ...list.map((gsi) => littleEndian(gsi, 4)))
}

const SPACE_TYPES = { memory: 0, io: 1, bus: 2 } as const

export interface AddressSpace {
  readonly type: keyof typeof SPACE_TYPES
  /** First and last address of the range. */
  readonly min: number
  readonly max: number
  /** Added to an address of the range to get it on the parent's side. Default: 0. */
  readonly translation?: number
  /** Passed on to devices behind a bridge (the default) or used by the device itself. */
  readonly usage?: "producer" | "consumer"
  /** Memory only. Default: uncacheable, or prefetchable when so set; always read-write. */
  readonly prefetchable?: boolean
}

/** `WordBusNumber`, `WordIO`: an address range in 16 bits (ACPI 6.4.3.5.3). */
export function wordSpace(space: AddressSpace): Aml {
  return addressSpace(0x88, 2, space)
}

/** `DWordMemory`, `DWordIO`: an address range in 32 bits (ACPI 6.4.3.5.2). */
export function dwordSpace(space: AddressSpace): Aml {
  return addressSpace(0x87, 4, space)
}

/** `QWordMemory`, `QWordIO`: an address range in 64 bits (ACPI 6.4.3.5.1). */
export function qwordSpace(space: AddressSpace): Aml {
  return addressSpace(0x8a, 8, space)
}

function addressSpace(tag: number, width: number, space: AddressSpace): Aml {
  const { type, min, max, translation = 0 } = space
  if (max < min) throw new ConfigError(`address space ends at ${max}, before it starts at ${min}`)
  // Both ends are fixed; decoding is positive.
  const general = 0x0c | (space.usage === "consumer" ? 0x01 : 0)
  const words = [0, min, max, translation, max - min + 1].map((value) => littleEndian(value, width))
  return large(tag, Uint8Array.of(SPACE_TYPES[type], general, typeFlags(space)), ...words)
}

/** ACPI 6.4.3.5.5: memory is read-write, prefetchable (3) or uncacheable (0); I/O decodes the entire range (3). */
function typeFlags({ type, prefetchable }: AddressSpace): number {
  if (type === "memory") return 0x01 | (prefetchable ? 0x06 : 0)
  return type === "io" ? 0x03 : 0
}

/** A large resource data item: tag, length in 2 bytes, content. */
function large(tag: number, ...content: Uint8Array[]): Aml {
  const body = concat(content)
  return concat([Uint8Array.of(tag), littleEndian(body.length, 2), body])
}
