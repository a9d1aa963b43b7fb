/** Small kernel images, written from the formats' descriptions with numbers of their own. */

export const MIB = 0x10_0000

interface Segment {
  readonly type: number
  readonly address: number
  readonly data: Uint8Array
  readonly memorySize: number
}

/** An ELF64 executable with two segments to load and the notes, one foreign and Xen's number 18. */
export function elfImage(): Uint8Array {
  const code = Uint8Array.from({ length: 48 }, (_, i) => i)
  const segments: Segment[] = [
    { type: 1, address: 2 * MIB, data: code, memorySize: 4096 },
    { type: 1, address: 3 * MIB, data: code.subarray(16), memorySize: 32 },
    { type: 4, address: 0, data: notes(2 * MIB + 16), memorySize: 0 },
  ]
  const first = 64 + 56 * segments.length
  const image = new Uint8Array(first + segments.reduce((sum, { data }) => sum + data.length, 0))
  const view = new DataView(image.buffer)
  const put64 = (at: number, value: number) => view.setBigUint64(at, BigInt(value), true)
  image.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1])
  view.setUint16(16, 2, true)
  view.setUint16(18, 62, true)
  view.setUint32(20, 1, true)
  put64(24, 2 * MIB)
  put64(32, 64)
  view.setUint16(52, 64, true)
  view.setUint16(54, 56, true)
  view.setUint16(56, segments.length, true)
  let offset = first
  for (const [index, { type, address, data, memorySize }] of segments.entries()) {
    const at = 64 + 56 * index
    view.setUint32(at, type, true)
    put64(at + 8, offset)
    put64(at + 16, address)
    put64(at + 24, address)
    put64(at + 32, data.length)
    put64(at + 40, memorySize)
    image.set(data, offset)
    offset += data.length
  }
  return image
}

function notes(entry: number): Uint8Array {
  const bytes = new Uint8Array(48)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, 6, true)
  view.setUint32(4, 1, true)
  view.setUint32(8, 7, true)
  bytes.set(new TextEncoder().encode("Linux"), 12)
  view.setUint32(24, 4, true)
  view.setUint32(28, 8, true)
  view.setUint32(32, 18, true)
  bytes.set(new TextEncoder().encode("Xen"), 36)
  view.setUint32(40, entry, true)
  return bytes
}

/** Where the payload of {@link bzImage} starts: behind two sectors and a stub that reaches beyond the entry point. */
const PAYLOAD = 1024 + 0x240

/** A bzImage of boot protocol 2.15 with one setup sector. `payload`: the packed kernel with its size behind it. */
export function bzImage(payload: Uint8Array): Uint8Array {
  const size = Math.ceil((PAYLOAD - 1024 + payload.length) / 16) * 16
  const image = new Uint8Array(1024 + size)
  const view = new DataView(image.buffer)
  view.setUint8(0x1f1, 1)
  view.setUint32(0x1f4, size / 16, true)
  view.setUint16(0x1fe, 0xaa55, true)
  view.setUint16(0x200, 0x6aeb, true)
  image.set(new TextEncoder().encode("HdrS"), 0x202)
  view.setUint16(0x206, 0x020f, true)
  view.setUint8(0x211, 1)
  view.setUint32(0x22c, 0x7fff_ffff, true)
  view.setUint32(0x230, 0x20_0000, true)
  view.setUint8(0x234, 1)
  view.setUint16(0x236, 3, true)
  view.setUint32(0x238, 255, true)
  view.setUint32(0x248, PAYLOAD - 1024, true)
  view.setUint32(0x24c, payload.length, true)
  view.setUint32(0x258, 2 * MIB, true)
  view.setUint32(0x260, MIB, true)
  image.set(payload, PAYLOAD)
  return image
}

/** A legacy LZ4 frame with its size behind it: literals, then a match that repeats the last byte. */
export function lz4Payload(data: Uint8Array): Uint8Array {
  const literals = data.length - 20
  const more = new Array<number>(Math.floor((literals - 15) / 255)).fill(255)
  const lengths = [...more, (literals - 15) % 255]
  // 4 + 15 + 1 bytes are the same as the one before.
  const block = [0xff, ...lengths, ...data.subarray(0, literals), 1, 0, 1, 0x10, data.at(-1)!]
  const bytes = new Uint8Array(8 + block.length + 4)
  const view = new DataView(bytes.buffer)
  view.setUint32(0, 0x184c_2102, true)
  view.setUint32(4, block.length, true)
  bytes.set(block, 8)
  view.setUint32(bytes.length - 4, literals + 20 + 1, true)
  return bytes
}
