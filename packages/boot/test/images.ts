import { TestMemory } from "@virtkit/testkit"

/** Synthetic kernel images, written from the specifications with constants of their own. */

export const MIB = 1024 * 1024

export function ram(size: number = 16 * MIB, high = 0): TestMemory {
  const regions = [{ guestAddress: 0, size }]
  if (high > 0) regions.push({ guestAddress: 4096 * MIB, size: high })
  return new TestMemory({ regions, shared: true })
}

/** `length` bytes that no two images share. */
export function pattern(length: number, seed: number): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => (index * 7 + seed * 31 + (index >> 8)) & 0xff)
}

export interface BzImageOptions {
  /** Header fields by offset, to be written over the valid ones. */
  readonly fields?: readonly (readonly [offset: number, size: 1 | 2 | 4, value: number])[]
  /** The packed kernel, its size at its end included. */
  readonly payload?: Uint8Array
  readonly prefAddress?: number
  readonly initSize?: number
}

/** Where the protected-mode kernel of {@link bzImage} starts in the file. */
export const BZ_KERNEL_OFFSET = 1024
/** Where the payload starts in that. */
const BZ_PAYLOAD_OFFSET = 0x400

/** A bzImage of boot protocol 2.15 with one setup sector. */
export function bzImage(options: BzImageOptions = {}): Uint8Array {
  const { payload = pattern(3000, 5), prefAddress = 2 * MIB, initSize = 4 * MIB } = options
  const size = Math.ceil((BZ_PAYLOAD_OFFSET + payload.length) / 16) * 16
  const image = new Uint8Array(BZ_KERNEL_OFFSET + size)
  const view = new DataView(image.buffer)
  image.set(pattern(size, 1), BZ_KERNEL_OFFSET)
  image.set(payload, BZ_KERNEL_OFFSET + BZ_PAYLOAD_OFFSET)
  image.fill(0, 0x1f1, 0x280)
  view.setUint8(0x1f1, 1)
  view.setUint32(0x1f4, size / 16, true)
  view.setUint16(0x1fe, 0xaa55, true)
  // A jump over the header, which ends at 0x202 + 0x6a = 0x26c.
  view.setUint16(0x200, 0x6aeb, true)
  image.set(Buffer.from("HdrS"), 0x202)
  view.setUint16(0x206, 0x020f, true)
  view.setUint8(0x211, 0x01)
  view.setUint32(0x22c, 0x7fffffff, true)
  view.setUint32(0x230, 0x200000, true)
  view.setUint8(0x234, 1)
  view.setUint16(0x236, 0x03, true)
  view.setUint32(0x238, 2047, true)
  view.setUint32(0x248, BZ_PAYLOAD_OFFSET, true)
  view.setUint32(0x24c, payload.length, true)
  view.setUint32(0x258, prefAddress, true)
  view.setUint32(0x260, initSize, true)
  for (const [offset, width, value] of options.fields ?? []) {
    if (width === 1) view.setUint8(offset, value)
    else if (width === 2) view.setUint16(offset, value, true)
    else view.setUint32(offset, value, true)
  }
  return image
}

export interface ElfSegment {
  readonly address: number
  readonly virtual?: number
  readonly data: Uint8Array
  /** Default: the data's length. */
  readonly memorySize?: number
}

export interface ElfOptions {
  readonly segments?: readonly ElfSegment[]
  readonly entry?: number
  /** Adds a PT_NOTE segment with it. */
  readonly pvhEntry?: number
  readonly fields?: readonly (readonly [offset: number, size: 1 | 2 | 4, value: number])[]
}

/** File offset of program header `index`: type 0, offset 8, virtual 16, physical 24, file size 32, memory size 40. */
export function programHeader(index: number): number {
  return 64 + index * 56
}

/** An ELF64 executable; its data starts at 4096. */
export function elf(options: ElfOptions = {}): Uint8Array {
  const { segments = [{ address: 2 * MIB, data: pattern(5000, 2), memorySize: 8192 }] } = options
  const note = options.pvhEntry === undefined ? undefined : pvhNotes(options.pvhEntry)
  const parts = [...segments.map(({ data }) => data), ...(note ? [note] : [])]
  const image = new Uint8Array(4096 + parts.reduce((sum, part) => sum + part.length, 0))
  const view = new DataView(image.buffer)
  image.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1])
  view.setUint16(16, 2, true)
  view.setUint16(18, 62, true)
  view.setUint32(20, 1, true)
  view.setBigUint64(24, BigInt(options.entry ?? segments[0]?.address ?? 0), true)
  view.setBigUint64(32, 64n, true)
  view.setUint16(52, 64, true)
  view.setUint16(54, 56, true)
  view.setUint16(56, parts.length, true)
  let offset = 4096
  parts.forEach((part, index) => {
    const at = programHeader(index)
    const segment = segments[index]
    view.setUint32(at, segment ? 1 : 4, true)
    const values = [
      offset,
      segment?.virtual ?? 0,
      segment?.address ?? 0,
      part.length,
      segment?.memorySize ?? part.length,
    ]
    values.forEach((value, word) => {
      view.setBigUint64(at + 8 + word * 8, BigInt(value), true)
    })
    image.set(part, offset)
    offset += part.length
  })
  for (const [at, width, value] of options.fields ?? []) {
    if (width === 1) view.setUint8(at, value)
    else if (width === 2) view.setUint16(at, value, true)
    else view.setUint32(at, value, true)
  }
  return image
}

/** A foreign note first, whose sizes need padding, then Xen's note 18. */
function pvhNotes(entry: number): Uint8Array {
  const bytes = Buffer.alloc(12 + 8 + 4 + 12 + 4 + 8)
  bytes.writeUInt32LE(6, 0)
  bytes.writeUInt32LE(1, 4)
  bytes.writeUInt32LE(7, 8)
  bytes.write("Linux\0", 12)
  bytes.writeUInt32LE(4, 24)
  bytes.writeUInt32LE(8, 28)
  bytes.writeUInt32LE(18, 32)
  bytes.write("Xen\0", 36)
  bytes.writeUInt32LE(entry, 40)
  return bytes
}

export function readBytes(memory: TestMemory, address: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length)
  memory.read(address, bytes)
  return bytes
}

/** Compares at once: the matchers of large arrays go through them element by element. */
export function same(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0
}

/** The error that a promise rejects with; fails the test when it does not. */
export async function rejection(promise: Promise<unknown>): Promise<Error> {
  return promise.then(
    () => {
      throw new Error("it did not reject")
    },
    (error: unknown) => error as Error,
  )
}
