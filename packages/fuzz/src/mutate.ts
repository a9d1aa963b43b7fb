import type { Random } from "./random.js"

/** Where checks tend to be wrong: ends of integers, signs, sizes. */
const INTERESTING = [
  0, 1, 2, 3, 4, 7, 8, 11, 12, 15, 16, 17, 31, 32, 63, 64, 127, 128, 255, 256, 511, 512, 513, 1023, 1024,
  4095, 4096, 4097, 0x7fff, 0x8000, 0xfff0, 0xffff, 0x1_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_fff0,
  0xffff_fffe, 0xffff_ffff,
]
/** Most changes of one step. */
const MOST_CHANGES = 6
/** Longest piece that is inserted, removed or repeated. Bytes. */
const MOST_PIECE = 32

type Change = (bytes: Uint8Array, random: Random, other: Uint8Array) => Uint8Array

/** Each changes a copy in place or returns another; `bytes` is not empty. */
const CHANGES: readonly Change[] = [flipBit, setByte, setByte, addToByte, setNumber, setNumber, addToNumber]
const RESIZING: readonly Change[] = [insert, remove, repeat, splice, move, cutOff]

/** Another input, some changes away from `input`; pieces of `other` may get into it. At most `most` bytes. */
export function mutate(input: Uint8Array, other: Uint8Array, random: Random, most: number): Uint8Array {
  let bytes: Uint8Array = Uint8Array.from(input.subarray(0, most))
  for (let left = 1 + random.below(MOST_CHANGES); left > 0; left--) {
    if (bytes.length === 0) bytes = insert(bytes, random)
    else bytes = random.pick(random.below(3) === 0 ? RESIZING : CHANGES)(bytes, random, other)
  }
  return bytes.length > most ? bytes.slice(0, most) : bytes
}

function flipBit(bytes: Uint8Array, random: Random): Uint8Array {
  bytes[random.below(bytes.length)]! ^= 1 << random.below(8)
  return bytes
}

function setByte(bytes: Uint8Array, random: Random): Uint8Array {
  bytes[random.below(bytes.length)] = random.u32()
  return bytes
}

function addToByte(bytes: Uint8Array, random: Random): Uint8Array {
  bytes[random.below(bytes.length)]! += random.below(17) - 8
  return bytes
}

/** Writes an interesting number of 1, 2, 4 or 8 bytes. */
function setNumber(bytes: Uint8Array, random: Random): Uint8Array {
  const size = 1 << random.below(4)
  const at = random.below(bytes.length - size + 1)
  const value = random.pick(INTERESTING)
  // Of 8 bytes the high half is another number, or all ones, or nothing.
  const high = random.pick([0, 0, 0xffff_ffff, random.pick(INTERESTING)])
  for (let i = 0; i < size && at + i < bytes.length; i++) {
    bytes[at + i] = i < 4 ? value >>> (8 * i) : high >>> (8 * (i - 4))
  }
  return bytes
}

function addToNumber(bytes: Uint8Array, random: Random): Uint8Array {
  const size = random.below(2) === 0 ? 2 : 4
  if (bytes.length < size) return addToByte(bytes, random)
  const at = random.below(bytes.length - size + 1)
  const view = new DataView(bytes.buffer, bytes.byteOffset)
  const change = random.below(65) - 32
  if (size === 2) view.setUint16(at, view.getUint16(at, true) + change, true)
  else view.setUint32(at, view.getUint32(at, true) + change, true)
  return bytes
}

function insert(bytes: Uint8Array, random: Random): Uint8Array {
  const piece = new Uint8Array(1 + random.below(MOST_PIECE))
  const same = random.below(2) === 0 ? random.u32() : undefined
  for (let i = 0; i < piece.length; i++) piece[i] = same ?? random.u32()
  return joined(bytes, random.below(bytes.length + 1), piece, 0)
}

function remove(bytes: Uint8Array, random: Random): Uint8Array {
  const at = random.below(bytes.length)
  return joined(bytes, at, new Uint8Array(0), 1 + random.below(Math.min(MOST_PIECE, bytes.length - at)))
}

function repeat(bytes: Uint8Array, random: Random): Uint8Array {
  const piece = pieceOf(bytes, random)
  return joined(bytes, random.below(bytes.length + 1), piece, 0)
}

/** A piece of another input instead of what is there, or between it. */
function splice(bytes: Uint8Array, random: Random, other: Uint8Array): Uint8Array {
  const piece = pieceOf(other, random)
  const at = random.below(bytes.length + 1)
  return joined(bytes, at, piece, random.below(2) === 0 ? 0 : piece.length)
}

/** Over another place. */
function move(bytes: Uint8Array, random: Random): Uint8Array {
  const piece = pieceOf(bytes, random)
  return joined(bytes, random.below(bytes.length), piece, piece.length)
}

function cutOff(bytes: Uint8Array, random: Random): Uint8Array {
  return bytes.slice(0, random.below(bytes.length + 1))
}

function pieceOf(bytes: Uint8Array, random: Random): Uint8Array {
  const at = random.below(bytes.length)
  return bytes.slice(at, at + 1 + random.below(MOST_PIECE))
}

/** `piece` in the place of `gone` bytes at `at`. */
function joined(bytes: Uint8Array, at: number, piece: Uint8Array, gone: number): Uint8Array {
  const rest = bytes.subarray(Math.min(bytes.length, at + gone))
  const result = new Uint8Array(at + piece.length + rest.length)
  result.set(bytes.subarray(0, at))
  result.set(piece, at)
  result.set(rest, at + piece.length)
  return result
}
