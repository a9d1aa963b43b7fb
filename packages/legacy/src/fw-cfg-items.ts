import { ConfigError } from "@virtkit/interface"

/** Contents by name, such as "etc/e820". */
export type FwCfgFiles = Readonly<Record<string, Uint8Array>>

/** Number of the first file; the others follow. */
export const FIRST_FILE = 0x20
/** Numbers from 0x4000 on are taken by the write channel. */
const MAX_FILES = 0x4000 - FIRST_FILE
const MAX_FILE_BYTES = 16 * 1024 * 1024
/** Bytes of a name in the directory, with the NUL. */
const NAME_BYTES = 56
const ENTRY_BYTES = 8 + NAME_BYTES

/**
 * The file directory: a count, then size, number and name of each file, all big-endian, by name. `contents` are in the
 * same order. Throws ConfigError.
 */
export function directory(files: FwCfgFiles): { listing: Uint8Array; contents: Uint8Array[] } {
  // By code units, not by the host's language: the order is the guest's to see.
  const entries = Object.entries(files).sort(([a], [b]) => (a < b ? -1 : 1))
  if (entries.length > MAX_FILES) throw new ConfigError(`fw_cfg has room for ${MAX_FILES} files`)
  const listing = new Uint8Array(4 + entries.length * ENTRY_BYTES)
  const view = new DataView(listing.buffer)
  view.setUint32(0, entries.length)
  entries.forEach(([name, bytes], index) => {
    checkFile(name, bytes)
    const at = 4 + index * ENTRY_BYTES
    view.setUint32(at, bytes.length)
    view.setUint16(at + 4, FIRST_FILE + index)
    listing.set(
      Uint8Array.from(name, (letter) => letter.charCodeAt(0)),
      at + 8,
    )
  })
  return { listing, contents: entries.map(([, bytes]) => bytes) }
}

function checkFile(name: string, bytes: Uint8Array): void {
  if (!/^[\x21-\x7e]+$/.test(name) || name.length >= NAME_BYTES) {
    throw new ConfigError(`a fw_cfg file cannot be called "${name}": 1 to ${NAME_BYTES - 1} letters of ASCII`)
  }
  if (bytes.length > MAX_FILE_BYTES) {
    throw new ConfigError(`the fw_cfg file ${name} is larger than ${MAX_FILE_BYTES} bytes`)
  }
}

/** The unsigned 32-bit value with its bytes in the other order. */
export function swap32(value: number): number {
  const high = ((value & 0xff) << 24) | ((value & 0xff00) << 8)
  return (high | ((value >>> 8) & 0xff00) | (value >>> 24)) >>> 0
}
