import { ConfigError } from "@virtkit/interface"
import { ascii, littleEndian } from "./aml/encoding.js"

/** Bytes of the header that every table but the RSDP starts with (ACPI 5.2.6). */
export const HEADER_SIZE = 36

/** Bytes of a generic address structure (ACPI 5.2.3.2). */
export const GAS_SIZE = 12

/**
 * A whole table: header with length and checksum, then `body`. `signature` has 4 characters. To be listed in
 * `extraTables`, for instance.
 */
export function acpiTable(signature: string, revision: number, body: Uint8Array): Uint8Array {
  if (signature.length !== 4)
    throw new ConfigError(`"${signature}" is not a 4-character ACPI table signature`)
  const table = new Uint8Array(HEADER_SIZE + body.length)
  table.set(ascii(signature), 0)
  table.set(littleEndian(table.length, 4), 4)
  table[8] = revision
  table.set(ascii("VRTKIT"), 10)
  table.set(ascii("VIRTKIT "), 16)
  table.set(littleEndian(1, 4), 24)
  table.set(ascii("VKIT"), 28)
  table.set(littleEndian(1, 4), 32)
  table.set(body, HEADER_SIZE)
  table[9] = checksum(table)
  return table
}

/** The byte that makes the sum of `bytes` (with 0 in its place) a multiple of 256. */
export function checksum(bytes: Uint8Array): number {
  return -bytes.reduce((sum, byte) => sum + byte, 0) & 0xff
}

/** A generic address structure for I/O ports: `size` bytes (1, 2 or 4) from `port` on. */
export function ioPortAddress(port: number, size: 1 | 2 | 4 = 1): Uint8Array {
  const gas = new Uint8Array(GAS_SIZE)
  // Address space system I/O, at bit 0; access size 1 is a byte, 2 a word. Event blocks are pairs of words.
  gas.set([0x01, 8 * size, 0, size === 1 ? 1 : 2])
  gas.set(littleEndian(port, 8), 4)
  return gas
}
