import { KernelFormatError } from "../errors.js"

/** Magic number of the legacy frame format, the one that kernels are packed in (lz4 doc/lz4_Frame_format.md). */
export const LZ4_LEGACY_MAGIC = 0x184c2102
/** Every block but the last one unpacks to this many bytes. */
const BLOCK_SIZE = 8 * 1024 * 1024
const MIN_MATCH = 4

/**
 * Unpacks a legacy LZ4 frame into `target`, whose length is the expected size. Whatever the input says, nothing outside
 * of the two arrays is touched. Throws {@link KernelFormatError} when the frame is damaged or the size is another one.
 */
export function unpackLz4(source: Uint8Array, target: Uint8Array): void {
  const view = new DataView(source.buffer, source.byteOffset, source.byteLength)
  let written = 0
  let offset = 4
  while (written < target.length) {
    if (offset + 4 > source.length) throw damaged()
    const packed = view.getUint32(offset, true)
    offset += 4
    // Frames may follow each other.
    if (packed === LZ4_LEGACY_MAGIC) continue
    if (packed > source.length - offset) throw damaged()
    const room = Math.min(BLOCK_SIZE, target.length - written)
    written += unpackBlock(source, offset, offset + packed, target, written, written + room)
    offset += packed
  }
}

/** One block (lz4 doc/lz4_Block_format.md) from source[from, to) into target[start, end); returns the bytes written. */
function unpackBlock(
  source: Uint8Array,
  from: number,
  to: number,
  target: Uint8Array,
  start: number,
  end: number,
): number {
  let [input, output] = [from, start]
  while (input < to) {
    const token = source[input++] as number
    let literals = token >> 4
    if (literals === 15) {
      for (let byte = 255; byte === 255; literals += byte) {
        if (input >= to) throw damaged()
        byte = source[input++] as number
      }
    }
    if (literals > to - input || literals > end - output) throw damaged()
    copy(target, output, source, input, literals)
    input += literals
    output += literals
    // The last sequence of a block has no match.
    if (input === to) break

    if (input + 2 > to) throw damaged()
    const distance = (source[input] as number) | ((source[input + 1] as number) << 8)
    input += 2
    let length = token & 0xf
    if (length === 15) {
      for (let byte = 255; byte === 255; length += byte) {
        if (input >= to) throw damaged()
        byte = source[input++] as number
      }
    }
    length += MIN_MATCH
    if (distance === 0 || distance > output - start || length > end - output) throw damaged()
    repeat(target, output, distance, length)
    output += length
  }
  return output - start
}

/** Below this many bytes a loop is faster than a call of the built-in. */
const SHORT = 64

function copy(target: Uint8Array, to: number, source: Uint8Array, from: number, length: number): void {
  if (length > SHORT) target.set(source.subarray(from, from + length), to)
  else for (let i = 0; i < length; i++) target[to + i] = source[from + i] as number
}

/** Copies from `distance` bytes back; source and target may overlap, which repeats a pattern. */
function repeat(target: Uint8Array, to: number, distance: number, length: number): void {
  if (length > SHORT && distance >= length) target.copyWithin(to, to - distance, to - distance + length)
  else for (let i = to; i < to + length; i++) target[i] = target[i - distance] as number
}

function damaged(): KernelFormatError {
  return new KernelFormatError("the kernel's LZ4 payload is damaged")
}
