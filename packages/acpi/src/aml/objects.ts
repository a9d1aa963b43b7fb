import { ConfigError } from "@virtkit/interface"
import { type Aml, ascii, concat, fieldLength, littleEndian, nameString, pkgLength } from "./encoding.js"

const ONES = 0xffff_ffff_ffff_ffffn

/** What terms take where ASL has a value: numbers become integers, strings become names, the rest is AML already. */
export type Operand = number | bigint | string | Aml

/** An {@link Operand} as AML. A string is a reference to a name; for string data use {@link string}. */
export function operand(value: Operand): Aml {
  if (typeof value === "string") return nameString(value)
  return value instanceof Uint8Array ? value : integer(value)
}

/** An integer in its shortest form: ZeroOp, OneOp, OnesOp (2^64 - 1) or a 1, 2, 4 or 8-byte constant (ACPI 20.2.3). */
export function integer(value: number | bigint): Aml {
  const wide = BigInt(value)
  if (wide < 0n || wide > ONES) throw new ConfigError(`${value} is not an unsigned 64-bit integer`)
  if (wide <= 1n) return Uint8Array.of(Number(wide))
  if (wide === ONES) return Uint8Array.of(0xff)
  if (wide <= 0xffn) return constant(0x0a, wide, 1)
  if (wide <= 0xffffn) return constant(0x0b, wide, 2)
  if (wide <= 0xffff_ffffn) return constant(0x0c, wide, 4)
  return constant(0x0e, wide, 8)
}

function constant(prefix: number, value: bigint, size: number): Aml {
  return concat([Uint8Array.of(prefix), littleEndian(value, size)])
}

/** A string constant, ASCII only. */
export function string(text: string): Aml {
  return concat([Uint8Array.of(0x0d), ascii(text), Uint8Array.of(0)])
}

/** A device ID in its compressed form: `eisaId("PNP0501")`, three capital letters and four hexadecimal digits. */
export function eisaId(id: string): Aml {
  const match = /^([A-Z]{3})([0-9A-F]{4})$/.exec(id)
  if (!match) throw new ConfigError(`"${id}" is not an EISA ID such as PNP0501`)
  const [, letters = "", digits = ""] = match
  const [a = 0, b = 0, c = 0] = Array.from(letters, (letter) => letter.charCodeAt(0) - 0x40)
  const product = Number.parseInt(digits, 16)
  // The letters are 5 bits each, most significant first; both halves are stored big-endian.
  const vendor = (a << 10) | (b << 5) | c
  const bytes = Uint8Array.of(vendor >> 8, vendor & 0xff, product >> 8, product & 0xff)
  return concat([Uint8Array.of(0x0c), bytes])
}

/** A UUID as the 16-byte buffer that ASL's ToUUID makes: the first three groups little-endian. */
export function uuid(text: string): Aml {
  if (!/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text))
    throw new ConfigError(`"${text}" is not a UUID`)
  const bytes = Uint8Array.from(text.replaceAll("-", "").match(/../g) ?? [], (pair) =>
    Number.parseInt(pair, 16),
  )
  bytes.subarray(0, 4).reverse()
  bytes.subarray(4, 6).reverse()
  bytes.subarray(6, 8).reverse()
  return buffer(bytes)
}

/** A buffer with these bytes. */
export function buffer(bytes: Uint8Array): Aml {
  return packaged([0x11], integer(bytes.length), bytes)
}

/** A package (array) of values. A string element is a reference to that name. */
export function pack(...elements: Operand[]): Aml {
  if (elements.length > 255)
    throw new ConfigError(`an AML package has at most 255 elements, not ${elements.length}`)
  return packaged([0x12], Uint8Array.of(elements.length), ...elements.map(operand))
}

/** `Name (path, value)`. */
export function name(path: string, value: Operand): Aml {
  return concat([Uint8Array.of(0x08), nameString(path), operand(value)])
}

/** `Scope (path) { … }`. */
export function scope(path: string, ...terms: Aml[]): Aml {
  return packaged([0x10], nameString(path), ...terms)
}

/** `Device (path) { … }`. */
export function device(path: string, ...terms: Aml[]): Aml {
  return packaged([0x5b, 0x82], nameString(path), ...terms)
}

/** `Method (path, args, Serialized or NotSerialized) { … }`. Serialize a method that creates names or touches fields. */
export function method(path: string, options: { args: number; serialized?: boolean }, ...terms: Aml[]): Aml {
  if (!(options.args >= 0 && options.args <= 7))
    throw new ConfigError(`a method has 0 to 7 arguments, not ${options.args}`)
  const flags = options.args | (options.serialized ? 0x08 : 0)
  return packaged([0x14], nameString(path), Uint8Array.of(flags), ...terms)
}

/** The address spaces of operation regions (ACPI 5.5.2.4, table 5.162) that virtual hardware has. */
export const REGION_SPACES = { systemMemory: 0, systemIO: 1, pciConfig: 2 } as const

/** `OperationRegion (path, space, offset, length)`; offset and length in bytes. */
export function operationRegion(
  path: string,
  space: keyof typeof REGION_SPACES,
  offset: Operand,
  length: Operand,
): Aml {
  const head = concat([Uint8Array.of(0x5b, 0x80), nameString(path), Uint8Array.of(REGION_SPACES[space])])
  return concat([head, operand(offset), operand(length)])
}

const ACCESS = { any: 0, byte: 1, word: 2, dword: 3, qword: 4, buffer: 5 } as const
const UPDATE = { preserve: 0, writeAsOnes: 1, writeAsZeros: 2 } as const

export interface FieldOptions {
  /** Width of the accesses to the region. */
  readonly access: keyof typeof ACCESS
  /** What a write does to the bits of an access that belong to no field written. Default: preserve (read first). */
  readonly update?: keyof typeof UPDATE
  /** Take the global lock around accesses. */
  readonly lock?: boolean
}

/** `Field (region, …) { … }`: consecutive fields of the region by width in bits; an undefined name skips bits. */
export function field(
  region: string,
  options: FieldOptions,
  fields: readonly (readonly [name: string | undefined, bits: number])[],
): Aml {
  const flags =
    ACCESS[options.access] | (options.lock ? 0x10 : 0) | (UPDATE[options.update ?? "preserve"] << 5)
  const list = fields.map(([fieldName, bits]) =>
    concat([fieldName === undefined ? Uint8Array.of(0) : nameSegment(fieldName), fieldLength(bits)]),
  )
  return packaged([0x5b, 0x81], nameString(region), Uint8Array.of(flags), ...list)
}

function nameSegment(segment: string): Aml {
  const encoded = nameString(segment)
  if (encoded.length !== 4) throw new ConfigError(`"${segment}" is not one ACPI name segment`)
  return encoded
}

/** An opcode, the PkgLength of what follows, and that. */
export function packaged(opcode: readonly number[], ...content: Aml[]): Aml {
  const body = concat(content)
  return concat([Uint8Array.from(opcode), pkgLength(body.length), body])
}
