/** The smallest PVH image: `code` at 1 MiB, started in 32-bit protected mode. Without code it is an endless loop. */
export function tinyKernel(code: readonly number[] = [0xeb, 0xfe]): Buffer {
  const image = Buffer.alloc(0x1000)
  image.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1])
  image.writeUInt16LE(2, 16) // ET_EXEC
  image.writeUInt16LE(62, 18) // EM_X86_64
  image.writeUInt32LE(1, 20)
  image.writeBigUInt64LE(0x10_0000n, 24)
  image.writeBigUInt64LE(64n, 32)
  image.writeUInt16LE(64, 52)
  image.writeUInt16LE(56, 54)
  image.writeUInt16LE(2, 56)
  const segment = (at: number, type: number, offset: number, size: number) => {
    image.writeUInt32LE(type, at)
    image.writeUInt32LE(5, at + 4)
    image.writeBigUInt64LE(BigInt(offset), at + 8)
    image.writeBigUInt64LE(0x10_0000n, at + 16)
    image.writeBigUInt64LE(0x10_0000n, at + 24)
    image.writeBigUInt64LE(BigInt(size), at + 32)
    image.writeBigUInt64LE(BigInt(size), at + 40)
  }
  segment(64, 1, 0x300, code.length) // PT_LOAD
  segment(120, 4, 0x200, 20) // PT_NOTE: XEN_ELFNOTE_PHYS32_ENTRY
  image.writeUInt32LE(4, 0x200)
  image.writeUInt32LE(4, 0x204)
  image.writeUInt32LE(18, 0x208)
  image.write("Xen\0", 0x20c, "latin1")
  image.writeUInt32LE(0x10_0000, 0x210)
  image.set(code, 0x300)
  return image
}
