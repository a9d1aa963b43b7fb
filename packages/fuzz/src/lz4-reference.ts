/** Blocks of a legacy frame unpack to that much at most. */
const BLOCK = 8 * 1024 * 1024
const MAGIC = 0x184c_2102

/**
 * Unpacks a legacy LZ4 frame, byte by byte, until `size` bytes are there; undefined when it breaks a rule (lz4
 * doc/lz4_Frame_format.md and lz4_Block_format.md).
 */
export function lz4Reference(frame: Uint8Array, size: number): Uint8Array | undefined {
  const view = new DataView(frame.buffer, frame.byteOffset, frame.length)
  const out: number[] = []
  for (let at = 4; out.length < size; ) {
    if (at + 4 > frame.length) return undefined
    const packed = view.getUint32(at, true)
    at += 4
    if (packed === MAGIC) continue
    if (at + packed > frame.length) return undefined
    if (!block(frame.subarray(at, at + packed), out, Math.min(size, out.length + BLOCK))) return undefined
    at += packed
  }
  return Uint8Array.from(out)
}

function block(bytes: Uint8Array, out: number[], most: number): boolean {
  const start = out.length
  let at = 0
  const length = (nibble: number): number => {
    let sum = nibble
    if (nibble < 15) return sum
    for (let more = 255; more === 255; sum += more) more = bytes[at++] ?? Number.NaN
    return sum
  }
  while (at < bytes.length) {
    const token = bytes[at++]!
    const literals = length(token >> 4)
    // Not true of NaN either: the length was cut off.
    if (!(at + literals <= bytes.length && out.length + literals <= most)) return false
    for (let i = 0; i < literals; i++) out.push(bytes[at++]!)
    if (at === bytes.length) return true
    if (at + 2 > bytes.length) return false
    const distance = bytes[at]! + 256 * bytes[at + 1]!
    at += 2
    const match = length(token & 15) + 4
    if (!(distance > 0 && distance <= out.length - start && out.length + match <= most)) return false
    for (let i = 0; i < match; i++) out.push(out[out.length - distance]!)
  }
  return true
}
