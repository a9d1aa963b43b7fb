/** What the guest reads: the scratch register of COM1, the MagicValue of the first virtio-mmio transport. */
export const VIRTKIT_TARGETS: { readonly pio: number; readonly mmio: number } = {
  pio: 0x3ff,
  mmio: 0xd000_0000,
}
/** QEMU's microvm has its transports from 0xfeb00000 on and fills them from the last one (0x200 bytes each) down. */
export const QEMU_TARGETS: { readonly pio: number; readonly mmio: number } = {
  pio: 0x3ff,
  mmio: 0xfeb0_0000 + 23 * 0x200,
}

/**
 * A PVH guest of a few instructions that exits `count` times and then crashes on purpose (a triple fault ends it under
 * every VMM). Flat 32-bit code, no stack, no interrupts.
 */
export function exitGuest(kind: "pio" | "mmio", target: number, count: number): Uint8Array {
  const read =
    kind === "pio"
      ? [0x66, 0xba, ...le(target, 2), 0xec] // mov dx, target; in al, dx
      : [0xa1, ...le(target, 4)] //              mov eax, [target]
  const code = [
    0xb9, // mov ecx, count
    ...le(count, 4),
    ...read,
    0x49, // dec ecx
    0x75, // jnz back to the read
    -(read.length + 3) & 0xff,
    ...crash,
  ]
  return pvhElf(Uint8Array.from(code))
}

/** A PVH guest that ends as soon as it starts. */
export function crashGuest(): Uint8Array {
  return pvhElf(Uint8Array.from(crash))
}

/** A PVH guest that halts for ever: interrupts stay off, so nothing wakes it. */
export function idleGuest(): Uint8Array {
  return pvhElf(Uint8Array.of(0xfa, 0xf4, 0xeb, 0xfd)) // cli; hlt; jmp to the hlt
}

const LOAD_ADDRESS = 0x10_0000
/** RAM that is zero: limit and base of an empty interrupt descriptor table. */
const EMPTY_IDT = 0x20_0000
/** lidt of an empty table, ud2: the next fault is the last. */
const crash = [0x0f, 0x01, 0x1d, ...le(EMPTY_IDT, 4), 0x0f, 0x0b]
const HEADERS = 64 + 2 * 56
const XEN_ELFNOTE_PHYS32_ENTRY = 18

/** An ELF64 executable with one loadable segment and the note that says where a PVH boot enters it. */
function pvhElf(code: Uint8Array): Uint8Array {
  const note = [
    ...le(4, 4),
    ...le(4, 4),
    ...le(XEN_ELFNOTE_PHYS32_ENTRY, 4),
    ...Buffer.from("Xen\0"),
    ...le(LOAD_ADDRESS, 4),
  ]
  const noteOffset = HEADERS
  const codeOffset = HEADERS + note.length
  const header = [
    ...[0x7f, 0x45, 0x4c, 0x46, 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ...le(2, 2), // ET_EXEC
    ...le(62, 2), // EM_X86_64
    ...le(1, 4),
    ...le(LOAD_ADDRESS, 8),
    ...le(64, 8), // program headers
    ...le(0, 8),
    ...le(0, 4),
    ...le(64, 2),
    ...le(56, 2),
    ...le(2, 2),
    ...le(0, 2),
    ...le(0, 2),
    ...le(0, 2),
  ]
  const segment = (type: number, flags: number, offset: number, address: number, size: number) => [
    ...le(type, 4),
    ...le(flags, 4),
    ...le(offset, 8),
    ...le(address, 8),
    ...le(address, 8),
    ...le(size, 8),
    ...le(size, 8),
    ...le(4, 8),
  ]
  return Uint8Array.from([
    ...header,
    ...segment(1, 5, codeOffset, LOAD_ADDRESS, code.length),
    ...segment(4, 4, noteOffset, 0, note.length),
    ...note,
    ...code,
  ])
}

/** `value` as `size` bytes, little-endian. */
function le(value: number, size: number): number[] {
  return Array.from({ length: size }, (_, index) => Math.floor(value / 2 ** (8 * index)) & 0xff)
}
