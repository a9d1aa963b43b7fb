/** A packer for LZ4 legacy frames, written from the format's description: greedy, one block. */
export function packLz4(data: Uint8Array): Uint8Array {
  const block = packBlock(data)
  const frame = Buffer.alloc(8 + block.length)
  frame.writeUInt32LE(0x184c2102, 0)
  frame.writeUInt32LE(block.length, 4)
  frame.set(block, 8)
  return frame
}

function packBlock(data: Uint8Array): Uint8Array {
  const out: number[] = []
  const seen = new Map<string, number>()
  let anchor = 0
  let at = 0
  // The last match starts 12 bytes before the end at the latest, the last 5 bytes are literals.
  while (at < data.length - 12) {
    const key = data.subarray(at, at + 4).join()
    const match = seen.get(key)
    seen.set(key, at)
    if (match === undefined || at - match > 0xffff) {
      at++
      continue
    }
    let length = 4
    while (at + length < data.length - 5 && data[match + length] === data[at + length]) length++
    sequence(out, data.subarray(anchor, at), at - match, length)
    at += length
    anchor = at
  }
  sequence(out, data.subarray(anchor), 0, 0)
  return Uint8Array.from(out)
}

function sequence(out: number[], literals: Uint8Array, distance: number, length: number): void {
  const match = distance === 0 ? 0 : length - 4
  out.push((Math.min(literals.length, 15) << 4) | Math.min(match, 15))
  extra(out, literals.length)
  out.push(...literals)
  if (distance === 0) return
  out.push(distance & 0xff, distance >> 8)
  extra(out, match)
}

function extra(out: number[], length: number): void {
  if (length < 15) return
  let rest = length - 15
  for (; rest >= 255; rest -= 255) out.push(255)
  out.push(rest)
}
