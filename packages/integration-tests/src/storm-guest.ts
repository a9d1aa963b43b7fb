/**
 * A guest that reads and writes at random, 8 to 64 bits wide, within given ranges: 64-bit code that an ELF image without
 * a PVH note is entered with, no stack, no interrupts. Only instructions that a KVM in software has.
 */

/** A range that is accessed: `mask` (a power of two less one, below 2^32) limits the offset. */
export interface StormRange {
  readonly address: number
  readonly mask: number
}

/** A 32-bit word that is put back before every `BURST` accesses, such as a command register. */
export interface StormRepair {
  readonly address: number
  readonly value: number
}

/** Where it counts its accesses: 64 bits. */
export const STORM_COUNTER = 0x30_0000
/** Accesses between two repairs. */
const BURST = 64
const LOAD_ADDRESS = 0x10_0000
const RANGES = 0x20_0000
const REPAIRS = 0x20_1000
/** Page tables: the lowest 512 GiB, one to one, in pages of 2 MiB where something is. */
const PML4 = 0x40_0000
/** Entries of the range table: the upper four bits of a random number choose one. */
const SLOTS = 16

function le(value: number, size: number): number[] {
  return Array.from({ length: size }, (_, index) => Math.floor(value / 2 ** (8 * index)) & 0xff)
}

/** ebx: Marsaglia's xorshift32. */
const nextRandom = [
  ...[0x89, 0xd8, 0xc1, 0xe0, 0x0d, 0x31, 0xc3], // mov eax, ebx; shl eax, 13; xor ebx, eax
  ...[0x89, 0xd8, 0xc1, 0xe8, 0x11, 0x31, 0xc3], // mov eax, ebx; shr eax, 17; xor ebx, eax
  ...[0x89, 0xd8, 0xc1, 0xe0, 0x05, 0x31, 0xc3], // mov eax, ebx; shl eax, 5; xor ebx, eax
]

/** The eight accesses at [rsi]: loads and stores of al, ax, eax and rax. */
const accesses = [
  [0x8a, 0x06],
  [0x66, 0x8b, 0x06],
  [0x8b, 0x06],
  [0x48, 0x8b, 0x06],
  [0x88, 0x06],
  [0x66, 0x89, 0x06],
  [0x89, 0x06],
  [0x48, 0x89, 0x06],
]

function code(seed: number): number[] {
  const repair = [
    ...[0x48, 0xc7, 0xc6, ...le(REPAIRS, 4)], //  mov rsi, REPAIRS
    ...[0x48, 0x8b, 0x3e], //                     mov rdi, [rsi]
    ...[0x48, 0x85, 0xff], //                     test rdi, rdi
    ...[0x74, 0x0b], //                           jz behind the loop
    ...[0x8b, 0x46, 0x08], //                     mov eax, [rsi + 8]
    ...[0x89, 0x07], //                           mov [rdi], eax
    ...[0x48, 0x83, 0xc6, 0x10], //               add rsi, 16
    ...[0xeb, 0xed], //                           jmp to mov rdi, [rsi]
  ]
  const body = [
    ...nextRandom,
    ...[0x89, 0xd9, 0xc1, 0xe9, 0x1c, 0xc1, 0xe1, 0x04], // mov ecx, ebx; shr ecx, 28; shl ecx, 4
    ...[0x48, 0x8b, 0xb1, ...le(RANGES, 4)], //             mov rsi, [rcx + RANGES]
    ...[0x48, 0x8b, 0xb9, ...le(RANGES + 8, 4)], //         mov rdi, [rcx + RANGES + 8]
    ...[0x89, 0xd8, 0x48, 0x21, 0xc7, 0x48, 0x01, 0xfe], // mov eax, ebx; and rdi, rax; add rsi, rdi
    ...nextRandom,
    ...[0x89, 0xd9, 0xc1, 0xe9, 0x18, 0x83, 0xe1, 0x07], // mov ecx, ebx; shr ecx, 24; and ecx, 7
    ...[0x48, 0x89, 0xd8, 0x48, 0xc1, 0xe0, 0x11, 0x48, 0x31, 0xd8], // mov rax, rbx; shl rax, 17; xor rax, rbx
    // cmp ecx, n; jne behind the access
    ...accesses.flatMap((access, index) => [0x83, 0xf9, index, 0x75, access.length, ...access]),
    ...[0x48, 0xff, 0x04, 0x25, ...le(STORM_COUNTER, 4)], // inc qword [STORM_COUNTER]
    ...[0xff, 0xcd], //                                      dec ebp
  ]
  const start = [
    ...[0x48, 0xb8, ...le(PML4, 8), 0x0f, 0x22, 0xd8], // mov rax, PML4; mov cr3, rax
    ...[0xbb, ...le(seed >>> 0, 4)], //                   mov ebx, seed
  ]
  const burst = [
    ...repair,
    ...[0xbd, ...le(BURST, 4)], //                 mov ebp, BURST
    ...body,
    ...[0x0f, 0x85, ...le(-(body.length + 6) >>> 0, 4)], // jnz to body
  ]
  return [...start, ...burst, 0xe9, ...le(-(burst.length + 5) >>> 0, 4)]
}

/** An ELF executable with one segment, which the 64-bit protocol of Linux starts at its entry. */
export function stormImage(seed: number): Uint8Array {
  const text = code(seed)
  const headers = 64 + 56
  return Uint8Array.from([
    ...[0x7f, 0x45, 0x4c, 0x46, 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ...[...le(2, 2), ...le(62, 2), ...le(1, 4), ...le(LOAD_ADDRESS, 8)],
    ...[...le(64, 8), ...le(0, 8), ...le(0, 4)],
    ...[64, 56, 1, 0, 0, 0].flatMap((value) => le(value, 2)),
    ...[...le(1, 4), ...le(5, 4), ...le(headers, 8), ...le(LOAD_ADDRESS, 8), ...le(LOAD_ADDRESS, 8)],
    ...[...le(text.length, 8), ...le(text.length, 8), ...le(16, 8)],
    ...text,
  ])
}

interface GuestWrites {
  writeBigUint64(address: number, value: bigint): void
}

/** What the guest finds in its memory: page tables and lists. `memory` is that of a VM that was not started. */
export function prepareStorm(
  memory: GuestWrites,
  ranges: readonly StormRange[],
  repairs: readonly StormRepair[],
): void {
  for (let slot = 0; slot < SLOTS; slot++) {
    const { address, mask } = ranges[slot % ranges.length]!
    memory.writeBigUint64(RANGES + 16 * slot, BigInt(address))
    memory.writeBigUint64(RANGES + 16 * slot + 8, BigInt(mask))
  }
  for (const [index, { address, value }] of [...repairs, { address: 0, value: 0 }].entries()) {
    memory.writeBigUint64(REPAIRS + 16 * index, BigInt(address))
    memory.writeBigUint64(REPAIRS + 16 * index + 8, BigInt(value >>> 0))
  }
  mapGigabytes(
    memory,
    new Set([0, ...[...ranges, ...repairs].map(({ address }) => Math.floor(address / 2 ** 30))]),
  )
}

function mapGigabytes(memory: GuestWrites, gigabytes: ReadonlySet<number>): void {
  const present = 3n // and writable
  const pointers = PML4 + 0x1000
  memory.writeBigUint64(PML4, BigInt(pointers) | present)
  for (const [index, gigabyte] of [...gigabytes].entries()) {
    const directory = pointers + 0x1000 * (index + 1)
    memory.writeBigUint64(pointers + 8 * gigabyte, BigInt(directory) | present)
    for (let entry = 0; entry < 512; entry++) {
      const page = BigInt(gigabyte * 2 ** 30 + entry * 2 ** 21)
      memory.writeBigUint64(directory + 8 * entry, page | present | 0x80n) // a page of 2 MiB
    }
  }
}
