import { ConfigError } from "@virtkit/interface"

/**
 * A piece of ACPI Machine Language: the bytes of one term or of several in a row. Every function of this folder makes
 * one, most take some, and they nest as the ASL of the same names would. "ACPI" below is the ACPI specification 6.5.
 */
export type Aml = Uint8Array

/** Joins pieces into one. */
export function concat(parts: readonly Aml[]): Aml {
  const result = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let offset = 0
  for (const part of parts) {
    result.set(part, offset)
    offset += part.length
  }
  return result
}

/**
 * The PkgLength of a package with `contentLength` bytes after it (ACPI 20.2.4). The encoded value counts its own bytes.
 * Throws {@link ConfigError} from 2^28 bytes on, which the encoding cannot express.
 */
export function pkgLength(contentLength: number): Aml {
  for (let size = 1; size <= 4; size++) {
    const total = contentLength + size
    if (total <= maxPkgLength(size)) return encodePkgLength(total, size)
  }
  throw new ConfigError(`an AML package of ${contentLength} bytes is too long: the limit is 2^28 - 5`)
}

/** The PkgLength that stands for `value` itself, as field lists use it for widths in bits (ACPI 20.2.5.2). */
export function fieldLength(value: number): Aml {
  for (let size = 1; size <= 4; size++) {
    if (value <= maxPkgLength(size)) return encodePkgLength(value, size)
  }
  throw new ConfigError(`an AML field of ${value} bits is too wide: the limit is 2^28 - 1`)
}

/** One byte has 6 bits for the value; with more, the first one has 4 and each further one 8. */
function maxPkgLength(size: number): number {
  return size === 1 ? 0x3f : 2 ** (4 + 8 * (size - 1)) - 1
}

function encodePkgLength(value: number, size: number): Aml {
  if (size === 1) return Uint8Array.of(value)
  const bytes = new Uint8Array(size)
  bytes[0] = ((size - 1) << 6) | (value & 0xf)
  for (let i = 1; i < size; i++) bytes[i] = Math.floor(value / 2 ** (4 + 8 * (i - 1))) & 0xff
  return bytes
}

const SEGMENT = /^[A-Z_][A-Z0-9_]{0,3}$/

/**
 * A name such as `_HID`, `\_SB.PWRB` or `^PCI0` (ACPI 20.2.2). Segments shorter than 4 characters are padded with "_".
 * Throws {@link ConfigError} for anything that is not a name.
 */
export function nameString(path: string): Aml {
  const [, prefix = "", rest = ""] = /^(\\|\^*)(.*)$/s.exec(path) ?? []
  const segments = rest === "" ? [] : rest.split(".")
  const valid = segments.every((segment) => SEGMENT.test(segment)) && segments.length <= 255
  if (!valid || (segments.length === 0 && prefix === ""))
    throw new ConfigError(`"${path}" is not an ACPI name`)
  return concat([ascii(prefix), segmentCount(segments.length), ascii(segments.map(pad).join(""))])
}

/** NullName, DualNamePrefix, MultiNamePrefix or nothing, which say how many segments follow. */
function segmentCount(count: number): Aml {
  if (count === 0) return Uint8Array.of(0x00)
  if (count === 1) return new Uint8Array(0)
  if (count === 2) return Uint8Array.of(0x2e)
  return Uint8Array.of(0x2f, count)
}

function pad(segment: string): string {
  return segment.padEnd(4, "_")
}

/** The bytes of a string of ASCII characters; anything else is a {@link ConfigError}. */
export function ascii(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length)
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (code < 1 || code > 0x7f) throw new ConfigError(`"${text}" has a character that is not ASCII`)
    bytes[i] = code
  }
  return bytes
}

/** `value` in `size` little-endian bytes. Takes Numbers up to 2^53 and unsigned 64-bit bigints. */
export function littleEndian(value: number | bigint, size: number): Uint8Array {
  const bits = BigInt(value)
  if (bits < 0n || bits >= 1n << BigInt(8 * size)) {
    throw new ConfigError(`${value} does not fit into ${size} unsigned bytes`)
  }
  const bytes = new Uint8Array(size)
  for (let i = 0; i < size; i++) bytes[i] = Number((bits >> BigInt(8 * i)) & 0xffn)
  return bytes
}
